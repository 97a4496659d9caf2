//! Devices by SNMP: Debian's `snmpd`, `snmpsim` with recorded walks, and a server that says nothing.

#![cfg(target_os = "linux")]

mod port;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use veghe_agent::config::Config;
use veghe_agent::exposition::write_text;
use veghe_agent::reading::{Reading, Round, SeriesName, Sink};
use veghe_agent::schedule::{Schedule, Settings};
use veghe_agent::sensors::{self, Sensor, SensorError};

/// A server that ends with the test, and where it will listen.
struct Server {
    process: Child,
    addresses: Vec<SocketAddrV4>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Server {
    fn assert_runs(&mut self) {
        let ended = self.process.try_wait().expect("the server");
        assert!(ended.is_none(), "the server ended: {ended:?}");
    }

    /// Nobody is asked before: a program that is still starting answers with a refusal, as fast as it is asked.
    fn wait_until_it_listens(&mut self) {
        loop {
            let sockets = fs::read_to_string("/proc/net/udp").expect("the sockets");
            // The address as a number of this machine's byte order, as the kernel prints it.
            let is_bound = |address: &SocketAddrV4| {
                let number = u32::from_ne_bytes(address.ip().octets());
                sockets.contains(&format!(" {number:08X}:{:04X} ", address.port()))
            };
            if self.addresses.iter().all(is_bound) {
                return;
            }
            self.assert_runs();
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The sensor `snmp` with these settings.
fn sensor(settings: &str) -> Box<dyn Sensor> {
    let text = format!("agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\nsensors:\n  snmp:\n{settings}");
    let config = Config::parse(Path::new("agent.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    sensors::all(&config.sensors).into_iter().find(|sensor| sensor.name() == "snmp").expect("the sensor")
}

fn read(sensor: &mut dyn Sensor, sink: &mut Sink) -> Vec<(SeriesName, f64)> {
    sensor.read(sink).expect("never fails");
    let (series, values) = sink.take();
    series.0.iter().cloned().zip(values).collect()
}

fn label<'a>(series: &'a SeriesName, name: &str) -> Option<&'a str> {
    series.labels().iter().find(|(label, _)| **label == *name).map(|(_, value)| &**value)
}

fn values<'a>(told: &'a [(SeriesName, f64)], metric: &str) -> impl Iterator<Item = (&'a SeriesName, f64)> {
    told.iter().filter(move |(series, _)| series.metric() == metric).map(|(series, value)| (series, *value))
}

fn are_all_up(told: &[(SeriesName, f64)]) -> bool {
    values(told, "up").all(|(_, value)| value == 1.0)
}

/// Reads until every target answers, which a server needs a moment for once it listens.
fn read_until_up(sensor: &mut dyn Sensor, sink: &mut Sink, server: &mut Server) -> Vec<(SeriesName, f64)> {
    server.wait_until_it_listens();
    let mut told = Vec::new();
    for _ in 0..100 {
        told = read(sensor, sink);
        if are_all_up(&told) {
            return told;
        }
        server.assert_runs();
    }
    panic!("a target never answered: {told:?}");
}

/// `snmpsim` with the recorded walks, on several addresses of the loopback.
fn snmpsim(port: u16, work: &Path, users: &[[&str; 5]]) -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("../tests/python/venv/bin/snmpsim-command-responder"));
    command.arg("--data-dir").arg(root.join("tests/fixtures/snmp")).arg("--cache-dir").arg(work);
    command.args(["--logging-method", "null"]);
    if rustix::process::geteuid().is_root() {
        // It asks whom to become; another user might not read the programs of this one.
        command.args(["--process-user", "root", "--process-group", "root"]);
    }
    // It passes over an address in silence whose port another socket holds.
    let addresses: Vec<_> = (1..=4).map(|host| SocketAddrV4::new([127, 0, 0, host].into(), port)).collect();
    for address in &addresses {
        command.arg(format!("--agent-udpv4-endpoint={address}"));
    }
    for [user, auth, auth_key, privacy, privacy_key] in users {
        command.args(["--v3-user", user, "--v3-auth-proto", auth, "--v3-auth-key", auth_key]);
        command.args(["--v3-priv-proto", privacy, "--v3-priv-key", privacy_key]);
    }
    command.env("HOME", work).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Server { process: command.spawn().expect("snmpsim: see tests/run for what it needs"), addresses }
}

fn secret(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("{content}\n")).expect("write");
    path
}

#[test]
fn recorded_devices_are_told_as_snmp_exporter_tells_them() {
    let work = tempfile::tempdir().expect("directory");
    let port = port::free();
    let devices = [
        ("mfp", "[system, if_mib, printer_mib, hrDevice, pwg_counters]"),
        ("synology", "[system, synology]"),
        ("qnap", "[qnap]"),
        ("ups", "[ups_mib, entity_sensor, own]"),
    ];
    let (mut auths, mut targets) = (Vec::new(), Vec::new());
    for (index, (name, modules)) in devices.iter().enumerate() {
        let file = secret(work.path(), name, name);
        auths.push(format!("      {name}: {{version: 2, community_file: {}}}\n", file.display()));
        // One address for all; loopback has many.
        targets.push(format!(
            "      - {{address: \"127.0.0.{}:{port}\", auth: {name}, modules: {modules}, labels: {{device: {name}}}}}\n",
            index + 1
        ));
    }
    let (auths, targets) = (auths.concat(), targets.concat());
    let own = "        metrics:
          - {name: roomTemperature, oid: 1.3.6.1.2.1.99.1.1.1.4, scale: 0.1, indexes: [{labelname: probe}],
             lookups: [{labels: [probe], labelname: probeName, oid: 1.3.6.1.2.1.47.1.1.1.1.7, drop_source_indexes: true}]}\n";
    let settings = format!("    auths:\n{auths}    modules:\n      own:\n{own}    targets:\n{targets}");
    let mut server = snmpsim(port, work.path(), &[]);
    let (mut sensor, mut sink) = (sensor(&settings), Sink::default());
    let told = read_until_up(&mut *sensor, &mut sink, &mut server);
    let (series, values): (Vec<_>, Vec<_>) = told
        .into_iter()
        .filter(|(series, _)| {
            !series.metric().contains("duration") && !series.metric().starts_with("snmp_scrape_packets")
        })
        .unzip();
    let reading =
        Reading { sensor: "snmp", series: Arc::new(veghe_agent::reading::SeriesSet(series)), values, ended: None };
    let mut text = String::new();
    write_text(&Round { timestamp_ms: 0, readings: vec![reading] }, &mut text);
    let text = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("recorded_devices", text.replace(&format!(":{port}"), ":PORT"));
}

#[test]
fn every_protocol_of_version_3_is_spoken() {
    let work = tempfile::tempdir().expect("directory");
    let port = port::free();
    // Names of snmpsim, then ours.
    let users = [
        ["u1", "SHA", "authkey1", "AES", "privkey1"],
        ["u2", "SHA224", "authkey2", "AES", "privkey2"],
        ["u3", "SHA256", "authkey3", "AES192BLMT", "privkey3"],
        ["u4", "SHA384", "authkey4", "AES256BLMT", "privkey4"],
        ["u5", "SHA512", "authkey5", "AES256", "privkey5"],
        ["u6", "SHA", "authkey6", "AES192", "privkey6"],
        ["u7", "SHA", "authkey7", "AES256BLMT", "privkey7"],
    ];
    let mut server = snmpsim(port, work.path(), &users);
    let (mut auths, mut targets) = (Vec::new(), Vec::new());
    for [user, auth, auth_key, privacy, privacy_key] in users {
        let privacy = match privacy {
            "AES" => "AES".to_owned(),
            privacy => privacy.strip_suffix("BLMT").map_or(format!("{privacy}C"), str::to_owned),
        };
        let (auth_file, privacy_file) =
            (secret(work.path(), auth_key, auth_key), secret(work.path(), privacy_key, privacy_key));
        auths.push(format!(
            "      {user}: {{version: 3, username: {user}, context_name: ups, auth_protocol: {auth}, auth_password_file: {}, priv_protocol: {privacy}, priv_password_file: {}}}\n",
            auth_file.display(),
            privacy_file.display(),
        ));
        targets.push(format!(
            "      - {{address: \"127.0.0.1:{port}\", auth: {user}, modules: [ups_mib], labels: {{user: {user}}}}}\n"
        ));
    }
    let (auths, targets) = (auths.concat(), targets.concat());
    let (mut sensor, mut sink) = (sensor(&format!("    auths:\n{auths}    targets:\n{targets}")), Sink::default());
    let told = read_until_up(&mut *sensor, &mut sink, &mut server);
    let minutes: Vec<_> = values(&told, "upsEstimatedMinutesRemaining").map(|(_, value)| value).collect();
    assert_eq!(minutes, [22.0; 7]);
}

/// Debian's `snmpd` as anybody, with state of its own.
fn snmpd(port: u16, work: &Path) -> Server {
    let settings = work.join("snmpd.conf");
    let text = format!(
        "agentAddress udp:127.0.0.1:{port}\nrocommunity judet-2026 127.0.0.1\ncreateUser veghe SHA-256 authpass-2026 AES privpass-2026\nrouser veghe authpriv\nsysName proba\nsysLocation Sala 3\n"
    );
    fs::write(&settings, text).expect("write");
    let mut command = Command::new("/usr/sbin/snmpd");
    command.args(["-f", "-Ln", "-C", "-c"]).arg(&settings).env("SNMP_PERSISTENT_DIR", work.join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let addresses = vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)];
    Server { process: command.spawn().expect("snmpd"), addresses }
}

#[test]
fn net_snmp_answers_in_both_versions_and_after_it_started_anew() {
    let work = tempfile::tempdir().expect("directory");
    let port = port::free();
    let path = |name: &str, content: &str| secret(work.path(), name, content).display().to_string();
    let settings = format!(
        "    auths:
      two: {{version: 2, community_file: {}}}
      three: {{version: 3, username: veghe, auth_protocol: SHA256, auth_password_file: {}, priv_password_file: {}}}
      wrong: {{version: 3, username: veghe, auth_password_file: {}, priv_password_file: {}}}
    targets:
      - {{address: \"127.0.0.1:{port}\", auth: two, modules: [system, if_mib, hrSystem, hrStorage, ucd_memory], labels: {{version: two}}}}
      - {{address: \"127.0.0.1:{port}\", auth: three, modules: [system, if_mib], labels: {{version: three}}}}
",
        path("community", "judet-2026"),
        path("auth", "authpass-2026"),
        path("priv", "privpass-2026"),
        path("other", "otherpass-2026"),
        path("priv", "privpass-2026"),
    );
    let mut server = snmpd(port, work.path());
    let (mut both, mut sink) = (sensor(&settings), Sink::default());
    let told = read_until_up(&mut *both, &mut sink, &mut server);
    for version in ["two", "three"] {
        let of = |metric| values(&told, metric).find(|(series, _)| label(series, "version") == Some(version));
        assert_eq!(of("sysName").and_then(|(series, _)| label(series, "sysName")), Some("proba"));
        let (loopback, _) = values(&told, "ifHCInOctets")
            .find(|(series, _)| label(series, "version") == Some(version) && label(series, "ifDescr") == Some("lo"))
            .expect("the loopback");
        assert_eq!(label(loopback, "ifName"), Some("lo"));
        assert_eq!(label(loopback, "instance"), Some(format!("127.0.0.1:{port}").as_str()));
        assert!(of("snmp_scrape_pdus_returned").expect("a count").1 > 5.0);
    }
    let memory = values(&told, "hrMemorySize").next().expect("memory").1;
    let proc = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let total: f64 = proc.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    assert_eq!(memory, total);

    // Its boots are one more now, and its time begins anew: the session has to learn that by a signed report.
    drop(server);
    let down = read(&mut *both, &mut sink);
    assert!(values(&down, "up").all(|(_, value)| value == 0.0), "{down:?}");
    let mut server = snmpd(port, work.path());
    read_until_up(&mut *both, &mut sink, &mut server);

    let one = settings.split("    targets:").next().unwrap_or_default();
    let refused =
        format!("{one}    targets:\n      - {{address: \"127.0.0.1:{port}\", auth: wrong, modules: [system]}}\n");
    let told = read(&mut *sensor(&refused), &mut Sink::default());
    assert_eq!(values(&told, "up").map(|(_, value)| value).collect::<Vec<_>>(), [0.0]);
    assert_eq!(values(&told, "sysName").count(), 0);
}

/// Counts its rounds.
struct Steady(f64);

impl Sensor for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.0 += 1.0;
        sink.put("steady_total", &[], self.0);
        Ok(())
    }
}

#[tokio::test]
async fn a_silent_device_leaves_every_other_sensor_on_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let settings = format!("    targets: [{{address: \"{address}\", modules: [if_mib], timeout: 1h}}]\n");
    let interval = Duration::from_millis(200);
    let schedule = Settings { interval, deadline: interval * 2, ..Settings::default() };
    let all: Vec<Box<dyn Sensor>> = vec![sensor(&settings), Box::new(Steady(0.0))];
    let (schedule, mut rounds) = Schedule::start(all, &schedule, Arc::default());
    let (mut steady, mut exceeded) = (0.0, 0.0);
    while steady < 6.0 || exceeded < 1.0 {
        let round = rounds.recv().await.expect("a round");
        let all = round.readings.iter().flat_map(|reading| reading.series.0.iter().zip(&reading.values));
        for (series, value) in all {
            if series.metric() == "steady_total" {
                assert_eq!(*value, steady + 1.0, "no round is lost");
                steady = *value;
            } else if series.metric() == "veghe_sensor_deadline_exceeded_total"
                && label(series, "sensor") == Some("snmp")
            {
                exceeded = *value;
            }
        }
    }
    schedule.stop().await;
    // It was asked.
    assert!(silent.recv(&mut [0; 1500]).expect("a question") > 20);
}
