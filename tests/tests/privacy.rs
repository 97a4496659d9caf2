//! Persons in a real collector: a name that events bear is in no file, no answer, no log and no backup; who an administrator
//! reveals is on record. And beside it the runway of a storage whose free space a query gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use veghe_tests::http;
use veghe_tests::load::{Identity, tell, tls};
use veghe_tests::process::{Collector, now, wait_for};

/// As capture software writes it.
const NAME: &str = "Ana Pop-Vlădescu";

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory") {
        let entry = entry.expect("entry");
        match entry.file_type().expect("type") {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Whether a name, or a part of it in any case, is in `bytes`.
fn names(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    text.contains("vlădescu") || text.contains("ana pop")
}

#[test]
fn a_name_leaves_by_no_door_and_a_look_behind_it_is_on_record() {
    let dir = tempfile::tempdir().expect("directory");
    let data_dir = dir.path().join("data");
    let config = format!(
        "data_dir: {}\nops: {{listen: 127.0.0.1:0}}\nstatus: {{listen: 127.0.0.1:0}}\nmqtt: {{listen: 127.0.0.1:0}}\n\
         digitization:\n  privacy: {{operators: pseudonyms}}\n  storages:\n    - {{name: masters, free: 'vector(2.5e6)'}}\n",
        data_dir.display()
    );
    let file = dir.path().join("collector.yaml");
    fs::write(&file, config).expect("write");
    let collector =
        Collector::start(&data_dir, &["run", "--config", file.to_str().expect("UTF-8")]).expect("collector");
    let inventory = dir.path().join("inventar.csv");
    let rows: Vec<String> = (1..=9).map(|n| format!("U-{n};100;30;1")).collect();
    fs::write(&inventory, format!("cod_unitate;nr_file;latime_mm;prioritate\n{}\n", rows.join("\n"))).expect("write");
    collector.admin(&["inventory", "import", inventory.to_str().expect("UTF-8"), "--yes"]).expect("imported");
    let login = fs::read_to_string(data_dir.join("first-login")).expect("first-login");
    let bearer = format!("Bearer {}", login.lines().nth(2).expect("token"));
    let today = jiff::Timestamp::now();
    // Six of nine units, one file of 1,000 bytes for each of 200 images: three units of 200,000 bytes are left.
    let event = |id: String, kind: &str, data: Value| {
        json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": "//cjt/capture", "id": id,
            "time": today.to_string(), "data": data})
    };
    let mut events = Vec::new();
    for n in 1..=6 {
        let unit = format!("U-{n}");
        let captured = json!({"unit": unit, "frames": 200, "bytes": 200_000, "station": "S01", "operator": NAME, "user_name": NAME});
        events.push(event(format!("c{n}"), "image.captured", captured));
        events.push(event(format!("s{n}"), "unit.stage", json!({"unit": unit, "stage": "scan", "change": "exit"})));
        events.push(event(
            format!("q{n}"),
            "qc.result",
            json!({"unit": unit, "outcome": "accepted", "checked_by": NAME}),
        ));
    }
    // One that is refused: the answer and the log tell of the field, not of who is in it.
    events.push(event("wrong".to_owned(), "image.captured", json!({"unit": "U-1", "frames": "x", "operator": NAME})));
    let url = collector.listeners.ops.join("/v1/digitization/events").expect("url");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/cloudevents-batch+json")];
    let answer = http::request("POST", &url, &headers, Value::Array(events).to_string().as_bytes()).expect("answer");
    let told: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(
        (answer.status, told["accepted"].as_u64(), told["refused"].as_array().map(Vec::len)),
        (422, Some(18), Some(1))
    );

    // Equipment that speaks by MQTT is stripped of names in the same way.
    let state_dir = dir.path().join("scan-1");
    collector.join("scan-1", &state_dir, "1h").expect("joined");
    let by_mqtt = json!({"unit": "U-1", "stage": "post", "change": "enter", "operator": NAME, "user_name": NAME});
    let mut by_mqtt = event("m1".to_owned(), "unit.stage", by_mqtt);
    by_mqtt["source"] = json!("//veghe/agent/scan-1");
    let told = Value::Array(vec![by_mqtt]).to_string().into_bytes();
    let identity = Identity {
        agent: "scan-1".parse().expect("id"),
        port: collector.listeners.mqtt.port().expect("port"),
        tls: tls(&state_dir).expect("certificates"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let kept = async { tokio::time::timeout(Duration::from_mins(1), tell(identity, told)).await };
    runtime.block_on(kept).expect("the broker answers").expect("kept");
    let journal =
        http::get(&collector.listeners.ops.join("/v1/digitization/journal?unit=U-1&kind=unit.stage").expect("url"));
    assert!(journal.expect("journal").contains("\"m1\""), "what the broker acknowledged is in the ledger");

    let staff = dir.path().join("staff.txt");
    fs::write(&staff, format!("Ion Vasile\n{NAME}\n")).expect("write");
    let staff = staff.to_str().expect("UTF-8");
    let why = "pages 12 to 40 are missing, complaint 1234";
    let said = collector
        .admin(&["digitization", "reveal", "U-2", "--names", staff, "--by", "Vasile", "--why", why])
        .expect("revealed");
    assert!(said.contains(NAME) && said.contains("1 events with a pseudonym, 1 of them"), "{said}");
    assert!(collector.admin(&["digitization", "reveal", "U-2", "--names", staff, "--by", "V", "--why", "so"]).is_err());

    let ops = &collector.listeners.ops;
    let mut doors: Vec<(String, String)> = vec![("answer".to_owned(), answer.body.clone())];
    let period = today.to_zoned_datetime(jiff::tz::TimeZone::UTC).strftime("%Y-%m").to_string();
    for path in [
        "/digitization?lang=ro",
        "/digitization/units?lang=en",
        "/digitization/units/U-2?lang=en",
        "/digitization/stations?lang=en",
        "/digitization/events?lang=en",
        "/digitization/figure?of=net&unit=U-2&lang=en",
        "/digitization/figure.csv?of=net&unit=U-2",
        "/v1/digitization/units/U-2",
        "/v1/digitization/journal",
        "/v1/digitization/people",
        "/v1/digitization/project",
        "/metrics",
        "/federate?match[]=%7B__name__!%3D%22%22%7D",
        &format!("/digitization/reports/{period}.csv"),
        &format!("/digitization/reports/{period}.json"),
    ] {
        doors.push((
            path.to_owned(),
            http::get(&ops.join(path).expect("url")).unwrap_or_else(|error| panic!("{path}: {error}")),
        ));
    }
    let closed = http::request("GET", &ops.join("/v1/digitization/privacy").expect("url"), &[], b"").expect("answer");
    assert_eq!(closed.status, 401, "only an administrator sees who looked");
    for path in ["/digitization/privacy?lang=ro", "/v1/digitization/privacy"] {
        let shown = http::request("GET", &ops.join(path).expect("url"), &headers[..1], b"").expect("answer");
        assert!(shown.status == 200 && shown.body.contains(why) && shown.body.contains("Vasile"), "{}", shown.body);
        doors.push((path.to_owned(), shown.body));
    }
    doors.push(("log".to_owned(), collector.process.output().expect("log")));
    for (door, text) in &doors {
        assert!(!names(text.as_bytes()), "a name leaves by {door}: {text}");
    }
    let metrics = &doors.iter().find(|(door, _)| door == "/metrics").expect("metrics").1;
    for line in [
        r#"digitization_person_fields_total{outcome="pseudonym"} 7"#,
        r#"digitization_person_fields_total{outcome="dropped"} 13"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    let backup = dir.path().join("backup");
    collector.admin(&["backup", backup.to_str().expect("UTF-8")]).expect("backed up");
    for file in files(&data_dir).into_iter().chain(files(&backup)) {
        assert!(!names(&fs::read(&file).unwrap_or_default()), "a name is in {}", file.display());
    }
    assert!(data_dir.join("operators.key").exists());
    assert!(!files(&backup).iter().any(|file| file.ends_with("operators.key")), "a backup has no keys of pseudonyms");

    // 2.5 MB are free, and nine units fewer than that holds are left.
    let began = now();
    let storage = wait_for("the free space is read", || {
        let outlook: Value = serde_json::from_str(&http::get(&ops.join("/v1/digitization/storage")?)?)?;
        Ok((outlook["storages"][0]["free"]["reading"] == "bytes").then_some(outlook))
    })
    .unwrap_or_else(|error| panic!("after {:?}: {error}", began.elapsed()));
    let masters = &storage["storages"][0];
    assert_eq!(
        (&storage["units"], &masters["units_left"], &masters["bytes_to_come"]),
        (&json!(3), &json!(3), &json!(600_000))
    );
    assert_eq!(
        (&masters["free"]["bytes"], &masters["short_bytes"], &masters["full_p50"]),
        (&json!(2_500_000), &json!(0), &json!(null))
    );
    wait_for("the runway is a metric", || {
        let metrics = http::get(&ops.join("/metrics")?)?;
        Ok(metrics.contains(r#"digitization_storage_units_left{storage="masters"} 3"#).then_some(()))
    })
    .expect("metric");
}
