//! Reports of a digitization as people get them: from the command line, opened by another program, printed by a browser,
//! compared with the archive's own books and with the ledger.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use veghe_tests::archive::Size;
use veghe_tests::digitize::under_way;
use veghe_tests::http;
use veghe_tests::process::Collector;

/// May 2026 of an archive that began on the 4th.
const MONTH: &str = "2026-05";

fn archive(dir: &Path) -> Collector {
    let size = Size { units: 300, images_a_day: 500.0, last_day: Size::UNDER_WAY.first_day + 60, ..Size::UNDER_WAY };
    under_way(dir, size).expect("an archive that is under way")
}

fn get(collector: &Collector, path: &str) -> Value {
    let url = collector.listeners.ops.join(path).expect("address");
    serde_json::from_str(&http::get(&url).expect(path)).expect("JSON")
}

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/venv/bin/python");
    assert!(python.exists(), "make tests/python/venv first, as tests/run does");
    python
}

/// The workbook as openpyxl reads it.
fn opened(file: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/report.py");
    let output = Command::new(python()).arg(script).arg(file).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn sheet<'a>(book: &'a Value, name: &str) -> &'a Value {
    let sheets = book["sheets"].as_array().expect("sheets");
    sheets.iter().find(|sheet| sheet["name"] == name).unwrap_or_else(|| panic!("no sheet {name} in {sheets:?}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Images of a day as the ledger's events say, each event read by itself: new, made again.
fn images_of(collector: &Collector, day: &str) -> (i64, i64) {
    let (mut new, mut again, mut after) = (0, 0, 0);
    loop {
        let answer = get(collector, &format!("/v1/digitization/journal?day={day}&limit=1000&after={after}"));
        for event in answer["events"].as_array().expect("events") {
            let frames = event["data"]["frames"].as_i64().unwrap_or(0);
            match event["kind"].as_str().expect("kind") {
                "image.captured" => new += frames,
                "image.replaced" => again += frames,
                _ => {}
            }
        }
        match answer["next"].as_u64() {
            Some(next) => after = next,
            None => return (new, again),
        }
    }
}

#[test]
fn a_report_says_in_every_form_what_the_ledger_says() {
    let dir = tempfile::tempdir().expect("directory");
    let collector = archive(dir.path());
    let draft = get(&collector, &format!("/v1/digitization/reports/{MONTH}"));
    assert_eq!(draft["draft"], true);
    let file = dir.path().join("mai.xlsx");
    let path = file.to_str().expect("path");
    let said = collector.admin(&["digitization", "report", MONTH, "--freeze", "--output", path]).expect("written");
    let frozen = get(&collector, &format!("/v1/digitization/reports/{MONTH}"));
    let digest = frozen["digest"].as_str().expect("digest");
    assert!(said.contains(&format!("frozen, digest {digest}")), "{said}");
    // Everything was there when the draft was counted: freezing changes nothing.
    assert_eq!(frozen["figures"], draft["figures"]);
    let figures = &frozen["figures"];
    let said = collector.admin(&["digitization", "verify"]).expect("verified");
    assert!(said.contains("1 reports are as they were made") && said.contains(digest), "{said}");

    let book = opened(&file);
    let days = sheet(&book, "Zile");
    let rows = days["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 32);
    let (mut new, mut again) = (0, 0);
    for (row, day) in rows[1..].iter().zip(figures["days"].as_array().expect("days")) {
        let name = row[0].as_str().expect("a day");
        assert_eq!(name, day["day"]);
        let counted = images_of(&collector, name);
        assert_eq!((row[2].as_i64(), row[3].as_i64()), (Some(counted.0), Some(counted.1)), "{name}");
        (new, again) = (new + counted.0, again + counted.1);
    }
    assert!(new > 5000 && again > 0, "{new} {again}");
    assert_eq!((figures["captured"].as_i64(), figures["rescanned"].as_i64()), (Some(new), Some(again)));
    let row = |name: &str| {
        let rows = sheet(&book, "Rezumat")["rows"].as_array().expect("rows");
        rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!(row("Amprenta SHA-256")[1], digest);
    let done = &figures["done"]["so_far"];
    let metres = row("Metri liniari acceptați și înapoiați");
    assert_eq!(number(&metres[2]), number(&done["mm"]) / 1000.0);
    assert_eq!(number(&metres[3]), number(&figures["scope"]["mm"]) / 1000.0);
    assert_eq!(row("Unități acceptate și înapoiate")[2], done["units"]);
    // Nine charts, each drawn from cells that have what it says.
    let chart = |name: &str, n: usize| sheet(&book, name)["charts"][n].clone();
    let series =
        |values: &str, name: &str, categories: &str| json!({"values": values, "name": name, "categories": categories});
    assert_eq!(
        chart("Zile", 0),
        json!({"kind": "BarChart", "title": "Imagini pe zi", "series": [
            series("Zile!$C$2:$C$32", "Zile!$C$1", "Zile!$A$2:$A$32"),
            series("Zile!$D$2:$D$32", "Zile!$D$1", "Zile!$A$2:$A$32"),
        ]})
    );
    assert_eq!(chart("Zile", 1)["series"], json!([series("Zile!$G$2:$G$32", "Zile!$G$1", "Zile!$A$2:$A$32")]));
    assert_eq!(chart("Etape", 0)["series"][2]["values"], "Etape!$D$2:$D$11");
    assert_eq!(chart("Stații", 0)["series"][0]["values"], "Stații!$B$2:$B$5");
    assert_eq!(chart("Facturare", 0)["series"][1]["values"], "Facturare!$C$2:$C$3");
    assert_eq!(chart("Progres", 0)["kind"], "LineChart");
    assert_eq!(sheet(&book, "Refaceri")["charts"].as_array().map(Vec::len), Some(1));
    assert!(book["sheets"].as_array().expect("sheets").iter().all(|sheet| sheet["paper"] == 9), "A4");

    printed(&collector, dir.path(), digest, figures);
}

/// Prints the page as a browser does, without scripts, and reads the text of the PDF.
fn printed(collector: &Collector, dir: &Path, digest: &str, figures: &Value) {
    for (language, words) in [("ro", "Raport lunar, mai 2026"), ("en", "Monthly report, May 2026")] {
        let pdf = dir.join(format!("{language}.pdf"));
        let url = collector.listeners.ops.join(&format!("/digitization/reports/{MONTH}?lang={language}")).expect("url");
        let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
        let output = Command::new(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-pdf-header-footer",
                "--disable-background-networking",
            ])
            .arg(format!("--user-data-dir={}", dir.join("browser").display()))
            .arg(format!("--print-to-pdf={}", pdf.display()))
            .arg(url.as_str())
            .output()
            .expect("chromium");
        assert!(pdf.exists(), "{}", String::from_utf8_lossy(&output.stderr));
        let info = Command::new("pdfinfo").arg(&pdf).output().expect("pdfinfo");
        let info = String::from_utf8_lossy(&info.stdout).into_owned();
        let pages =
            info.lines().find_map(|line| line.strip_prefix("Pages:")?.trim().parse::<u32>().ok()).expect("pages");
        assert!(info.contains("(A4)") && (2..=5).contains(&pages), "{info}");
        let text = Command::new("pdftotext").args(["-layout"]).arg(&pdf).arg("-").output().expect("pdftotext");
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains(words) && text.contains(digest), "{text}");
        let units = figures["done"]["so_far"]["units"].to_string();
        let line =
            text.lines().find(|line| line.contains("acceptate și înapoiate") || line.contains("Units accepted and"));
        assert!(line.is_some_and(|line| line.split_whitespace().any(|word| word == units)), "{units} in {line:?}");
        // Links of the screen are not for paper, and no table is cut at the right.
        assert!(!text.contains("XLSX"), "{text}");
        for day in figures["days"].as_array().expect("days").iter().filter(|day| day["is_working"] == true) {
            let name = day["day"].as_str().expect("day");
            let so_far = number(&day["mm_done_so_far"]) / 1000.0;
            let shown = format!("{so_far:.3}");
            let shown = if language == "ro" { shown.replace('.', ",") } else { shown };
            let found =
                text.lines().any(|line| line.trim_start().starts_with(name) && line.trim_end().ends_with(&shown));
            assert!(found, "{name} {shown} in {text}");
        }
        fs::remove_file(&pdf).expect("removed");
    }
}
