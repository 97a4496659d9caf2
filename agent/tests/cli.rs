//! The program as scripts and people meet it: what it prints, and its exit status.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_veghe-agent")).args(arguments).output().expect("the program")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn check_config_prints_what_is_in_force_and_that_is_good_settings_itself() {
    let dir = tempfile::tempdir().expect("directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("agent.yaml"), "agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\ninterval: 30s\n").expect("write");
    let first = agent(&["check-config", &path("agent.yaml")]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let told = text(&first.stdout);
    for line in ["agent: scan-1", "mqtt: mqtts://veghe.cjtimis.ro:8883", "interval: 30s", "  max_size: 512MiB"] {
        assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
    }
    fs::write(path("effective.yaml"), told).expect("write");
    let second = agent(&["check-config", &path("effective.yaml")]);
    assert_eq!(text(&second.stdout), told);
}

#[test]
fn the_example_with_devices_is_good_settings_and_stays_so_when_it_is_shown() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/agent-devices.yaml");
    let first = agent(&["check-config", example]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let dir = tempfile::tempdir().expect("directory");
    let effective = dir.path().join("effective.yaml");
    fs::write(&effective, &first.stdout).expect("write");
    let second = agent(&["check-config", &effective.display().to_string()]);
    assert_eq!(text(&second.stdout), text(&first.stdout), "{}", text(&second.stderr));
    for name in ["snmp", "escl", "nut", "statsd", "mqtt_json"] {
        assert!(text(&first.stdout).contains(&format!("\n  {name}: {{enabled: true")), "{name}");
    }
}

#[test]
fn check_config_tells_every_problem_on_stderr_with_file_and_line_and_exits_with_64() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("agent.yaml").display().to_string();
    fs::write(&path, "agent: scan-1\nmqtt: nowhere\ninterval: 15\n").expect("write");
    let output = agent(&["check-config", &path]);
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""), "{told}");
    for place in [format!("{path}:2"), format!("{path}:3")] {
        assert!(told.contains(&place), "{place} is not in\n{told}");
    }
    let missing = agent(&["check-config", &dir.path().join("none").display().to_string()]);
    assert_eq!(missing.status.code(), Some(64));
    assert!(text(&missing.stderr).contains("none"), "{}", text(&missing.stderr));
}

#[test]
fn a_completion_script_is_one_that_the_shell_takes_and_knows_every_command() {
    let output = agent(&["completion", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    let script = text(&output.stdout);
    for command in ["run", "join", "once", "sensors", "check-config", "completion"] {
        assert!(script.contains(command), "{command}");
    }
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("veghe-agent");
    fs::write(&path, script).expect("write");
    let bash = Command::new("bash")
        .arg("-c")
        .arg(concat!(
            r#"source "$1" && complete=$(complete -p veghe-agent) && complete=${complete#*-F } && complete=${complete%% *}"#,
            r#" && COMP_WORDS=(veghe-agent che) COMP_CWORD=1 && $complete veghe-agent che veghe-agent"#,
            r#" && echo "${COMPREPLY[@]}""#
        ))
        .arg("bash")
        .arg(&path)
        .output()
        .expect("bash");
    assert_eq!(text(&bash.stdout).trim(), "check-config", "{}", text(&bash.stderr));
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    for arguments in [&["frobnicate"][..], &["join"], &["completion", "dos"], &[]] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let help = agent(&["--help"]);
    assert_eq!((help.status.code(), text(&help.stderr)), (Some(0), ""));
    assert!(text(&help.stdout).contains("check-config"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_veghe-agent"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    drop(child.stdout.take());
    let mut told = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
    assert_eq!((child.wait().expect("end").code(), told.as_str()), (Some(0), ""));
}

#[test]
fn inspect_tells_of_every_file_below_a_directory_and_counts_them() {
    let dir = tempfile::tempdir().expect("directory");
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("unit")).expect("directory");
    // A grey page of 16 x 16 pixels at 300 ppi, as far as its headers go.
    let page = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\x01\x01\x2c\x01\x2c\0\0\xff\xc0\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0\xff\xda\0\x02\0\xff\xd9";
    fs::write(path("unit/1.jpg"), page).expect("write");
    fs::write(path("unit/2.jpg"), &page[..page.len() - 2]).expect("write");
    fs::write(path("unit/notes.txt"), "no image").expect("write");
    let folder = path("unit").display().to_string();
    let table = agent(&["inspect", &folder]);
    assert_eq!(table.status.code(), Some(0), "{}", text(&table.stderr));
    let expected = format!(
        "{folder}/1.jpg  jpeg, 1 image, 16 x 16 px, 300 ppi, 8 bit x 1, jpeg, complete\n\
         {folder}/2.jpg  jpeg, 1 image, 16 x 16 px, 300 ppi, 8 bit x 1, jpeg, TRUNCATED\n\
         {folder}/notes.txt  not a TIFF, JPEG, JPEG 2000 or PDF file\n\
         3 files, 2 images, 1 truncated, 1 without an image\n"
    );
    assert_eq!(text(&table.stdout), expected);
    let json = agent(&["inspect", "--json", &folder]);
    let lines: Vec<serde_json::Value> =
        text(&json.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["complete"], &lines[1]["complete"]), (&true.into(), &false.into()));
    assert_eq!(lines[0]["images"][0]["ppi"][0], 300.0);
    assert_eq!(lines[2]["error"], "not a TIFF, JPEG, JPEG 2000 or PDF file");
    let missing = agent(&["inspect", &path("none").display().to_string()]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("none"), "{}", text(&missing.stderr));
}

#[test]
fn the_example_of_a_digitization_is_good_settings_and_what_is_printed_of_it_is_the_same() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/agent-digitization.yaml");
    let first = agent(&["check-config", example]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let told = text(&first.stdout);
    for part in [
        "hot_folders:",
        "template: \"{unit}/{batch}/{station}/...\"",
        "encoding: windows-1250",
        "copies: masters, exclude:",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("effective.yaml").display().to_string();
    fs::write(&path, told).expect("write");
    let second = agent(&["check-config", &path]);
    assert_eq!(text(&second.stdout), told, "{}", text(&second.stderr));
}

#[test]
fn problems_of_a_digitizations_settings_name_line_key_and_remedy() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("agent.yaml").display().to_string();
    let settings = "agent: scan-1
mqtt: mqtts://veghe.cjtimis.ro
digitization:
  hot_folders:
    - {name: a b, path: scans, template: \"{batch}/...\", watch: inotify}
    - {name: x, path: /x, template: \"{unit}/{unti}/...\", setle: 5s}
  csv:
    - {name: c, files: /c/*.csv, columns: {unit: Cod, pages: P}, time_zone: Lugoj}
  deliveries:
    - {name: d, path: /d, template: \"{unit}/...\"}
fixity:
  storages: [{name: n, path: /n, pace: 5}]
";
    fs::write(&path, settings).expect("write");
    let output = agent(&["check-config", &path]);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    for problem in [
        "hot_folders[0].name: `a b` is not a short name",
        "hot_folders[0].path: `scans` is no absolute path",
        "hot_folders[0].template: `{batch}/...` names no {unit}",
        "hot_folders[0].watch: `inotify` is none of auto, scan",
        "hot_folders[1].template: has the field {unti}",
        "hot_folders[1].setle",
        "csv[0].time_zone: `Lugoj` is no time zone",
        "csv[0].columns: `pages` is no field of image.captured",
        "csv[0].columns: lacks `frames`",
        "deliveries[0].template: ends with `...`",
        "fixity.storages[0].pace",
    ] {
        assert!(told.contains(problem), "{problem} is not in\n{told}");
    }
    assert!(told.contains(&format!("{path}:5")) && told.contains(&format!("{path}:12")), "{told}");
}

#[test]
fn fixity_finds_one_bit_names_the_file_and_says_so_by_its_exit_status() {
    let dir = tempfile::tempdir().expect("directory");
    let masters = dir.path().join("masters");
    fs::create_dir_all(masters.join("CJT-1")).expect("folder");
    for number in 0..5 {
        fs::write(masters.join(format!("CJT-1/{number}.tif")), vec![number; 300_000]).expect("write");
    }
    let (masters, database) = (masters.display().to_string(), dir.path().join("fixity.db").display().to_string());
    let verify = || agent(&["fixity", "verify", &masters, "--database", &database]);
    for pass in 1..=2 {
        let output = verify();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(
            text(&output.stdout).starts_with(&format!("pass {pass} finished: 5 objects")),
            "{}",
            text(&output.stdout)
        );
    }
    let path = format!("{masters}/CJT-1/3.tif");
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("time");
    let mut content = fs::read(&path).expect("read");
    content[222_222] ^= 1;
    fs::write(&path, content).expect("write");
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("time");
    let output = verify();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("mismatch  damaged  CJT-1/3.tif  expected "), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("1 of 5 objects are not as they were"), "{}", text(&output.stderr));
    let report = agent(&["fixity", "report", "--database", &database]);
    assert!(text(&report.stdout).contains("CJT-1/3.tif"), "{}", text(&report.stdout));
    let accepted = agent(&["fixity", "accept", &path, "--database", &database]);
    assert_eq!(accepted.status.code(), Some(0), "{}", text(&accepted.stderr));
    assert_eq!(verify().status.code(), Some(0));
}
