//! Tests that mount, each in a name space of mounts of its own.

use std::path::Path;
use std::process::Command;

/// Set where file systems may be mounted.
const INSIDE: &str = "VEGHE_TEST_MAY_MOUNT";

/// Runs the test `name` of this program once more in a name space of mounts of its own, where `mounts` is what happens. Says so
/// where nobody may mount or `device` is missing: a hidden pass would be a lie, that line is in the output of the test command.
///
/// # Panics
/// Where the test fails there.
pub(crate) fn run(name: &str, device: &str, mounts: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return mounts();
    }
    if !rustix::process::getuid().is_root() || !Path::new(device).exists() {
        eprintln!("SKIPPED: {name} takes the right to mount, and {device}");
        return;
    }
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(own).env(INSIDE, "1");
    let output = command.args(["--exact", name, "--nocapture"]).output().expect("unshare of util-linux");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    eprint!("{text}");
}
