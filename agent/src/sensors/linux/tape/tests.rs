//! Pages of a drive of LTO-10 (IBM ULT3580-TDA) whose values its owner published as `sg_logs -a` told them, put into bytes
//! again as SSC-4 has them; that they are is what Debian's `sg_logs` says, which decodes the same bytes.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::process::Command;

use veghe_wire::catalogue;

use super::super::script::write_program;
use super::*;
use crate::sensors::SensorSettings;

type Parameters<'a> = &'a [(u16, &'a [u8])];

fn bytes(code: u8, parameters: Parameters<'_>) -> Vec<u8> {
    let parameter = |(number, value): &(u16, &[u8])| {
        [&number.to_be_bytes(), &[0x43, u8::try_from(value.len()).expect("short")], *value].concat()
    };
    let body: Vec<u8> = parameters.iter().flat_map(parameter).collect();
    [&[code, 0], &u16::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
}

/// Mounted, and asking to be cleaned soon; or as the drive was: without a tape.
const MOUNTED_STATUS: [u8; 4] = [0b0011_0101, 0b0010_1111, 0, 1];
const EMPTY_STATUS: [u8; 4] = [0b0001_0001, 0b0010_0000, 0, 1];

fn drive(status: [u8; 4]) -> Vec<(u8, Vec<u8>)> {
    let counter = |count: u64| count.to_be_bytes();
    let errors = [0, 0, 0, 7, 0, 0, 0].map(counter);
    let errors: Vec<(u16, &[u8])> = (0..).zip(errors.iter().map(|bytes| &bytes[..])).collect();
    let partition = |number: u8, megabytes: [u8; 6]| [&[9, 0, 0, number][..], &megabytes].concat();
    let of_partitions = |first: u32, second: u32| {
        let six = |count: u32| [[0; 2].as_slice(), &count.to_be_bytes()].concat().try_into().expect("six bytes");
        [partition(0, six(first)), partition(1, six(second))].concat()
    };
    let unknown = [partition(0, [0xff; 6]), partition(1, [0xff; 6])].concat();
    vec![
        (WRITE_ERRORS, bytes(WRITE_ERRORS, &errors)),
        (READ_ERRORS, bytes(READ_ERRORS, &[(3, &[2]), (6, &[0, 1])])),
        (TEMPERATURE, bytes(TEMPERATURE, &[(0, &[0, 38]), (1, &[0, 0xff])])),
        (STATUS, bytes(STATUS, &[(0, &status), (1, &[0, 0, 1, 0xf4])])),
        // Flags 4, 20 and 40.
        (ALERTS, bytes(ALERTS, &[(0, &[0b0001_0000, 0, 0b0001_0000, 0, 1, 0, 0, 0])])),
        (
            DEVICE,
            bytes(
                DEVICE,
                &[
                    (0, &counter(95)),
                    (1, &counter(1)),
                    (2, &3921_u32.to_be_bytes()),
                    (3, &5_u32.to_be_bytes()),
                    (4, &counter(87_631)),
                    (8, &2_u32.to_be_bytes()),
                    (0xc, &counter(10)),
                    (0xe, &counter(0)),
                    (0xf, &[0xff; 8]),
                    (0x81, &[0]),
                    (0x1000, &[0, 0, 0x62, 0xa8, 0, 0, 0, 4]),
                ],
            ),
        ),
        (
            VOLUME,
            bytes(
                VOLUME,
                &[
                    (0, &[1]),
                    (1, &11_u32.to_be_bytes()),
                    (3, &4_u32.to_be_bytes()),
                    (4, &[0; 4]),
                    (8, &[0; 4]),
                    (9, &[0; 4]),
                    (0x10, &counter(1_811_222)),
                    (0x11, &counter(558)),
                    (0x16, &27_966_101_u32.to_be_bytes()),
                    (0x17, &1_418_152_u32.to_be_bytes()),
                    (0x18, &[1, 0xba, 0x81, 0x40]),
                    (0x40, b"T5KVFD2NT4                      "),
                    (0x42, b"IBM015LA"),
                    (0x43, b"IBM     "),
                    (0x45, b"LTOLA62  "),
                    (0x80, &[0]),
                    (0x81, &[0]),
                    (0x200, &unknown),
                    (0x204, &of_partitions(127_074, 26_439_429)),
                ],
            ),
        ),
        (
            CAPACITY,
            bytes(
                CAPACITY,
                &[(1, &121_187_u32.to_be_bytes()), (2, &[0x01, 0x80, 0xbf, 0x0c]), (3, &[0, 1, 0xd9, 0x8d])],
            ),
        ),
    ]
}

fn told(pages: &[(u8, Vec<u8>)]) -> Vec<String> {
    let mut series = Vec::new();
    describe("st0", pages, &mut series);
    let line = |(name, value): &(SeriesName, f64)| {
        let metric = catalogue::lookup(name.metric()).unwrap_or_else(|| panic!("{}", name.metric()));
        let labels: Vec<&str> = name.labels().iter().map(|(label, _)| &**label).collect();
        assert_eq!(metric.labels, labels, "{}", name.metric());
        let values: Vec<&str> = name.labels().iter().map(|(_, value)| &**value).collect();
        format!("{} {} {value}", name.metric().trim_start_matches("veghe_tape_"), values.join(" "))
    };
    series.iter().map(line).collect()
}

/// What Debian's `sg_logs` says of `page`, by what it calls it.
fn theirs(page: &[u8]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("page");
    fs::write(&file, page).expect("page");
    let asked = Command::new("sg_logs").args(["--raw", "--pdt=1"]).arg(format!("--in={}", file.display())).output();
    let output = asked.expect("sg_logs of Debian's sg3-utils");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let pair =
        |line: &str| line.split_once([':', '=']).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

#[test]
fn a_drive_with_a_tape_tells_what_debian_s_sg_logs_tells_of_the_same_bytes() {
    let pages = drive(MOUNTED_STATUS);
    let expected = [
        "errors st0 read corrected 2",
        "errors st0 read uncorrected 1",
        "errors st0 write corrected 7",
        "errors st0 write uncorrected 0",
        "loads_total st0 95",
        "cleanings_total st0 1",
        "power_on_seconds_total st0 14115600",
        "motion_seconds_total st0 18000",
        "processed_meters_total st0 87631",
        "motion_since_cleaning_seconds st0 7200",
        "power_cycles_total st0 10",
        "hard_errors_total st0 write 0",
        "overheated st0 0",
        "volume_loads st0 11",
        "volume_retries st0 write 4",
        "volume_retries st0 read 0",
        "volume_errors st0 write 0",
        "volume_errors st0 read 0",
        "volume_written_bytes st0 1811222000000",
        "volume_read_bytes st0 558000000",
        "volume_capacity_bytes st0 27966101000000",
        "volume_used_bytes st0 1418152000000",
        "volume_write_protected st0 0",
        "volume_write_once st0 0",
        "temperature_celsius st0 38",
        "cleaning_needed st0 requested 1",
        "cleaning_needed st0 required 0",
        "mounted st0 1",
        "alerts st0 3",
        "alert st0 4 Media critical 1",
        "alert st0 20 Cleaning required critical 1",
        "alert st0 40  unknown 1",
        "volume_remaining_bytes st0 26566503000000",
        "volume_info IBM015LA st0 IBM LTOLA62 T5KVFD2NT4 1",
    ];
    assert_eq!(told(&pages), expected);
    let said = |code: u8| theirs(&pages.iter().find(|(page, _)| *page == code).expect("a page").1);
    for (code, name, value) in [
        (READ_ERRORS, "Total errors corrected", "2"),
        (READ_ERRORS, "Total uncorrected errors", "1"),
        (WRITE_ERRORS, "Total errors corrected", "7"),
        (WRITE_ERRORS, "Total uncorrected errors", "0"),
        (TEMPERATURE, "Current temperature", "38 C"),
        (STATUS, "PAMR", "0 HUI=0 MACC=1 CMPR=1 WRTP=0 CRQST=1 CRQRD=0 DINIT=1"),
        (STATUS, "INXTN", "0 RAA=1 MPRSNT=0 MSTD=1 MTHRD=1 MOUNTED=1"),
        (ALERTS, "Flag01h", "0  02h: 0  03h: 0  04h: 1  05h: 0  06h: 0  07h: 0  08h: 0"),
        (ALERTS, "Flag11h", "0  12h: 0  13h: 0  14h: 1  15h: 0  16h: 0  17h: 0  18h: 0"),
        (ALERTS, "Flag21h", "0  22h: 0  23h: 0  24h: 0  25h: 0  26h: 0  27h: 0  28h: 1"),
        (DEVICE, "Lifetime media loads", "95"),
        (DEVICE, "Lifetime cleaning operations", "1"),
        (DEVICE, "Lifetime power on hours", "3921"),
        (DEVICE, "Lifetime media motion (head) hours", "5"),
        (DEVICE, "Lifetime metres of tape processed", "87631"),
        (DEVICE, "Media motion (head) hours since last successful cleaning operation", "2"),
        (DEVICE, "Lifetime power cycles", "10"),
        (DEVICE, "Hard write errors", "0"),
        (DEVICE, "Maximum recommended mechanism temperature exceeded", "0"),
        (VOLUME, "Thread count", "11"),
        (VOLUME, "Total write retries", "4"),
        (VOLUME, "Total read retries", "0"),
        (VOLUME, "Total unrecovered write errors", "0"),
        (VOLUME, "Total unrecovered read errors", "0"),
        (VOLUME, "Lifetime megabytes written", "1811222"),
        (VOLUME, "Lifetime megabytes read", "558"),
        (VOLUME, "Total native capacity [MB]", "27966101"),
        (VOLUME, "Total used native capacity [MB]", "1418152"),
        (VOLUME, "Volume serial number", "T5KVFD2NT4"),
        (VOLUME, "Volume barcode", "IBM015LA"),
        (VOLUME, "Write protect", "0"),
        (VOLUME, "WORM", "0"),
        // Of the last partition: the text has both under one name.
        (VOLUME, "partition number", "1, partition record data counter: 26439429"),
        (CAPACITY, "Main partition remaining capacity (in MiB)", "121187"),
        (CAPACITY, "Alternate partition remaining capacity (in MiB)", "25214732"),
    ] {
        assert_eq!(said(code).get(name).map(String::as_str), Some(value), "{name} of page {code:#x}");
    }
}

/// The names of all flags, beside those that `sg_logs` has for the page that clears them.
#[test]
fn flags_have_the_names_that_sg_logs_gives_them() {
    let flags: Vec<(u16, &[u8])> = (1..=64).map(|number| (number, &[1][..])).collect();
    let theirs: BTreeMap<String, String> =
        theirs(&bytes(0x2e, &flags)).into_iter().filter(|(_, set)| set == "1").collect();
    let named = (1..=64).map(|number| alerts::flag(number).0).filter(|name| !name.is_empty());
    let known: Vec<&String> =
        theirs.keys().filter(|name| !name.starts_with("Obsolete") && !name.starts_with("Reserved")).collect();
    let mut ours: Vec<&str> = named.collect();
    ours.sort_unstable();
    assert_eq!(ours, known);
    assert_eq!(alerts::flag(0).1, alerts::Severity::Unknown);
    assert_eq!(alerts::flag(61).1, alerts::Severity::Unknown);
}

#[test]
fn a_drive_without_a_tape_does_not_tell_of_the_last_one() {
    let lines = told(&drive(EMPTY_STATUS));
    assert!(lines.contains(&"mounted st0 0".to_owned()) && lines.contains(&"loads_total st0 95".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("volume_")), "{lines:#?}");
    // A drive of before SSC-4 has the tape's rest in a page of LTO's.
    let mut old = drive(MOUNTED_STATUS);
    old.retain(|(page, _)| *page != VOLUME);
    assert!(told(&old).contains(&format!("volume_remaining_bytes st0 {}", (121_187_u64 + 25_214_732) << 20)));
}

#[test]
fn drives_are_asked_through_their_generic_device_for_pages_that_clear_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let at = |path: &str| directory.path().join(path);
    for (drive, generic) in [("st0", "sg3"), ("nst0", "sg3"), ("st1", "sg4")] {
        fs::create_dir_all(at(&format!("scsi/{drive}/scsi_generic/{generic}"))).expect("device");
        fs::create_dir_all(at(&format!("sys/class/scsi_tape/{drive}"))).expect("class");
        symlink(at(&format!("scsi/{drive}")), at(&format!("sys/class/scsi_tape/{drive}/device"))).expect("link");
    }
    let pages = drive(MOUNTED_STATUS);
    let mut codes: Vec<u8> = pages.iter().map(|(code, _)| *code).collect();
    // It also has the page that clears flags, and others that are not asked for.
    codes.extend([0x2e, 0x30, 0x3e]);
    let list = [&[0, 0, 0, u8::try_from(codes.len()).expect("few")], &codes[..]].concat();
    for (code, page) in pages.iter().chain([&(0, list)]) {
        fs::write(at(&format!("page-{code:#04x}")), page).expect("page");
    }
    // `sg4` has gone.
    let script =
        "#!/bin/sh\necho \"$@\" >>DIR/asked\ncase $5 in /dev/sg3) ;; *) exit 15 ;; esac\ncat DIR/page-${4#--page=}\n";
    let program = at("sg_logs");
    write_program(&program, &script.replace("DIR", &directory.path().to_string_lossy()));
    let mut settings = SensorSettings { patience: Duration::from_mins(1), ..SensorSettings::default() };
    settings.roots.sys = at("sys");
    settings.options.host.tapes.program = Some(program);
    let mut sink = Sink::default();
    Tape::new(&settings).read(&mut sink).expect("never fails");
    let (series, values) = sink.take();
    assert_eq!(values.len(), told(&pages).len());
    assert!(series.0.iter().all(|name| name.labels().contains(&("device".into(), "st0".into()))));
    let asked = fs::read_to_string(at("asked")).expect("log");
    let wanted: Vec<String> = [0].iter().chain(&PAGES).map(|page| format!("--page={page:#04x}")).collect();
    let of_first: Vec<String> =
        wanted.iter().map(|page| format!("--readonly --no_inq --raw {page} /dev/sg3")).collect();
    let of_second = format!("--readonly --no_inq --raw {} /dev/sg4", wanted[0]);
    assert_eq!(asked.lines().collect::<Vec<_>>(), [of_first, vec![of_second]].concat());
}

#[test]
fn a_page_that_is_cut_off_or_another_tells_nothing() {
    for (code, page) in drive(MOUNTED_STATUS) {
        for end in 0..page.len() {
            assert_eq!(Page::parse(code, &page[..end]), None, "{code:#x} {end}");
        }
        assert_eq!(Page::parse(code + 1, &page), None);
    }
    // A parameter that says that it is longer than its page.
    assert_eq!(Page::parse(1, &[1, 0, 0, 5, 0, 1, 0, 2, 9]), Some(Page::default()));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_described(mut page in proptest::collection::vec(proptest::num::u8::ANY, 4..80), code in 0..PAGES.len()) {
        let length = u8::try_from(page.len() - 4).expect("short");
        page[..4].copy_from_slice(&[PAGES[code], 0, 0, length]);
        let mut series = Vec::new();
        describe("st0", &[(PAGES[code], page.clone()), (STATUS, bytes(STATUS, &[(0, &MOUNTED_STATUS)]))], &mut series);
        page.truncate(9);
        describe("st0", &[(PAGES[code], page)], &mut series);
    }
}
