//! A hostile writer before a real agent and collector: it writes slowly, renames at the end, dies half-way, writes again, renames what
//! is done, while agent and collector are killed. At the end each image counts once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::http;
use crate::process::{Collector, Listeners, Process, agent, wait_for};

/// Units of the inventory, and one that it does not know.
const UNITS: [&str; 3] = ["U-1", "U-2", "U-3"];
const UNKNOWN: &str = "U-9";

/// What was seen.
#[derive(Debug)]
pub struct Outcome {
    /// Images by unit, as writer and collector agree.
    pub images: BTreeMap<String, u64>,
    /// Pages that were written again.
    pub rewritten: u64,
    /// How often something was killed.
    pub kills: u32,
}

/// A page of which every one has other pixels.
struct Press {
    template: Vec<u8>,
    printed: u32,
}

impl Press {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("template.tif");
        let made = Command::new("/usr/bin/convert")
            .args(["-size", "124x175", "xc:white", "-depth", "8", "-type", "TrueColor", "-compress", "None"])
            .args(["-units", "PixelsPerInch", "-density", "300"])
            .arg(&path)
            .status()
            .context("ImageMagick; tests/run installs it")?;
        ensure!(made.success(), "no page");
        Ok(Self { template: fs::read(path)?, printed: 0 })
    }

    fn print(&mut self) -> Vec<u8> {
        self.printed += 1;
        let mut page = self.template.clone();
        // In the middle of the pixels, whatever stands before and after them.
        let at = page.len() / 2;
        page[at..at + 4].copy_from_slice(&self.printed.to_le_bytes());
        page
    }
}

/// Runs it in `dir` with so many pages.
///
/// # Errors
/// Where a count differs.
pub fn run(dir: &Path, pages: u32, seed: u64) -> anyhow::Result<Outcome> {
    let mut random = Random(seed | 1);
    let data_dir = dir.join("collector");
    fs::create_dir_all(&data_dir)?;
    let mut collector = start(dir, &data_dir, None)?;
    let ports = collector.listeners.clone();
    let inventory = dir.join("inventar.csv");
    let rows: String = UNITS.iter().fold(String::new(), |rows, unit| rows + unit + ";100;31;L-1\n");
    fs::write(&inventory, format!("cod_unitate;nr_file;latime_mm;lot\n{rows}"))?;
    collector.admin(&["inventory", "import", inventory.to_str().context("path")?, "--yes"])?;
    let (state_dir, root) = (dir.join("agent"), dir.join("scans"));
    fs::create_dir_all(&root)?;
    collector.join("scan-1", &state_dir, "1s")?;
    let settings = File::options().append(true).open(state_dir.join("agent.yaml"))?;
    write!(
        &settings,
        "digitization:\n  hot_folders:\n    - {{name: scans, path: {}, template: \"{{unit}}/{{batch}}/{{station}}/...\", scan: 200ms, reconcile: 2s, settle: 400ms}}\n",
        root.display()
    )?;
    let mut watcher = agent(&state_dir)?;
    let (mut press, mut books) = (Press::new(dir)?, BTreeMap::<String, u64>::new());
    let (mut rewritten, mut kills, mut done) = (0, 0, Vec::<PathBuf>::new());
    for number in 0..pages {
        let unit = if random.below(10) == 0 { UNKNOWN } else { UNITS[random.below(3) as usize] };
        let folder = root.join(unit).join("L-1").join("S02");
        fs::create_dir_all(&folder)?;
        let (path, page) = (folder.join(format!("{number:04}.tif")), press.print());
        match random.below(5) {
            0 => fs::write(&path, &page)?,
            1 => slowly(&path, &page, &mut random)?,
            2 => {
                let temporary = path.with_extension("tif.tmp");
                slowly(&temporary, &page, &mut random)?;
                fs::rename(&temporary, &path)?;
            }
            3 => {
                // It dies, and somebody scans the page again.
                fs::write(&path, &page[..page.len() / 3])?;
                thread::sleep(Duration::from_millis(random.below(900)));
                fs::write(&path, press.print())?;
            }
            _ => {
                fs::write(&path, &page)?;
                let renamed = folder.join(format!("{number:04}-r.tif"));
                thread::sleep(Duration::from_millis(random.below(900)));
                fs::rename(&path, &renamed)?;
                done.push(renamed);
            }
        }
        *books.entry(unit.to_owned()).or_default() += 1;
        if random.below(8) == 0
            && let Some(path) = done.pop()
        {
            fs::write(path, press.print())?;
            rewritten += 1;
        }
        if random.below(6) == 0 {
            kills += 1;
            let victim = random.below(3);
            if victim != 1 {
                collector.process.kill()?;
            }
            if victim != 0 {
                watcher.kill()?;
                watcher = agent(&state_dir)?;
            }
            if victim != 1 {
                collector = start(dir, &data_dir, Some(&ports))?;
            }
        }
    }
    let agree = |collector: &Collector| -> anyhow::Result<Option<BTreeMap<String, u64>>> {
        let counted = counted(collector)?;
        Ok((counted == books).then_some(counted))
    };
    let images = wait_for("every image counts", || agree(&collector)).or_else(|error| {
        let counted = counted(&collector)?;
        let known = report(&state_dir)?;
        Err(error.context(format!("the collector counts {counted:?}, written were {books:?}; the agent says\n{known}")))
    })?;
    // Whatever is told again after it was all told changes nothing.
    watcher.kill()?;
    watcher = agent(&state_dir)?;
    wait_for("nothing waits to be told", || Ok(report(&state_dir)?.contains("\n0 events wait").then_some(())))?;
    ensure!(agree(&collector)?.is_some(), "{:?} after a restart, not {books:?}", counted(&collector)?);
    watcher.interrupt()?;
    Ok(Outcome { images, rewritten, kills })
}

fn slowly(path: &Path, page: &[u8], random: &mut Random) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for part in page.chunks(page.len() / 4 + 1) {
        file.write_all(part)?;
        thread::sleep(Duration::from_millis(random.below(700)));
    }
    Ok(())
}

/// Images by unit, quarantined ones too.
fn counted(collector: &Collector) -> anyhow::Result<BTreeMap<String, u64>> {
    let ask = |what: &str| -> anyhow::Result<Value> {
        let url = collector.listeners.ops.join("/v1/digitization/")?.join(what)?;
        Ok(serde_json::from_str(&http::get(&url)?)?)
    };
    let mut counted = BTreeMap::new();
    for unit in UNITS {
        let images = ask(&format!("units/{unit}"))?["images"].as_u64().context("no images")?;
        if images > 0 {
            counted.insert(unit.to_owned(), images);
        }
    }
    for row in ask("quarantine")?["rows"].as_array().context("no rows")? {
        let images = row["images"].as_u64().context("no images")?;
        counted.insert(row["unit"].as_str().context("no unit")?.to_owned(), images);
    }
    Ok(counted)
}

fn report(state_dir: &Path) -> anyhow::Result<String> {
    let output = Command::new(crate::process::program("veghe-agent"))
        .arg("digitization")
        .arg("--state-dir")
        .arg(state_dir)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn start(dir: &Path, data_dir: &Path, ports: Option<&Listeners>) -> anyhow::Result<Collector> {
    let port = |url: Option<&url::Url>| url.and_then(url::Url::port).unwrap_or(0);
    let settings = dir.join("collector.yaml");
    let text = format!(
        "data_dir: {}\nops:\n  listen: 127.0.0.1:{}\nstatus:\n  listen: 127.0.0.1:{}\nmqtt:\n  listen: 127.0.0.1:{}\n",
        data_dir.display(),
        port(ports.map(|ports| &ports.ops)),
        port(ports.map(|ports| &ports.status)),
        port(ports.map(|ports| &ports.mqtt)),
    );
    fs::write(&settings, text)?;
    Collector::start(data_dir, &["run", "--config", settings.to_str().context("path is not UTF-8")?])
}

/// A storage of masters that rots under a running agent: the collector hears of it by name.
///
/// # Errors
/// Where it does not.
pub fn rot(dir: &Path) -> anyhow::Result<()> {
    let data_dir = dir.join("collector");
    fs::create_dir_all(&data_dir)?;
    let collector = start(dir, &data_dir, None)?;
    let (state_dir, masters) = (dir.join("agent"), dir.join("masters"));
    fs::create_dir_all(&masters)?;
    for number in 0..20 {
        fs::write(masters.join(format!("{number}.tif")), vec![number; 100_000])?;
    }
    collector.join("nas-1", &state_dir, "1s")?;
    let settings = File::options().append(true).open(state_dir.join("agent.yaml"))?;
    let path = masters.display();
    write!(&settings, "fixity:\n  every: 300ms\n  pace: 100MiB\n  storages:\n    - {{name: nas, path: {path}}}\n")?;
    let mut watcher: Process = agent(&state_dir)?;
    let objects = |outcome: &str| -> anyhow::Result<u64> {
        let found = http::query(&collector.listeners.ops, &format!(r#"fixity_objects{{outcome="{outcome}"}}"#))?;
        Ok(found.first().and_then(|s| s["value"][1].as_str()).map_or(0, |value| value.parse().unwrap_or(0)))
    };
    wait_for("every object is known", || Ok((objects("ok")? == 20).then_some(())))?;
    let path = masters.join("7.tif");
    let modified = fs::metadata(&path)?.modified()?;
    let mut content = fs::read(&path)?;
    content[77_777] ^= 0x10;
    fs::write(&path, content)?;
    File::options().write(true).open(&path)?.set_modified(modified)?;
    wait_for("the damage is a metric", || Ok((objects("mismatch")? == 1).then_some(())))?;
    let checks = r#"digitization_fixity_checks{outcome="mismatch",storage="nas"}"#;
    wait_for("the collector heard of it", || {
        let found = http::query(&collector.listeners.ops, checks)?;
        Ok(found.iter().any(|series| series["value"][1].as_str().is_some_and(|value| value != "0")).then_some(()))
    })?;
    let output = Command::new(crate::process::program("veghe-agent"))
        .args(["fixity", "report", "--state-dir"])
        .arg(&state_dir)
        .output()?;
    let told = String::from_utf8(output.stdout)?;
    ensure!(told.contains("mismatch  damaged  7.tif"), "{told}");
    watcher.interrupt()?;
    Ok(())
}

/// Xorshift: chooses the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
