//! What is left of a process that lets go of everything: alone here, as it concerns the whole process.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

#[test]
fn whoever_has_let_go_writes_nowhere_and_reads_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    file.write_all(b"before").expect("write");
    let folder = File::open(directory.path()).expect("a directory");
    let mut silent = std::net::TcpListener::bind("127.0.0.1:0").expect("socket");
    let address = silent.local_addr().expect("address");
    let standard: Vec<_> = (0..3).map(|number| fs::read_link(format!("/proc/self/fd/{number}")).ok()).collect();
    veghe_agent::departure::let_go();
    let leads = |number: i32| fs::read_link(format!("/proc/self/fd/{number}")).expect("it is open");
    for number in [file.as_raw_fd(), folder.as_raw_fd(), silent.as_raw_fd()] {
        assert_eq!(leads(number).to_str(), Some("/dev/null"));
    }
    file.write_all(b"after").expect("nowhere");
    assert_eq!(file.read_to_string(&mut String::new()).expect("nothing"), 0);
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    // What it held is free.
    silent = std::net::TcpListener::bind(address).expect("nobody listens there");
    drop(silent);
    let now: Vec<_> = (0..3).map(|number| fs::read_link(format!("/proc/self/fd/{number}")).ok()).collect();
    assert_eq!(now, standard, "standard input, output and error stay");
}
