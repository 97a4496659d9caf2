//! Starts a test of this program again as a child under `shim.c`, which strikes at one of its calls that change files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a child said and how it ended.
pub(crate) struct Child {
    pub(crate) output: String,
    pub(crate) code: Option<i32>,
}

/// How a child ends that was struck down.
pub(crate) const STRUCK: i32 = 77;

/// Compiles the shim into `work`.
pub(crate) fn compile(work: &Path) -> PathBuf {
    let shim = work.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/shim.c");
    let mut command = Command::new("cc");
    command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).args(["-ldl", "-lpthread"]);
    assert!(command.status().expect("a C compiler").success(), "shim compiles");
    shim
}

/// Runs the test called `test`, which works on the directory that `VEGHE_SHIM_DIR` names.
pub(crate) fn run(test: &str, dir: &Path, shim: &Path, mode: &str, at: u64, count_to: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", shim)
        .env("VEGHE_SHIM_DIR", dir)
        .env("VEGHE_SHIM_MODE", mode)
        .env("VEGHE_SHIM_AT", at.to_string());
    if let Some(path) = count_to {
        command.env("VEGHE_SHIM_COUNT", path);
    }
    let output = command.output().expect("child starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Child { output: text, code: output.status.code() }
}
