//! Scanners are found by mDNS: Debian's `avahi-daemon` announces one, by multicast, in a network of its own.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::mount_bind;
use veghe_agent::config::Config;
use veghe_agent::discovery;
use veghe_agent::reading::Sink;
use veghe_agent::sensors;

/// Set inside of that network.
const INSIDE: &str = "VEGHE_TEST_OWN_NETWORK";
const NAME: &str = "a_scanner_that_announces_itself_is_watched_and_proposed";

#[test]
fn a_scanner_that_announces_itself_is_watched_and_proposed() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !rustix::process::getuid().is_root() {
        // A hidden pass would be a lie: this line is in the output of the test command.
        eprintln!("SKIPPED: a network of its own takes the right to make one");
        return;
    }
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private"]).arg(own).env(INSIDE, "1");
    let output = command.args(["--exact", NAME, "--nocapture"]).output().expect("unshare of util-linux");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
}

/// Ends with the test: as long as it runs, whoever waits for the end of what the test says would wait.
struct Avahi(Child);

impl Drop for Avahi {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Avahi {
    fn assert_runs(&mut self) {
        let ended = self.0.try_wait().expect("avahi-daemon");
        assert!(ended.is_none(), "avahi-daemon ended: {ended:?}");
    }
}

fn inside() {
    let work = tempfile::tempdir().expect("directory");
    for words in [
        "link set lo up",
        "link add veth-a type veth peer name veth-b",
        "addr add 10.9.9.1/24 dev veth-a",
        "link set veth-a up",
        "link set veth-b up",
        "route add 224.0.0.0/4 dev veth-a",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status().expect("ip of iproute2");
        assert!(status.success(), "ip {words}");
    }
    let services = work.path().join("services");
    fs::create_dir(&services).expect("directory");
    let service = "<?xml version=\"1.0\"?><!DOCTYPE service-group SYSTEM \"avahi-service.dtd\"><service-group><name>Scanner A3</name><service><type>_uscan._tcp</type><port>8080</port><txt-record>rs=eSCL</txt-record></service></service-group>";
    fs::write(services.join("scanner.service"), service).expect("write");
    mount_bind(&services, "/etc/avahi/services").expect("mount over /etc/avahi/services");
    let settings = work.path().join("avahi.conf");
    let text = "[server]\nhost-name=scan-a3\nuse-ipv6=no\nenable-dbus=no\nallow-interfaces=veth-a\n";
    fs::write(&settings, text).expect("write");
    let mut command = Command::new("/usr/sbin/avahi-daemon");
    command.args(["--no-drop-root", "--no-chroot", "--no-rlimits", "-f"]).arg(&settings);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut avahi = Avahi(command.spawn().expect("avahi-daemon: see tests/run for what it needs"));
    let mut log = BufReader::new(avahi.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while !(line.contains("Scanner A3") && line.contains("successfully established")) {
        line.clear();
        assert!(log.read_line(&mut line).expect("log") > 0, "avahi-daemon ended");
    }
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));

    // A look takes answers for two seconds, in which a busy machine may give none.
    let look = |_| {
        avahi.assert_runs();
        let found = discovery::look(&discovery::Settings { scanners: true, ..discovery::Settings::default() }).found;
        found.into_iter().find(|finding| finding.kind == "escl_scanner")
    };
    let scanner = (0..30).find_map(look).expect("a proposal");
    assert_eq!(scanner.name, "http://10.9.9.1:8080/eSCL");
    assert!(scanner.detail.contains("scan-a3.local"), "{scanner:?}");
    let text = format!("agent: a\nmqtt: mqtts://x\n{}", scanner.settings);
    let proposed = Config::parse(Path::new("agent.yaml"), &text).expect("the proposal is good settings");
    assert_eq!(proposed.sensors.options.escl.targets[0].url.as_str(), scanner.name);

    let text = "agent: a\nmqtt: mqtts://x\nsensors: {escl: {discover: true}}\n";
    let config = Config::parse(Path::new("agent.yaml"), text).expect("valid");
    let sensor = || sensors::all(&config.sensors).into_iter().find(|sensor| sensor.name() == "escl").expect("it");
    let (mut own, mut sink) = (sensor(), Sink::default());
    let read = |round: u32| {
        // It looks at once and then only after minutes.
        if round.is_multiple_of(100) {
            own = sensor();
        }
        std::thread::sleep(Duration::from_millis(50));
        avahi.assert_runs();
        own.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let position = series.0.iter().position(|name| name.metric() == "escl_up")?;
        Some((series.0[position].clone(), values[position]))
    };
    let told = (1..3000).find_map(read).expect("the scanner");
    let label = |name: &str| told.0.labels().iter().find(|(own, _)| **own == *name).map(|(_, value)| value.to_string());
    assert_eq!(label("instance").as_deref(), Some("10.9.9.1:8080"));
    assert_eq!(label("host").as_deref(), Some("scan-a3.local"));
    assert_eq!(told.1, 0.0, "nobody listens there");
}
