//! Programs that tests write themselves, in place of those that the agent asks.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes the shell script `text` to `path`, for everybody to start.
///
/// Another process does it: what a test beside this one starts in the meantime would have the file open for writing until it
/// is another program, and Linux starts no file that somebody may write ("text file busy").
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    shell.stdin.take().expect("piped").write_all(text.as_bytes()).expect("write");
    assert!(shell.wait().expect("end").success(), "cannot write {}", path.display());
}
