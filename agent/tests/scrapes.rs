//! Scrapes by TLS with client certificates, logins and relabelling, against Debian's `prometheus-node-exporter`.

#![cfg(target_os = "linux")]

mod authority;
mod port;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use veghe_agent::config::Config;
use veghe_agent::reading::Sink;
use veghe_agent::sensors;

const PROGRAM: &str = "prometheus-node-exporter";
/// bcrypt of `scrape-secret`.
const HASH: &str = "$2b$04$vegheagentscrapestest.j7yGBRZ0e..eyhoUOd3yr.qQhJfjBx2";

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn exporter(dir: &Path) -> (Exporter, String) {
    let port = port::free();
    let address = format!("127.0.0.1:{port}");
    let web = dir.join("web.yml");
    let text = format!(
        "tls_server_config: {{cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}}\nbasic_auth_users: {{veghe: \"{HASH}\"}}\n"
    );
    fs::write(&web, text).expect("write");
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--web.listen-address={address}")).arg(format!("--web.config.file={}", web.display()));
    command.args(["--collector.disable-defaults", "--collector.loadavg", "--collector.uname"]);
    let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut exporter = Exporter(started.unwrap_or_else(|error| panic!("cannot start {PROGRAM}: {error}")));
    let mut log = BufReader::new(exporter.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("TLS is enabled") {
        line.clear();
        assert!(log.read_line(&mut line).expect("log") > 0, "{PROGRAM} ended");
    }
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (exporter, address)
}

/// Name, labels and value of each series of one scrape of a job with these settings.
fn scrape(settings: &str) -> Vec<(String, String, f64)> {
    let text = format!(
        "agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\nsensors:\n  scrapes:\n    scrape_configs: [{settings}]\n"
    );
    let config = Config::parse(Path::new("agent.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let mut sensor = sensors::all(&config.sensors).into_iter().find(|sensor| sensor.name() == "scrapes").expect("it");
    let mut sink = Sink::default();
    sensor.read(&mut sink).expect("never fails");
    let (series, values) = sink.take();
    let told = series.0.iter().zip(values).map(|(name, value)| {
        let labels = name.labels().iter().map(|(name, value)| format!("{name}={value}"));
        (name.metric().to_owned(), labels.collect::<Vec<_>>().join(","), value)
    });
    told.collect()
}

fn value(told: &[(String, String, f64)], metric: &str) -> Option<f64> {
    told.iter().find(|(name, ..)| name == metric).map(|(.., value)| *value)
}

#[test]
fn an_exporter_behind_tls_a_client_certificate_and_a_login_is_scraped_and_relabelled() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    authority::write(dir);
    let (_exporter, address) = exporter(dir);
    let in_dir = |name: &str| dir.join(name).display().to_string();
    fs::write(dir.join("password"), "scrape-secret\n").expect("write");
    fs::write(dir.join("wrong"), "guess").expect("write");
    let job = |tls: &str, password: &str, more: &str| {
        let password = in_dir(password);
        format!(
            "{{job_name: node2, scheme: https, scrape_timeout: 1m, basic_auth: {{username: veghe, password_file: {password}}}, tls_config: {{{tls}}}, {more} static_configs: [{{targets: [\"{address}\"]}}]}}"
        )
    };
    let client = format!("cert_file: {}, key_file: {}", in_dir("client.crt"), in_dir("client.key"));
    let ca = format!("ca_file: {}, {client}", in_dir("ca.crt"));
    let rules = "metric_relabel_configs: [
        {source_labels: [__name__], regex: node_.*, action: keep},
        {source_labels: [machine, sysname], separator: /, regex: (.+)/(.+), target_label: system, replacement: $2-$1},
        {regex: domainname|nodename|release|version|machine|sysname, action: labeldrop}],";
    let told = scrape(&job(&ca, "password", rules));
    assert_eq!(value(&told, "up"), Some(1.0), "{told:?}");
    assert!(value(&told, "node_load1").is_some(), "{told:?}");
    let uname = told.iter().find(|(name, ..)| name == "node_uname_info").expect("node_uname_info");
    assert_eq!(uname.1, format!("job=node2,system=Linux-{}", std::env::consts::ARCH));
    let foreign = told.iter().find(|(name, ..)| name.starts_with("go_") || name.starts_with("process_"));
    assert_eq!(foreign, None);
    let kept = told.iter().filter(|(name, ..)| name.starts_with("node_")).count();
    assert_eq!(value(&told, "scrape_samples_post_metric_relabeling"), Some(kept as f64));
    assert!(value(&told, "scrape_samples_scraped") > Some(kept as f64), "{told:?}");

    let named = |name: &str| format!("{ca}, server_name: {name}");
    let anybody = format!("insecure_skip_verify: true, {client}");
    let other = format!("ca_file: {}, {client}", in_dir("other.crt"));
    let unsigned = format!("ca_file: {}", in_dir("ca.crt"));
    for (tls, password, up) in [
        (named("server.cjtimis.ro"), "password", 1.0),
        (anybody, "password", 1.0),
        (named("elsewhere.cjtimis.ro"), "password", 0.0),
        (other, "password", 0.0),
        (unsigned, "password", 0.0),
        // By the system's CAs.
        (client.clone(), "password", 0.0),
        (ca.clone(), "wrong", 0.0),
        (ca.clone(), "missing", 0.0),
    ] {
        assert_eq!(value(&scrape(&job(&tls, password, "")), "up"), Some(up), "{tls}, {password}");
    }
}
