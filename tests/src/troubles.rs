//! What goes wrong in a digitization, for pages that have to show it: settings, events, lots.

use serde_json::{Value, json};

/// The section of the configuration: a plan, rules, storages, pseudonyms.
pub const CONFIG: &str = "digitization:
  project: Arhiva județului Timiș
  plan: {from: 2026-05-04, finish: 2026-12-18}
  quality:
    - {level: metamorfoze, icc: true}
    - {series: Drumuri județene, min_ppi: 400, min_bits: 8, formats: [tiff, jp2]}
  storages:
    - {name: masters, free: 'vector(2.5e12)', reserve: 100GB, ratio: 1}
    - {name: derivatives, free: 'vector(4e10)', ratio: 0.2}
  privacy: {operators: pseudonyms}
";

/// Events of the hours before `now`, about units of [`crate::archive`].
pub fn events(now: jiff::Timestamp) -> Vec<Value> {
    let mut events = Vec::new();
    let mut add = |hours_ago: i64, source: &str, kind: &str, data: Value| {
        let at = now - jiff::SignedDuration::from_hours(hours_ago);
        events.push(json!({"specversion": "1.0", "type": format!("ro.cjt.digi.v1.{kind}"), "source": source,
            "id": format!("trouble:{}", events.len()), "time": at.to_string(), "data": data}));
    };
    let unit = |n: usize| format!("CJT-SIM-{n:04}");
    for n in 1..=60 {
        let station = format!("S0{}", 1 + n % 4);
        let data = json!({"unit": unit(n), "station": station, "frames": 12, "bytes": 14_000_000, "width_px": 2480, "height_px": 3508,
            "ppi": if n % 6 == 0 { 200.0 } else { 300.0 }, "bits": if n % 15 == 0 { 1 } else { 8 }, "samples": 3,
            "compression": "lzw", "icc": n % 4 > 0, "complete": n % 20 > 0, "blank": n % 7 / 5, "near_duplicate": n % 9 / 8,
            "operator": (["Ana Pop", "Ion Vasile", "Dan Ilie", "Eva Marcu", "Ioana Stan", "Petru Rus"][n % 6])});
        add(30 - (n / 4) as i64, &format!("//cjt/station/{station}"), "image.captured", data);
    }
    add(20, "//cjt/station/S02", "image.duplicate", json!({"unit": unit(4), "frames": 3, "station": "S02"}));
    add(20, "//cjt/station/S02", "image.deleted", json!({"unit": unit(5), "frames": 2, "station": "S02"}));
    // The inventory has no such units.
    add(
        19,
        "//cjt/station/S03",
        "image.captured",
        json!({"unit": "CJT-NEC-1990-0001", "frames": 40, "station": "S03"}),
    );
    add(18, "//cjt/floor", "unit.stage", json!({"unit": "CJT-NEC-1990-0001", "stage": "prep", "change": "enter"}));
    add(18, "//cjt/floor", "custody.moved", json!({"unit": "CJT-NEC-1990-0002", "to": "sala de scanare"}));
    // Paper: held, and out for longer than was agreed.
    for (n, hold) in [(271, "conservation"), (272, "privacy_review"), (273, "missing")] {
        add(100, "//cjt/floor", "unit.stage", json!({"unit": unit(n), "stage": "prep", "change": "enter"}));
        add(99, "//cjt/floor", "unit.stage", json!({"unit": unit(n), "stage": "prep", "change": "hold", "hold": hold}));
    }
    let due = (now - jiff::SignedDuration::from_hours(48)).to_string();
    let moved = json!({"unit": unit(270), "to": "laborator de restaurare", "due": due, "record": "PV 41/2026"});
    add(200, "//cjt/floor", "custody.moved", moved);
    for (hours, station, state) in [
        (28, "S01", "jam"),
        (27, "S01", "working"),
        (26, "S02", "down"),
        (24, "S02", "maintenance"),
        (22, "S02", "working"),
        (9, "S03", "idle"),
        (8, "S04", "off"),
    ] {
        add(hours, &format!("//cjt/station/{station}"), "station.state", json!({"station": station, "state": state}));
    }
    for (hours, passed, delta) in [(30, true, 2.1), (20, true, 2.9), (10, false, 4.4)] {
        let measured =
            json!({"station": "S02", "passed": passed, "delta_e_mean": delta, "mtf50": 4.2, "target": "UTT A3"});
        add(hours, "//cjt/targets", "target.measured", measured);
    }
    for n in 1..=8 {
        let confidence = 0.97 - 0.04 * n as f64;
        add(
            15,
            "//cjt/ocr",
            "ocr.done",
            json!({"unit": unit(n), "pages": 120, "confidence": confidence, "language": "ron"}),
        );
    }
    let started = (now - jiff::SignedDuration::from_hours(50)).to_string();
    let oldest = (now - jiff::SignedDuration::from_hours(40 * 24)).to_string();
    for (storage, state, mismatch, missing) in
        [("nas-1", "running", 1, 0), ("nas-2", "finished", 0, 1), ("tape", "finished", 0, 0)]
    {
        let pass = json!({"storage": storage, "pass": 7, "state": state, "started": started, "objects": 4100, "ok": 4090,
            "mismatch": mismatch, "missing": missing, "error": 2, "new": 12, "copies_differ": mismatch, "bytes": 61_000_000_000_u64,
            "oldest_verified": oldest});
        add(5, "//cjt/fixity", "fixity.pass", pass);
    }
    for (storage, outcome, object, copy) in [
        (
            "nas-1",
            "mismatch",
            "2026/Buget-Contabilitate/CJT-SIM-0003/CJT-SIM-0003_0017_verso-cu-un-nume-destul-de-lung.tif",
            Some("tape"),
        ),
        ("nas-1", "error", "2026/Drumuri județene/CJT-SIM-0010/0001.tif", None),
        ("nas-2", "missing", "2026/Urbanism/CJT-SIM-0011/0042.jp2", Some("nas-1")),
    ] {
        let mut data = json!({"storage": storage, "outcome": outcome, "object": object, "bytes": 26_000_000});
        if let Some(copy) = copy {
            data["good_copy"] = json!(copy);
        }
        add(6, "//cjt/fixity", "fixity.checked", data);
    }
    let packages = [
        ("batch", "L-0001".to_owned(), "ok", json!({})),
        ("batch", "L-0002".to_owned(), "failed", json!({"checksum": 2, "mets_count": 1, "image_torn": 3})),
        ("unit", unit(7), "failed", json!({"manifest_missing": 1, "payload_missing": 4})),
    ];
    for (what, name, outcome, problems) in packages {
        let mut data = json!({"outcome": outcome, "files": 812, "bytes": 21_000_000_000_u64, "images": 800, "mets_files": 799,
            "alto_pages": 800, "alto_confidence": 0.913, "problems": problems});
        data[what] = json!(name);
        add(4, "//cjt/deliveries", "package.validated", data);
        let mut data = json!({"bytes": 21_000_000_000_u64, "package": name, "files": 812});
        data[what] = json!(name);
        add(4, "//cjt/deliveries", "package.delivered", data);
    }
    add(3, "//cjt/office", "invoice.received", json!({"invoice": "TM-DIG 0017", "images": 31_000}));
    add(2, "//cjt/office", "invoice.received", json!({"invoice": "TM-DIG 0018", "images": 900, "credit": true}));
    for batch in ["L-0001", "L-0002", "L-0003"] {
        add(2, "//cjt/floor", "batch.closed", json!({"batch": batch}));
    }
    events
}

/// Lots to draw and to judge: one is accepted, one rejected, one waits.
pub fn lots() -> Vec<(&'static str, Value)> {
    let (draw, judge) = ("/v1/digitization/lots", "/v1/digitization/lots/verdict");
    vec![
        (draw, json!({"batch": "L-0001", "aql": "1.5"})),
        (judge, json!({"batch": "L-0001", "defects": 0})),
        (draw, json!({"batch": "L-0002", "aql": "1.5", "inspection": "III"})),
        (judge, json!({"batch": "L-0002", "defects": 30, "reason": "skew"})),
        (draw, json!({"batch": "L-0003", "aql": "4"})),
    ]
}
