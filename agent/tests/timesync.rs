//! The `timesync` sensor at a real chrony that keeps no clock and serves nobody, and at a systemd-timesyncd where one keeps the clock.

#![cfg(target_os = "linux")]

mod port;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use veghe_agent::exposition::write_text;
use veghe_agent::schedule::{Settings, once};
use veghe_agent::sensors::linux::settings::HostOptions;
use veghe_agent::sensors::options::Options;
use veghe_agent::sensors::{self, SensorSettings};

struct Chrony(Child);

impl Drop for Chrony {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the sensor tells by metrics that begin with `prefix`, of the chrony that takes questions at `address`.
fn told(address: Option<&str>, prefix: &str) -> String {
    let host = HostOptions { chrony: address.map(str::to_owned), ..HostOptions::default() };
    let settings = SensorSettings {
        enabled: ["timesync".to_owned()].into(),
        disabled: sensors::names().filter(|name| *name != "timesync").map(str::to_owned).collect(),
        options: Options { host, ..Options::default() },
        patience: Duration::from_mins(1),
        ..SensorSettings::default()
    };
    let patient = Settings { deadline: Duration::from_mins(1), ..Settings::default() };
    let mut text = String::new();
    write_text(&once(sensors::all(&settings), &patient), &mut text);
    text.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_real_chrony_tells_what_it_follows_and_one_that_is_away_is_down() {
    let directory = tempfile::tempdir().expect("directory");
    let port = port::free();
    let address = format!("127.0.0.1:{port}");
    let settings = directory.path().join("chrony.conf");
    let own = directory.path().display();
    // Its own clock, as a source of the tenth stratum; `-x` leaves the system's alone.
    let text = format!(
        "cmdport {port}\nport 0\nbindcmdaddress 127.0.0.1\nbindcmdaddress {own}/socket\nlocal stratum 10\npidfile {own}/pid\n"
    );
    fs::write(&settings, text).expect("settings");
    let of_chrony = || told(Some(&address), "chrony_");
    assert_eq!(of_chrony(), "chrony_up 0");
    let mut command = Command::new("/usr/sbin/chronyd");
    command.args(["-U", "-x", "-n", "-f"]).arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
    let chrony = command.spawn().expect("cannot start chronyd; install the Debian package chrony");
    let mut chrony = Chrony(chrony);
    // The bound only ends a test that has failed.
    let ask = |_| {
        let ended = chrony.0.try_wait().expect("chronyd");
        assert!(ended.is_none(), "chronyd ended: {ended:?}");
        thread::sleep(Duration::from_millis(20));
        Some(of_chrony()).filter(|text| text.contains("chrony_up 1"))
    };
    let text = (0..5_000).find_map(ask).expect("chronyd answers");
    for line in [
        "chrony_tracking_stratum 10",
        "chrony_tracking_info{tracking_address=\"\",tracking_refid=\"7F7F0101\"} 1",
        "chrony_tracking_system_time_seconds 0",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
}

/// In the machine of `cargo run -p veghe-tests --bin machine` one runs.
#[test]
fn a_real_timesyncd_tells_when_it_synchronized_last() {
    if !Path::new("/run/systemd/timesync/synchronized").exists() {
        eprintln!("SKIPPED: no systemd-timesyncd keeps this clock");
        return;
    }
    let touched = || {
        let file = fs::metadata("/run/systemd/timesync/synchronized").and_then(|file| file.modified()).expect("time");
        file.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
    };
    let before = touched();
    let text = told(None, "veghe_timesync_");
    let (metric, value) = text.split_once(' ').expect("a value");
    assert_eq!(metric, "veghe_timesync_synchronized_timestamp_seconds");
    let seconds: f64 = value.parse().expect("a number");
    // It may have asked its server once more meanwhile.
    assert!(before <= seconds && seconds <= touched(), "{text}");
    eprintln!("synchronized at {seconds}");
}
