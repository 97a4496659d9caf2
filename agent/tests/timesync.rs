//! The `timesync` sensor at a real chrony that keeps no clock and serves nobody.

#![cfg(target_os = "linux")]

mod port;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

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

/// What the sensor tells of the chrony that takes questions at `address`.
fn told(address: &str) -> String {
    let host = HostOptions { chrony: Some(address.to_owned()), ..HostOptions::default() };
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
    text.lines().filter(|line| line.starts_with("chrony_")).collect::<Vec<_>>().join("\n")
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
    assert_eq!(told(&address), "chrony_up 0");
    let mut command = Command::new("/usr/sbin/chronyd");
    command.args(["-U", "-x", "-n", "-f"]).arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
    let chrony = command.spawn().expect("cannot start chronyd; install the Debian package chrony");
    let mut chrony = Chrony(chrony);
    // The bound only ends a test that has failed.
    let ask = |_| {
        let ended = chrony.0.try_wait().expect("chronyd");
        assert!(ended.is_none(), "chronyd ended: {ended:?}");
        thread::sleep(Duration::from_millis(20));
        Some(told(&address)).filter(|text| text.contains("chrony_up 1"))
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
