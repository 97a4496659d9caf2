//! That side: runs one check after another and tells each by name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use veghe_tests::process::now;

use crate::checks::Check;
use crate::host::END;

/// Shared with the host.
pub(crate) const WORK: &str = "/mnt/work";
/// On a disk of its own.
pub(crate) const SCRATCH: &str = "/srv/ext4";

/// What the checks have.
pub(crate) struct Machine {
    tests: BTreeMap<String, PathBuf>,
}

impl Machine {
    /// Runs the test `name` of the agent's tests `program`, whose output goes to the log `log`; its line that begins with `told`.
    ///
    /// # Errors
    /// Where it fails or skips something, or has no such line.
    pub(crate) fn test(&self, log: &str, program: &str, name: &str, told: &str) -> anyhow::Result<String> {
        let path = self.tests.get(program).context("the test was not built")?;
        let output = Command::new(path)
            .args(["--exact", name, "--nocapture"])
            .env("TMPDIR", SCRATCH)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("agent"))
            .output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        fs::write(Path::new(WORK).join(log).with_extension("log"), &text)?;
        ensure!(output.status.success(), "{}", text.trim());
        ensure!(text.contains("test result: ok. 1 passed"), "no test {name}: {}", text.trim());
        ensure!(!text.contains("SKIPPED"), "{}", text.trim());
        let line = text.lines().find(|line| line.contains(told));
        line.map(|line| line.trim().to_owned()).with_context(|| format!("it does not say `{told}`: {text}"))
    }
}

/// Runs `checks`; whatever else they say goes to their logs.
///
/// # Errors
/// Where nothing can be told.
pub(crate) fn run<'a>(checks: impl Iterator<Item = &'a Check>) -> anyhow::Result<ExitCode> {
    let tests = serde_json::from_slice(&fs::read(Path::new(WORK).join("tests.json"))?)?;
    let machine = Machine { tests };
    let begin = now();
    let mut failed = 0;
    tell(&format!("the machine runs {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()))?;
    for check in checks {
        let begin = now();
        let told = (check.run)(&machine);
        let seconds = begin.elapsed().as_secs();
        match told {
            Ok(text) => tell(&format!("ok      {:<24} {seconds:>4} s  {text}", check.name))?,
            Err(error) => {
                failed += 1;
                tell(&format!("FAILED  {:<24} {seconds:>4} s  {error:#}", check.name))?;
            }
        }
    }
    tell(&format!("{failed} failed, {} s", begin.elapsed().as_secs()))?;
    tell(&format!("{END} {}", u8::from(failed > 0)))?;
    Ok(ExitCode::SUCCESS)
}

fn tell(line: &str) -> anyhow::Result<()> {
    let mut out = File::options().append(true).open(Path::new(WORK).join("results"))?;
    writeln!(out, "{line}").context("results")
}
