//! Scanners, UPS and MQTT with servers as they are: a simulator that speaks eSCL over HTTP and HTTPS, Debian's `upsd` with
//! its dummy driver, Mosquitto.

#![cfg(target_os = "linux")]

mod authority;
mod port;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use veghe_agent::config::Config;
use veghe_agent::reading::{SeriesName, Sink};
use veghe_agent::sensors::{self, Sensor, SensorSettings};

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Server {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; see tests/run for what it needs")))
    }

    fn assert_runs(&mut self) {
        let ended = self.0.try_wait().expect("the server");
        assert!(ended.is_none(), "the server ended: {ended:?}");
    }
}

/// Asks again and again while `servers` run; the bound only ends a test that has failed.
fn until<T>(what: &str, servers: &mut [&mut Server], mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..5_000 {
        if let Some(found) = ask() {
            return found;
        }
        for server in servers.iter_mut() {
            server.assert_runs();
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {what}");
}

/// A program of NUT whose files are all in `dir`.
fn nut(program: &str, arguments: &[&str], dir: &Path) -> Server {
    let mut command = Command::new(program);
    command.args(arguments).arg("-D");
    if rustix::process::geteuid().is_root() {
        command.args(["-u", "root"]);
    }
    for variable in ["NUT_CONFPATH", "NUT_STATEPATH", "NUT_ALTPIDPATH"] {
        command.env(variable, dir);
    }
    Server::start(&mut command)
}

/// The sensor `name` with these settings and this state directory.
fn sensor(name: &str, settings: &str, state_dir: &Path) -> Box<dyn Sensor> {
    let text = format!("agent: scan-1\nmqtt: mqtts://veghe.cjtimis.ro\nsensors:\n  {name}: {settings}\n");
    let config = Config::parse(Path::new("agent.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let settings = SensorSettings { state_dir: Some(state_dir.to_owned()), ..config.sensors };
    sensors::all(&settings).into_iter().find(|sensor| sensor.name() == name).expect("the sensor")
}

struct Told(Vec<(SeriesName, f64)>);

impl Told {
    fn read(sensor: &mut dyn Sensor) -> Self {
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        Self(series.0.iter().cloned().zip(values).collect())
    }

    /// The value of the only series of `metric` with these labels among its own.
    fn value(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &SeriesName, (name, value): &(&str, &str)| {
            series.labels().iter().any(|(label, is)| **label == **name && **is == **value)
        };
        let mut found = self
            .0
            .iter()
            .filter(|(series, _)| series.metric() == metric && labels.iter().all(|label| has(series, label)));
        let only = found.next()?;
        assert!(found.next().is_none(), "{metric} {labels:?} is there twice");
        Some(only.1)
    }

    fn assert_in_catalogue(&self) {
        for (series, _) in &self.0 {
            let metric = veghe_wire::catalogue::lookup(series.metric());
            let metric = metric.unwrap_or_else(|| panic!("{} is not in the catalogue", series.metric()));
            let is_own = |label: &str| matches!(label, "instance" | "job");
            let labels: Vec<&str> = series.labels().iter().map(|(label, _)| &**label).filter(|l| !is_own(l)).collect();
            let is_optional = metric.name.ends_with("_info");
            let is_known = metric.labels == labels || is_optional && labels.iter().all(|l| metric.labels.contains(l));
            assert!(is_known, "{}: {labels:?}", series.metric());
        }
    }
}

/// A scanner with a document feeder, as eSCL 2.63 describes it.
#[derive(Default)]
struct Scanner {
    pages_in_feeder: u32,
    is_jammed: bool,
    jobs: Vec<ScanJob>,
}

struct ScanJob {
    id: u32,
    state: &'static str,
    reason: &'static str,
    completed: u32,
    to_transfer: u32,
}

impl Scanner {
    fn status(&self) -> String {
        let state = if self.is_jammed {
            "Stopped"
        } else if self.jobs.iter().any(|job| job.state == "Processing") {
            "Processing"
        } else {
            "Idle"
        };
        let adf = match (self.is_jammed, self.pages_in_feeder) {
            (true, _) => "ScannerAdfJam",
            (false, 0) => "ScannerAdfEmpty",
            (false, _) => "ScannerAdfLoaded",
        };
        let jobs: Vec<String> = self
            .jobs
            .iter()
            .rev()
            .map(|job| {
                let ScanJob { id, state, reason, completed, to_transfer } = job;
                format!(
                    "<scan:JobInfo><pwg:JobUri>/eSCL/ScanJobs/{id}</pwg:JobUri><pwg:JobUuid>{id}</pwg:JobUuid><scan:Age>7</scan:Age><pwg:ImagesCompleted>{completed}</pwg:ImagesCompleted><pwg:ImagesToTransfer>{to_transfer}</pwg:ImagesToTransfer><pwg:JobState>{state}</pwg:JobState><pwg:JobStateReasons><pwg:JobStateReason>{reason}</pwg:JobStateReason></pwg:JobStateReasons></scan:JobInfo>"
                )
            })
            .collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<scan:ScannerStatus xmlns:pwg=\"http://www.pwg.org/schemas/2010/12/sm\" xmlns:scan=\"http://schemas.hp.com/imaging/escl/2011/05/03\"><pwg:Version>2.63</pwg:Version><pwg:State>{state}</pwg:State><scan:AdfState>{adf}</scan:AdfState><scan:Jobs>{}</scan:Jobs></scan:ScannerStatus>",
            jobs.concat()
        )
    }

    /// The answer to a request: status, headers, body.
    fn answer(&mut self, method: &str, path: &str) -> (u16, String, Vec<u8>) {
        let xml = |body: String| (200, "Content-Type: text/xml\r\n".to_owned(), body.into_bytes());
        let none = |status| (status, String::new(), Vec::new());
        match (method, path.strip_prefix("/eSCL/").unwrap_or_default()) {
            ("GET", "ScannerStatus") => xml(self.status()),
            ("GET", "ScannerCapabilities") => xml("<?xml version=\"1.0\"?><scan:ScannerCapabilities xmlns:scan=\"s\" xmlns:pwg=\"p\"><pwg:Version>2.63</pwg:Version><pwg:MakeAndModel>KYOCERA TASKalfa 4054ci</pwg:MakeAndModel><pwg:SerialNumber>RFP0Y12345</pwg:SerialNumber><scan:UUID>4509a320-00a0-008f-00b6-002507510eca</scan:UUID><scan:Adf><scan:AdfDuplexInputCaps/></scan:Adf></scan:ScannerCapabilities>".to_owned()),
            ("POST", "ScanJobs") => {
                if self.is_jammed || self.jobs.iter().any(|job| job.state == "Processing") {
                    return none(503);
                }
                let id = self.jobs.len() as u32 + 1;
                self.jobs.push(ScanJob { id, state: "Processing", reason: "JobScanning", completed: 0, to_transfer: self.pages_in_feeder });
                (201, format!("Location: /eSCL/ScanJobs/{id}\r\n"), Vec::new())
            }
            (method, path) => {
                let mut parts = path.strip_prefix("ScanJobs/").unwrap_or_default().split('/');
                let id = parts.next().and_then(|id| id.parse::<u32>().ok());
                let Some(job) = self.jobs.iter_mut().find(|job| Some(job.id) == id) else { return none(404) };
                match (method, parts.next()) {
                    ("DELETE", None) => {
                        (job.state, job.reason) = ("Canceled", "JobCanceledByUser");
                        none(200)
                    }
                    ("GET", Some("NextDocument")) if job.state == "Processing" && self.pages_in_feeder > 0 => {
                        self.pages_in_feeder -= 1;
                        job.completed += 1;
                        job.to_transfer -= 1;
                        (200, "Content-Type: image/jpeg\r\n".to_owned(), vec![0xff, 0xd8, 0xff, 0xd9])
                    }
                    ("GET", Some("NextDocument")) => {
                        if job.state == "Processing" {
                            (job.state, job.reason) = ("Completed", "JobCompletedSuccessfully");
                        }
                        none(404)
                    }
                    _ => none(405),
                }
            }
        }
    }
}

/// Answers one request; capabilities come in chunks, as from some devices.
fn serve(mut stream: impl Read + Write, scanner: &Mutex<Scanner>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.contains("\r\nHost: 127.0.0.1:"), "{head}");
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, headers, body) = scanner.lock().expect("scanner").answer(method, path);
    if path.ends_with("Capabilities") {
        write!(stream, "HTTP/1.1 {status} X\r\n{headers}Transfer-Encoding: chunked\r\n\r\n")?;
        for chunk in body.chunks(100) {
            write!(stream, "{:x}\r\n", chunk.len())?;
            stream.write_all(chunk)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")?;
    } else {
        write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
    }
    stream.flush()
}

/// A certificate of nobody's.
fn own_certificate() -> Arc<ServerConfig> {
    let key = KeyPair::generate().expect("key");
    let certificate = CertificateParams::default().self_signed(&key).expect("certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).expect("certificate"))
}

/// A scanner on the network; by TLS where it has a certificate, which can change.
fn simulator(certificate: Option<Arc<Mutex<Arc<ServerConfig>>>>) -> (SocketAddr, Arc<Mutex<Scanner>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let scanner: Arc<Mutex<Scanner>> = Arc::default();
    let shared = Arc::clone(&scanner);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that turns away ends only its own connection.
            match &certificate {
                Some(config) => {
                    let config = Arc::clone(&config.lock().expect("certificate"));
                    let tls = ServerConnection::new(config).expect("TLS");
                    serve(StreamOwned::new(tls, stream), &shared).ok();
                }
                None => {
                    serve(stream, &shared).ok();
                }
            }
        }
    });
    (address, scanner)
}

/// What scanning software does.
fn request(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    write!(stream, "{method} /eSCL/{path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receive");
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_scanner_tells_its_feeder_its_jobs_and_every_image_once() {
    let state = tempfile::tempdir().expect("directory");
    let (address, scanner) = simulator(None);
    scanner.lock().expect("scanner").pages_in_feeder = 3;
    let mut sensor =
        sensor("escl", &format!("{{targets: [{{url: \"http://{address}/eSCL\", timeout: 1m}}]}}"), state.path());
    let told = Told::read(&mut *sensor);
    told.assert_in_catalogue();
    assert_eq!((told.value("up", &[]), told.value("escl_up", &[])), (Some(1.0), Some(1.0)));
    let info = [
        ("make_and_model", "KYOCERA TASKalfa 4054ci"),
        ("serial_number", "RFP0Y12345"),
        ("version", "2.63"),
        ("job", "escl"),
    ];
    assert_eq!(told.value("escl_scanner_info", &info), Some(1.0));
    assert_eq!(told.value("escl_adf_state", &[("state", "ScannerAdfLoaded")]), Some(1.0));
    assert_eq!(told.value("escl_scanner_state", &[("state", "Idle")]), Some(1.0));
    assert_eq!(told.value("escl_certificate_changed", &[]), None);

    assert_eq!(request(address, "POST", "ScanJobs"), "201");
    for _ in 0..2 {
        assert_eq!(request(address, "GET", "ScanJobs/1/NextDocument"), "200");
    }
    let told = Told::read(&mut *sensor);
    assert_eq!(told.value("escl_scanner_state", &[("state", "Processing")]), Some(1.0));
    let job = ["escl_job_images_completed", "escl_job_images_to_transfer", "escl_job_age_seconds"];
    assert_eq!(job.map(|metric| told.value(metric, &[])), [Some(2.0), Some(1.0), Some(7.0)]);
    assert_eq!(told.value("escl_images_completed_total", &[]), Some(2.0));

    assert_eq!(request(address, "GET", "ScanJobs/1/NextDocument"), "200");
    assert_eq!(request(address, "GET", "ScanJobs/1/NextDocument"), "404");
    scanner.lock().expect("scanner").is_jammed = true;
    for _ in 0..2 {
        let told = Told::read(&mut *sensor);
        assert_eq!(told.value("escl_images_completed_total", &[]), Some(3.0));
        assert_eq!(told.value("escl_jobs_ended_total", &[("state", "Completed")]), Some(1.0));
        assert_eq!(told.value("escl_adf_state", &[("state", "ScannerAdfJam")]), Some(1.0));
        assert_eq!(told.value("escl_scanner_state", &[("state", "Stopped")]), Some(1.0));
        assert_eq!(told.value("escl_job_images_completed", &[]), Some(0.0));
    }
}

#[test]
fn a_scanners_certificate_is_pinned_and_another_one_is_told_until_it_is_accepted() {
    let state = tempfile::tempdir().expect("directory");
    let certificate = Arc::new(Mutex::new(own_certificate()));
    let (address, _scanner) = simulator(Some(Arc::clone(&certificate)));
    let settings = format!("{{targets: [{{url: \"https://{address}/eSCL/\", timeout: 1m}}]}}");
    let outcome = |sensor: &mut dyn Sensor| {
        let told = Told::read(sensor);
        told.assert_in_catalogue();
        (told.value("escl_up", &[]), told.value("escl_certificate_changed", &[]))
    };
    assert_eq!(outcome(&mut *sensor("escl", &settings, state.path())), (Some(1.0), Some(0.0)));
    // After a restart of the agent, too.
    let mut sensor = sensor("escl", &settings, state.path());
    assert_eq!(outcome(&mut *sensor), (Some(1.0), Some(0.0)));
    *certificate.lock().expect("certificate") = own_certificate();
    assert_eq!(outcome(&mut *sensor), (Some(0.0), Some(1.0)));
    let pins: Vec<_> = fs::read_dir(state.path().join("pins")).expect("pins").flatten().collect();
    assert_eq!(pins.len(), 1);
    fs::remove_file(pins[0].path()).expect("remove");
    // One that was down gets a short time only.
    until("the new certificate is taken", &mut [], || (outcome(&mut *sensor) == (Some(1.0), Some(0.0))).then_some(()));
}

#[test]
fn a_ups_is_told_by_nut_as_nut_exporter_tells_it() {
    let work = tempfile::tempdir().expect("directory");
    let port = port::free();
    let file = |name: &str, content: &str| fs::write(work.path().join(name), content).expect("write");
    let device = work.path().join("proba.dev");
    file("ups.conf", &format!("[proba]\n  driver = dummy-ups\n  port = {}\n", device.display()));
    file("upsd.conf", &format!("LISTEN 127.0.0.1 {port}\n"));
    file("upsd.users", "");
    file(
        "proba.dev",
        "device.type: ups\nbattery.charge: 81\nbattery.runtime: 1320\ninput.voltage: 0.0\nups.load: 29\nups.beeper.status: enabled\nups.serial: G202\nups.status: OB DISCHRG LB\n",
    );
    let mut driver = nut("/lib/nut/dummy-ups", &["-a", "proba"], work.path());
    let mut server = nut("/lib/nut/upsd", &[], work.path());
    let mut sensor =
        sensor("nut", &format!("{{servers: [{{address: \"127.0.0.1:{port}\", timeout: 1m}}]}}"), work.path());
    let told = until("upsd knows the UPS", &mut [&mut driver, &mut server], || {
        let told = Told::read(&mut *sensor);
        told.value("network_ups_tools_battery_charge", &[]).is_some().then_some(told)
    });
    told.assert_in_catalogue();
    let of = |name: &str| told.value(&format!("network_ups_tools_{name}"), &[("ups", "proba"), ("job", "nut")]);
    assert_eq!(
        ["battery_charge", "battery_runtime", "input_voltage", "ups_load"].map(of),
        [Some(81.0), Some(1320.0), Some(0.0), Some(29.0)]
    );
    assert_eq!(of("ups_beeper_status"), Some(1.0));
    for (flag, value) in [("OB", 1.0), ("LB", 1.0), ("DISCHRG", 1.0), ("OL", 0.0), ("RB", 0.0)] {
        assert_eq!(told.value("network_ups_tools_ups_status", &[("flag", flag)]), Some(value), "{flag}");
    }
    assert_eq!(told.value("network_ups_tools_device_info", &[("type", "ups")]), Some(1.0));
    assert_eq!(told.value("up", &[("instance", &format!("127.0.0.1:{port}"))]), Some(1.0));
    drop(server);
    let told = Told::read(&mut *sensor);
    assert_eq!((told.value("up", &[]), told.0.len()), (Some(0.0), 2));
}

#[test]
fn a_ups_is_asked_after_starttls_and_only_a_server_of_the_ca_hears_the_password() {
    let work = tempfile::tempdir().expect("directory");
    authority::write(work.path());
    let in_work = |name: &str| work.path().join(name).display().to_string();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(work.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; see tests/run for what it needs"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // Debian's upsd takes its certificate from a data base of NSS.
    fs::create_dir(work.path().join("db")).expect("directory");
    run("certutil", &["-N", "-d", "db", "--empty-password"]);
    let certificate = ["-in", "server.crt", "-inkey", "server.key", "-name", "upsd", "-passout", "pass:x"];
    run("openssl", &[&["pkcs12", "-export", "-out", "server.p12"], &certificate[..]].concat());
    run("pk12util", &["-i", "server.p12", "-d", "db", "-W", "x", "-K", ""]);
    let port = port::free();
    let file = |name: &str, content: &str| fs::write(work.path().join(name), content).expect("write");
    file("upsd.conf", &format!("LISTEN 127.0.0.1 {port}\nCERTPATH {}\nCERTIDENT \"upsd\" \"x\"\n", in_work("db")));
    file("ups.conf", &format!("[proba]\n  driver = dummy-ups\n  port = {}\n", in_work("proba.dev")));
    file("upsd.users", "[veghe]\n  password = geheim\n");
    file("proba.dev", "ups.status: OL\nbattery.charge: 81\n");
    file("password", "geheim\n");
    let mut driver = nut("/lib/nut/dummy-ups", &["-a", "proba"], work.path());
    let mut server = nut("/lib/nut/upsd", &[], work.path());
    let settings = |ca: &str| {
        let (ca, password) = (in_work(ca), in_work("password"));
        format!(
            "{{servers: [{{address: \"127.0.0.1:{port}\", ca_file: {ca}, username: veghe, password_file: {password}, timeout: 1m}}]}}"
        )
    };
    let mut trusting = sensor("nut", &settings("ca.crt"), work.path());
    let told = until("upsd knows the UPS", &mut [&mut driver, &mut server], || {
        let told = Told::read(&mut *trusting);
        told.value("network_ups_tools_battery_charge", &[]).is_some().then_some(told)
    });
    assert_eq!(told.value("up", &[]), Some(1.0));
    assert_eq!(told.value("network_ups_tools_battery_charge", &[]), Some(81.0));
    let told = Told::read(&mut *sensor("nut", &settings("other.crt"), work.path()));
    assert_eq!((told.value("up", &[]), told.0.len()), (Some(0.0), 2));
}

/// Sends what its client was given; ends where it loses its connection, and with the client.
fn publish(mut connection: rumqttc::Connection) -> thread::JoinHandle<()> {
    let mut network = rumqttc::NetworkOptions::new();
    // On a busy machine a connection takes its time.
    network.set_connection_timeout(120);
    connection.eventloop.set_network_options(network);
    thread::spawn(move || connection.iter().take_while(Result::is_ok).for_each(drop))
}

#[test]
fn rooms_are_told_from_messages_of_mosquitto() {
    let work = tempfile::tempdir().expect("directory");
    let port = port::free();
    let settings = work.path().join("mosquitto.conf");
    fs::write(&settings, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).expect("write");
    let mut broker = Server::start(Command::new("/usr/sbin/mosquitto").arg("-c").arg(&settings));
    let rules = "[{topic: \"camera/+/clima\", path: t.0, metric: room_temperature_celsius, scale: 0.1, labels: {cladire: A}}, {topic: \"camera/+/clima\", path: rh, metric: room_humidity_percent}]";
    let mut sensor =
        sensor("mqtt_json", &format!("{{brokers: [{{address: \"127.0.0.1:{port}\", rules: {rules}}}]}}"), work.path());
    let is_connected =
        |sensor: &mut dyn Sensor| (Told::read(sensor).value("mqtt_json_connected", &[]) == Some(1.0)).then_some(());
    until("the sensor is connected", &mut [&mut broker], || is_connected(&mut *sensor));
    let options = rumqttc::MqttOptions::new("camera", "127.0.0.1", port);
    let (client, connection) = rumqttc::Client::new(options, 10);
    for (topic, payload) in [
        ("camera/7/clima", "{\"t\": [214], \"rh\": \"48.5\"}"),
        ("camera/7/clima", "nonsense"),
        ("camera/8/altceva", "1"),
    ] {
        client.publish(topic, rumqttc::QoS::AtLeastOnce, false, payload).expect("publish");
    }
    let publisher = publish(connection);
    let told = until("both messages are counted", &mut [&mut broker], || {
        assert!(!publisher.is_finished(), "the publisher lost its connection");
        let told = Told::read(&mut *sensor);
        (told.value("mqtt_json_messages_total", &[]) == Some(2.0)).then_some(told)
    });
    let labels = [("topic", "camera/7/clima"), ("job", "mqtt")];
    let temperature = told.value("room_temperature_celsius", &labels).expect("a temperature");
    assert!((temperature - 21.4).abs() < 1e-9);
    assert_eq!(told.value("room_temperature_celsius", &[("cladire", "A")]), Some(temperature));
    assert_eq!(told.value("room_humidity_percent", &labels), Some(48.5));
    assert_eq!(told.value("mqtt_json_messages_refused_total", &[]), Some(1.0));
}

#[test]
fn a_room_is_heard_by_tls_with_a_password_and_from_no_broker_of_another_ca() {
    let work = tempfile::tempdir().expect("directory");
    authority::write(work.path());
    let in_work = |name: &str| work.path().join(name).display().to_string();
    let port = port::free();
    let users = in_work("users");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c", &users, "veghe", "geheim"]).status();
    assert!(made.expect("mosquitto_passwd").success());
    fs::write(work.path().join("password"), "geheim\n").expect("write");
    fs::write(work.path().join("wrong"), "guess\n").expect("write");
    let settings = format!(
        "user root\nlistener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\npassword_file {users}\nallow_anonymous false\n",
        in_work("server.crt"),
        in_work("server.key"),
    );
    fs::write(work.path().join("mosquitto.conf"), settings).expect("write");
    let mut broker = Server::start(Command::new("/usr/sbin/mosquitto").arg("-c").arg(in_work("mosquitto.conf")));
    let listener = |ca: &str, password: &str| {
        let (ca, password) = (in_work(ca), in_work(password));
        let rules = "[{topic: \"clima/+\", path: t, metric: room_temperature_celsius}]";
        let broker =
            format!("address: \"127.0.0.1:{port}\", username: veghe, password_file: {password}, ca_file: {ca}");
        sensor("mqtt_json", &format!("{{brokers: [{{{broker}, rules: {rules}}}]}}"), work.path())
    };
    let mut good = listener("ca.crt", "password");
    let mut others = [listener("other.crt", "password"), listener("ca.crt", "wrong")];
    let mut told_by_others = 0.0;
    rustls::crypto::ring::default_provider().install_default().ok();
    until("the good listener is connected", &mut [&mut broker], || {
        (Told::read(&mut *good).value("mqtt_json_connected", &[]) == Some(1.0)).then_some(())
    });
    let mut options = rumqttc::MqttOptions::new("sensor", "127.0.0.1", port);
    let ca = fs::read(work.path().join("ca.crt")).expect("CA");
    let tls = rumqttc::TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
    options.set_transport(rumqttc::Transport::tls_with_config(tls)).set_credentials("veghe", "geheim");
    // Retained: it is heard whenever a listener has subscribed.
    let (client, connection) = rumqttc::Client::new(options, 10);
    client.publish("clima/7", rumqttc::QoS::AtLeastOnce, true, "{\"t\": 21.5}").expect("publish");
    let publisher = publish(connection);
    until("the temperature is heard", &mut [&mut broker], || {
        assert!(!publisher.is_finished(), "the publisher lost its connection");
        let told = Told::read(&mut *good);
        for other in &mut others {
            let told = Told::read(&mut **other);
            told_by_others += told.value("mqtt_json_connected", &[]).unwrap_or(1.0);
        }
        let is_heard = told.value("room_temperature_celsius", &[("topic", "clima/7")]) == Some(21.5);
        is_heard.then(|| assert_eq!(told.value("mqtt_json_connected", &[]), Some(1.0)))
    });
    assert_eq!(told_by_others, 0.0, "neither with another CA nor with a wrong password");
}
