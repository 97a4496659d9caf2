//! A real file system that never answers, and a TCP server that never speaks: every other sensor is on time, round after
//! round.
//!
//! The file system is FUSE's, mounted by hand, and nobody reads the requests. As whatever asks it hangs, it is mounted in a
//! mount name space of its own, where this test runs itself again.

#![cfg(target_os = "linux")]

mod apart;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use veghe_agent::config::Config;
use veghe_agent::reading::{Round, SeriesName};
use veghe_agent::schedule::{Override, Schedule, Settings};
use veghe_agent::sensors::options::Options;
use veghe_agent::sensors::{self, Roots, SensorSettings};

const CYCLES: f64 = 8.0;

#[test]
fn a_stuck_file_system_and_a_silent_server_leave_all_others_on_time() {
    apart::run("a_stuck_file_system_and_a_silent_server_leave_all_others_on_time", "/dev/fuse", hang);
}

fn value(round: &Round, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted = SeriesName::new(metric, labels);
    round.readings.iter().find_map(|reading| {
        let position = reading.series.0.iter().position(|name| *name == wanted)?;
        Some(reading.values[position])
    })
}

fn hang() {
    let directory = tempfile::tempdir().expect("directory");
    let stuck = directory.path().join("stuck");
    fs::create_dir(&stuck).expect("directory");
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    let data = CString::new(data).expect("no zero");
    mount("stuck", &stuck, "fuse.stuck", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str()).expect("mount");
    let server = TcpListener::bind("127.0.0.1:0").expect("socket");
    // Mounts as the sensor sees them: this one, and one that answers.
    let proc = directory.path().join("proc");
    fs::create_dir_all(proc.join("self")).expect("directory");
    let mounts = format!("stuck {} fuse.stuck rw 0 0\nhealthy / ext4 rw 0 0\n", stuck.display());
    fs::write(proc.join("self/mounts"), mounts).expect("write");
    for file in ["meminfo", "loadavg", "stat", "vmstat"] {
        fs::copy(format!("/proc/{file}"), proc.join(file)).expect("copy");
    }
    let address = server.local_addr().expect("address");
    let scrapes =
        format!("[{{job_name: silent, scrape_timeout: 400ms, static_configs: [{{targets: [\"{address}\"]}}]}}]");
    let text = format!("agent: a\nmqtt: mqtts://x\nsensors: {{scrapes: {{scrape_configs: {scrapes}}}}}\n");
    let scrapes = Config::parse(Path::new("agent.yaml"), &text).expect("valid").sensors.options.scrapes;
    let wanted = ["filesystem", "loadavg", "meminfo", "scrapes", "stat", "textfile", "vmstat"];
    let settings = SensorSettings {
        roots: Roots { proc, ..Roots::default() },
        disabled: sensors::names().filter(|name| !wanted.contains(name)).map(str::to_owned).collect(),
        // A directory on the stuck file system: this sensor hangs as a whole.
        options: Options { textfile_directories: vec![stuck.join("metrics")], scrapes, ..Options::default() },
        ..SensorSettings::default()
    };
    let schedule = Settings {
        interval: Duration::from_millis(500),
        deadline: Duration::from_mins(10),
        overrides: BTreeMap::from([(
            "textfile".to_owned(),
            Override { deadline: Some(Duration::from_millis(700)), ..Override::default() },
        )]),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let (running, mut rounds) = Schedule::start(sensors::all(&settings), &schedule, Arc::default());
        // By sensor, the times at which it told something.
        let mut told: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        let (mut cycles, mut last_ms, mut overdue) = (0.0, 0, 0.0);
        while cycles < CYCLES || overdue == 0.0 {
            let round = rounds.recv().await.expect("a round");
            assert!(round.timestamp_ms > last_ms, "times ascend");
            last_ms = round.timestamp_ms;
            for reading in round.readings.iter().filter(|reading| !reading.values.is_empty()) {
                told.entry(reading.sensor).or_default().insert(round.timestamp_ms);
            }
            if let Some(cycle) = value(&round, "veghe_agent_cycles_total", &[]) {
                assert_eq!(cycle, cycles + 1.0, "no cycle is left out");
                cycles = cycle;
            }
            if round.readings.iter().any(|reading| reading.sensor == "filesystem") {
                let labels =
                    |device, fstype, mountpoint| [("device", device), ("fstype", fstype), ("mountpoint", mountpoint)];
                let stuck = labels("stuck", "fuse.stuck", stuck.to_str().expect("text"));
                assert_eq!(value(&round, "node_filesystem_device_error", &stuck), Some(1.0));
                assert_eq!(value(&round, "node_filesystem_size_bytes", &stuck), None);
                let [device, fstype, mountpoint] = stuck;
                let fault = [device, ("fault", "hung"), fstype, mountpoint];
                assert_eq!(value(&round, "veghe_filesystem_fault", &fault), Some(1.0));
                let healthy = labels("healthy", "ext4", "/");
                assert_eq!(value(&round, "node_filesystem_device_error", &healthy), Some(0.0));
                assert!(value(&round, "node_filesystem_size_bytes", &healthy).is_some_and(|bytes| bytes > 0.0));
            }
            if let Some(up) = value(&round, "up", &[("job", "silent")]) {
                assert_eq!(up, 0.0);
            }
            let late = value(&round, "veghe_sensor_deadline_exceeded_total", &[("sensor", "textfile")]);
            overdue = late.unwrap_or(overdue);
        }
        let count = |sensor: &str| told.get(sensor).map_or(0, BTreeSet::len) as f64;
        for sensor in ["loadavg", "meminfo", "stat", "vmstat", "filesystem"] {
            // One answer may still be on its way.
            assert!(count(sensor) >= cycles - 1.0, "{sensor} told {} times in {cycles} cycles", count(sensor));
        }
        assert!(count("scrapes") >= 1.0, "the silent server is told to be down");
        assert_eq!(count("textfile"), 0.0, "who asks the stuck file system hangs");
        // Whoever hangs is let go, or this program would not end.
        drop(fuse);
        running.stop().await;
    });
    unmount(&stuck, UnmountFlags::DETACH).expect("unmount");
}

#[test]
fn a_file_system_that_the_kernel_made_read_only_is_told_as_such() {
    apart::run("a_file_system_that_the_kernel_made_read_only_is_told_as_such", "/dev/loop-control", break_down);
}

fn break_down() {
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let directory = tempfile::tempdir().expect("directory");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (image, place) = (directory.path().join("image"), directory.path().join("place"));
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("image");
    fs::create_dir(&place).expect("directory");
    run("/sbin/mkfs.ext4", &["-q", &text(&image)]);
    let mount = || {
        run("mount", &["-o", "loop,errors=remount-ro", &text(&image), &text(&place)]);
        let device = run("findmnt", &["-no", "SOURCE", &text(&place)]);
        let name = Path::new(&device).file_name().expect("a name").to_str().expect("text").to_owned();
        Path::new("/sys/fs/ext4").join(name)
    };
    let ext4 = mount();
    // What the first process sees is another name space.
    let proc = directory.path().join("proc");
    fs::create_dir(&proc).expect("directory");
    for entry in fs::read_dir("/proc").expect("/proc").map(|entry| entry.expect("entry")) {
        let seen = if entry.file_name() == "1" { "/proc/self".into() } else { entry.path() };
        std::os::unix::fs::symlink(seen, proc.join(entry.file_name())).expect("link");
    }
    let settings = SensorSettings { roots: Roots { proc, ..Roots::default() }, ..SensorSettings::default() };
    let mut sensor =
        sensors::all(&settings).into_iter().find(|sensor| sensor.name() == "filesystem").expect("the sensor");
    let mut sink = veghe_agent::reading::Sink::default();
    // What is wrong, and how many errors are recorded.
    let mut told = || {
        sensor.read(&mut sink).expect("mounts");
        let (series, values) = sink.take();
        let of_ours = |name: &SeriesName| name.labels().iter().any(|(_, value)| **value == *text(&place));
        let (mut faults, mut errors) = (Vec::new(), None);
        for (name, value) in series.0.iter().zip(values).filter(|(name, _)| of_ours(name)) {
            match name.metric() {
                "veghe_filesystem_fault" => {
                    let fault = name.labels().iter().find(|(name, _)| &**name == "fault").expect("the label");
                    faults.push(fault.1.to_string());
                }
                "veghe_filesystem_recorded_errors" => errors = Some(value),
                _ => {}
            }
        }
        (faults, errors.expect("ext4 counts"))
    };
    assert_eq!(told(), (vec![], 0.0));
    fs::write(ext4.join("trigger_fs_error"), "1").expect("an error in ext4");
    // A worker of the kernel counts it.
    let recorded = |file: &str| {
        let text = fs::read_to_string(ext4.join(file)).expect("ext4 counts");
        text.trim().parse::<u64>().expect("a number")
    };
    for _ in 0..6000 {
        if recorded("errors_count") > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::write(place.join("file"), "text").is_err(), "it can still be written to");
    let (faults, errors) = told();
    assert_eq!(faults, ["read_only"]);
    assert!(errors >= 1.0);
    // The kernel tells the time of an error in whole seconds.
    let probe = directory.path().join("probe");
    let last = loop {
        fs::write(&probe, "").expect("write");
        let now = fs::metadata(&probe).and_then(|probe| probe.modified()).expect("its time");
        let now = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let last = recorded("last_error_time");
        if now > last + 1 {
            break last;
        }
        thread::sleep(Duration::from_millis(100));
    };
    run("umount", &[&text(&place)]);
    let ext4 = mount();
    let kept = fs::read_to_string(ext4.join("last_error_time")).expect("ext4 counts");
    assert_eq!(kept.trim(), last.to_string(), "mounting is no error");
    fs::write(place.join("file"), "text").expect("it is written to again");
    let (faults, errors) = told();
    assert_eq!(faults, [""; 0], "an error of an earlier mount");
    assert!(errors >= 1.0, "nobody repaired it");
    run("umount", &[&text(&place)]);
    Command::new("/sbin/fsck.ext4").args(["-fy", &text(&image)]).output().expect("fsck.ext4");
    mount();
    assert_eq!(told(), (vec![], 0.0), "it is repaired");
    run("umount", &[&text(&place)]);
}
