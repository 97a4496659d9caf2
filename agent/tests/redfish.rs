//! Management controllers by Redfish: `sushy-emulator` with TLS and a password, and a server with what that lacks.

#![cfg(target_os = "linux")]

mod authority;
mod port;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use veghe_agent::config::Config;
use veghe_agent::reading::Sink;
use veghe_agent::sensors::{self, Sensor, SensorSettings};

const SYSTEM: &str = "da69abcc-dae0-4913-9a7b-d344043097c0";
const CHASSIS: &str = "48295861-2522-3561-6729-621118518810";
/// bcrypt of `geheim`.
const HASH: &str = "$2b$04$vegheagentredfishtest.JeDr8/rIpC/ReZabZRuTJPcjchM4wNW";

struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn emulator(dir: &Path, port: u16) -> Emulator {
    let in_dir = |name: &str| dir.join(name).display().to_string();
    fs::create_dir(dir.join("state")).expect("directory");
    fs::write(dir.join("users"), format!("veghe:{HASH}\n")).expect("write");
    let settings = format!(
        "SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_STATE_DIR = '{}'
SUSHY_EMULATOR_SSL_CERT = '{}'
SUSHY_EMULATOR_SSL_KEY = '{}'
SUSHY_EMULATOR_AUTH_FILE = '{}'
SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{SYSTEM}', 'name': 'srv-1', 'power_state': 'Off', 'nics': []}}]
SUSHY_EMULATOR_CHASSIS = [{{'Id': 'c1', 'Name': 'Chassis', 'UUID': '{CHASSIS}'}}]
SUSHY_EMULATOR_STORAGE = {{'{SYSTEM}': [{{'Id': '1', 'Name': 'L', 'StorageControllers': [], 'Drives': ['D7']}}]}}
SUSHY_EMULATOR_DRIVES = {{('{SYSTEM}', '1'): [{{'Id': 'D7', 'Name': 'Drive 7', 'CapacityBytes': 899527000000, 'Protocol': 'SAS'}}]}}
",
        in_dir("state"),
        in_dir("server.crt"),
        in_dir("server.key"),
        in_dir("users"),
    );
    fs::write(dir.join("sushy.conf"), settings).expect("write");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/venv/bin/sushy-emulator");
    let mut command = Command::new(program);
    command.arg("--config").arg(dir.join("sushy.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    Emulator(command.spawn().expect("sushy-emulator: see tests/run for what it needs"))
}

fn sensor(target: &str, state_dir: &Path) -> Box<dyn Sensor> {
    let text = format!(
        "agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\nsensors:\n  redfish: {{targets: [{{{target}, timeout: 1m}}]}}\n"
    );
    let config = Config::parse(Path::new("agent.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let settings = SensorSettings { state_dir: Some(state_dir.to_owned()), ..config.sensors };
    sensors::all(&settings).into_iter().find(|sensor| sensor.name() == "redfish").expect("the sensor")
}

type Labels = Vec<(String, String)>;

struct Told(Vec<(String, Labels, f64)>);

impl Told {
    /// One round; every series is in the catalogue.
    fn read(sensor: &mut dyn Sensor) -> Self {
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let told = series.0.iter().zip(values).map(|(name, value)| {
            let metric = veghe_wire::catalogue::lookup(name.metric());
            let metric = metric.unwrap_or_else(|| panic!("{} is not in the catalogue", name.metric()));
            let labels: Vec<_> =
                name.labels().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let mut own =
                labels.iter().map(|(name, _)| name.as_str()).filter(|name| !matches!(*name, "instance" | "job"));
            assert!(own.all(|name| metric.labels.contains(&name)), "{name:?}");
            (name.metric().to_owned(), labels, value)
        });
        Self(told.collect())
    }

    fn value(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |own: &[(String, String)]| {
            labels.iter().all(|(name, value)| own.iter().any(|(label, is)| label == name && is == value))
        };
        let found = self.0.iter().find(|(name, own, _)| name.trim_start_matches("redfish_") == metric && has(own));
        found.map(|(.., value)| *value)
    }
}

#[test]
fn a_controller_is_asked_by_tls_with_a_password_and_its_certificate_is_pinned() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    authority::write(dir);
    fs::write(dir.join("password"), "geheim\n").expect("write");
    fs::write(dir.join("wrong"), "guess\n").expect("write");
    let port = port::free();
    let mut emulator = emulator(dir, port);
    let target = |password: &str, ca: &str| {
        let password = dir.join(password).display().to_string();
        format!("url: \"https://127.0.0.1:{port}\", username: veghe, password_file: {password}{ca}")
    };
    let mut good = sensor(&target("password", ""), dir);
    // The bound only ends a test that has failed.
    let ask = |_| {
        assert!(emulator.0.try_wait().expect("the emulator").is_none(), "the emulator ended");
        thread::sleep(std::time::Duration::from_millis(50));
        Some(Told::read(&mut *good)).filter(|told| told.value("up", &[]) == Some(1.0))
    };
    let told = (0..2_000).find_map(ask).expect("the emulator answers");
    assert_eq!(fs::read_dir(dir.join("pins")).expect("pins").count(), 1);
    let chassis = ("chassis_id", CHASSIS);
    assert_eq!(told.value("chassis_health", &[chassis, ("resource", "chassis")]), Some(1.0));
    let model = [chassis, ("manufacturer", "Contoso"), ("model", "3500RX"), ("part_number", "224071-J23")];
    assert_eq!(told.value("chassis_model_info", &model), Some(1.0));
    let intake = [chassis, ("sensor", "Chassis Intake Temp"), ("resource", "temperature")];
    assert_eq!(told.value("chassis_temperature_celsius", &intake), Some(25.0));
    let fan = told.0.iter().find(|(name, ..)| name == "redfish_chassis_fan_rpm").expect("a fan");
    assert!(fan.1.contains(&("fan_unit".to_owned(), "rpm".to_owned())) && fan.2 > 0.0, "{fan:?}");
    let system = ("system_id", SYSTEM);
    assert_eq!(told.value("system_health_state", &[system]), Some(1.0));
    assert_eq!(told.value("system_power_state", &[system]), Some(2.0), "it is off");
    let drive = [system, ("drive", "Drive 7"), ("drive_id", "D7")];
    assert_eq!(told.value("system_storage_drive_capacity", &drive), Some(899_527_000_000.0));
    assert_eq!(told.value("system_storage_drive_health_state", &drive), Some(1.0));
    let ca = |name: &str| format!(", ca_file: {}", dir.join(name).display());
    for (password, ca, up) in
        [("password", ca("ca.crt"), 1.0), ("password", ca("other.crt"), 0.0), ("wrong", ca("ca.crt"), 0.0)]
    {
        let told = Told::read(&mut *sensor(&target(password, &ca), dir));
        assert_eq!(told.value("up", &[]), Some(up), "{password}{ca}");
    }
}

/// What a server of another make says, one connection for all of it; nothing at all is at the link `Thermal`.
const PAGES: [(&str, &str); 5] = [
    ("/redfish/v1/", r#"{"Chassis": {"@odata.id": "/redfish/v1/Chassis"}}"#),
    ("/redfish/v1/Chassis", r#"{"Members": [{"@odata.id": "/redfish/v1/Chassis/1"}]}"#),
    (
        "/redfish/v1/Chassis/1",
        r#"{"Id": "1", "Status": {"State": "Enabled", "Health": "Warning"}, "Power": {"@odata.id": "/redfish/v1/Chassis/1/Power"}, "Thermal": {"@odata.id": "/redfish/v1/Chassis/1/Thermal"}}"#,
    ),
    (
        "/redfish/v1/Chassis/1/Power",
        r#"{"PowerControl": [{"MemberId": "0", "Name": "Server Power Control", "PowerMetrics": {"AverageConsumedWatts": 412.5}}], "PowerSupplies": [{"MemberId": "0", "Name": "PSU 1", "PowerCapacityWatts": 800, "PowerInputWatts": 230, "PowerOutputWatts": null, "Status": {"State": "Enabled", "Health": "OK"}}, {"MemberId": "1", "Name": "PSU 2", "Status": {"State": "UnavailableOffline", "Health": "Critical"}}]}"#,
    ),
    ("/redfish/v1/Systems", "{}"),
];

#[test]
fn power_is_told_over_one_connection_and_what_leads_nowhere_is_no_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            serve(&stream);
        }
    });
    let dir = tempfile::tempdir().expect("directory");
    let mut sensor = sensor(&format!("url: \"http://127.0.0.1:{port}\""), dir.path());
    for round in 1..=2 {
        let told = Told::read(&mut *sensor);
        assert_eq!(told.value("up", &[]), Some(1.0));
        assert_eq!(connections.load(Ordering::SeqCst), round, "one connection a round");
        let of = |metric: &str, psu: &str| {
            told.value(&format!("chassis_power_powersupply_{metric}"), &[("power_supply", psu)])
        };
        assert_eq!(["PSU 1", "PSU 2"].map(|psu| of("health", psu)), [Some(1.0), Some(3.0)]);
        assert_eq!(["PSU 1", "PSU 2"].map(|psu| of("state", psu)), [Some(1.0), Some(8.0)]);
        assert_eq!((of("power_input_watts", "PSU 1"), of("power_output_watts", "PSU 1")), (Some(230.0), None));
        assert_eq!(told.value("chassis_power_average_consumed_watts", &[]), Some(412.5));
        assert_eq!(told.value("chassis_health", &[]), Some(2.0));
    }
}

fn serve(mut stream: &TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(lines.by_ref().any(|line| line.is_empty()), "a whole request");
        let page = PAGES.iter().find(|(known, _)| *known == path);
        let answer = match page {
            Some((_, body)) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
