//! The public pages in a real browser: no violation of WCAG that axe finds, no script, nothing wider than the screen.

use std::path::{Path, PathBuf};
use std::process::Command;

use url::Url;
use veghe_tests::archive::Size;
use veghe_tests::digitize::in_trouble;
use veghe_tests::http;
use veghe_tests::process::{Collector, Process, program, wait_for};

fn check(site: &Url, pictures: &Path) {
    look("status.mjs", site, pictures, &[]);
}

fn look(script: &str, site: &Url, pictures: &Path, more: &[&str]) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    assert!(folder.join("node_modules").is_dir(), "run `npm ci` in tests/browser first, as tests/run does");
    let output = Command::new("node")
        .arg(folder.join(script))
        .arg(site.as_str().trim_end_matches('/'))
        .arg(pictures)
        .args(more)
        .output()
        .expect("node");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let shots = std::fs::read_dir(pictures).expect("pictures").count();
    assert!(shots >= 4, "only {shots} pictures: {said}");
}

#[test]
fn the_page_of_a_running_collector_has_no_barrier() {
    let dir = tempfile::tempdir().expect("directory");
    let collector = Collector::up(&dir.path().join("data")).expect("up");
    let status = &collector.listeners.status;
    wait_for("the page is operational", || {
        Ok(http::get(&status.join("en")?)?.contains("All systems operational").then_some(()))
    })
    .expect("page");
    check(status, &dir.path().join("pictures"));
}

#[test]
fn a_page_with_every_state_has_no_barrier() {
    let dir = tempfile::tempdir().expect("directory");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let mut command = Command::new(program("examples/status_pages"));
    command.arg(format!("127.0.0.1:{port}"));
    let _pages = Process::start(&mut command, &dir.path().join("pages.log")).expect("start");
    let site: Url = format!("http://127.0.0.1:{port}").parse().expect("url");
    wait_for("the pages are served", || Ok(http::get(&site.join("en")?).ok())).expect("page");
    check(&site, &dir.path().join("pictures"));
}

#[test]
fn the_pages_of_a_digitization_have_no_barrier() {
    let dir = tempfile::tempdir().expect("directory");
    let size = Size { units: 300, images_a_day: 500.0, last_day: Size::UNDER_WAY.first_day + 60, ..Size::UNDER_WAY };
    let collector = in_trouble(dir.path(), size).expect("an archive that is under way");
    collector.admin(&["digitization", "report", "2026-05", "--freeze", "--output", "/dev/null"]).expect("a report");
    let pictures = std::env::var_os("VEGHE_PICTURES").map_or_else(|| dir.path().join("pictures"), PathBuf::from);
    let login = std::fs::read_to_string(dir.path().join("data/first-login")).expect("first-login");
    let (user, password) = login.split_once('\n').expect("a user");
    let password = password.lines().next().expect("a password");
    look("digitization.mjs", &collector.listeners.ops, &pictures, &["CJT-SIM-0003", user, password]);
    let units = ["CJT-SIM-0297", "CJT-SIM-0298", "CJT-SIM-0299", "CJT-SIM-0300"];
    look("scan-in.mjs", &collector.listeners.ops, &pictures, &[&[user, password], &units[..]].concat());
    let units = ["CJT-SIM-0295", "CJT-SIM-0296"];
    look("camera.mjs", &collector.listeners.ops, &pictures, &[&[user, password], &units[..]].concat());
}
