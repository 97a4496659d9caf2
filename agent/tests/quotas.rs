//! The `quotas` sensor at file systems that keep quotas: ext4 and XFS in files, mounted in a name space of mounts of its own.
//!
//! Where the kernel keeps none, or nobody may mount, this says so; how answers are told is tested beside the sensor.

#![cfg(target_os = "linux")]

mod apart;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use veghe_agent::config::Config;
use veghe_agent::reading::Sink;
use veghe_agent::sensors::{self, SensorSettings};

const MIB: f64 = 1_048_576.0;

#[test]
fn a_users_quota_is_told_as_the_kernel_keeps_it() {
    apart::run("a_users_quota_is_told_as_the_kernel_keeps_it", "/dev/loop-control", || {
        for (mkfs, options) in [
            (&["mkfs.ext4", "-q", "-O", "quota", "-E", "quotatype=usrquota:grpquota"][..], "loop,usrquota,grpquota"),
            (&["mkfs.xfs", "-q"], "loop,uquota,gquota"),
        ] {
            inside(mkfs, options);
        }
    });
}

/// `None` where there is no such program.
fn run(program: &str, words: &[&str]) -> Option<Output> {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    Command::new(program).args(words).env("PATH", path).output().ok()
}

fn inside(mkfs: &[&str], options: &str) {
    let [program, words @ ..] = mkfs else { return };
    let work = tempfile::tempdir().expect("directory");
    let (image, place) = (work.path().join("image"), work.path().join("place"));
    let (image, place) = (image.to_str().expect("text"), place.to_str().expect("text"));
    // XFS makes no smaller ones.
    File::create(image).and_then(|file| file.set_len(400 << 20)).expect("image");
    fs::create_dir(place).expect("directory");
    let is_made = run(program, &[words, &[image]].concat()).is_some_and(|output| output.status.success());
    let is_mounted =
        is_made && run("mount", &["-o", options, image, place]).is_some_and(|output| output.status.success());
    if !is_mounted {
        eprintln!("SKIPPED: {program} is missing, or this kernel keeps no quotas of it");
        return;
    }
    let limited = run("setquota", &["-u", "1000", "2048", "4096", "0", "9", place]);
    let Some(limited) = limited else {
        run("umount", &[place]).expect("umount");
        eprintln!("SKIPPED: setquota is missing; install the Debian package quota");
        return;
    };
    assert!(limited.status.success(), "setquota: {}", String::from_utf8_lossy(&limited.stderr));
    let path = Path::new(place).join("scan.tif");
    let mut file = File::create(&path).expect("create");
    chown(&path, Some(1000), Some(1000)).expect("chown");
    file.write_all(&vec![7; 3 << 20]).and_then(|()| file.sync_all()).expect("write");

    let config =
        Config::parse(Path::new("agent.yaml"), "agent: a\nmqtt: mqtts://x\nsensors: {quotas: {enabled: true}}\n");
    let settings = SensorSettings { patience: Duration::from_mins(1), ..config.expect("valid").sensors };
    let mut sensor = sensors::all(&settings).into_iter().find(|sensor| sensor.name() == "quotas").expect("the sensor");
    let mut sink = Sink::default();
    sensor.read(&mut sink).expect("the right to ask");
    let (series, values) = sink.take();
    let value = |metric: &str, labels: &[(&str, &str)]| {
        let mut found = series.0.iter().zip(&values).filter(|(name, _)| {
            let has =
                |(label, value): &(&str, &str)| name.labels().iter().any(|(l, v)| **l == **label && **v == **value);
            name.metric() == metric && has(&("mountpoint", place)) && labels.iter().all(has)
        });
        let only = found.next().map(|(_, value)| *value);
        assert!(found.next().is_none(), "{metric} is there twice");
        only
    };
    let of = |metric: &str| value(&format!("veghe_quota_{metric}"), &[("id", "1000"), ("type", "user")]);
    assert_eq!(of("soft_limit_bytes"), Some(2.0 * MIB), "{series:?}");
    assert_eq!(of("hard_limit_bytes"), Some(4.0 * MIB));
    assert_eq!((of("soft_limit_files"), of("hard_limit_files")), (None, Some(9.0)));
    assert!(of("used_bytes").is_some_and(|bytes| (3.0 * MIB..4.0 * MIB).contains(&bytes)), "{:?}", of("used_bytes"));
    assert_eq!(of("used_files"), Some(1.0));
    // It has more than its soft limit.
    let now = veghe_agent::clock::now_ms() as f64 / 1e3;
    assert!(of("bytes_grace_end_timestamp_seconds").is_some_and(|end| end > now));
    let limited = |kind| value("veghe_quota_limited_ids", &[("type", kind)]);
    assert_eq!((limited("user"), limited("group")), (Some(1.0), Some(0.0)));
    drop(file);
    let output = run("umount", &[place]).expect("umount");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("quotas of {program} were read");
}
