//! Garbage on every port neither stops nor slows others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use url::Url;
use veghe_tests::http;
use veghe_tests::process::{Collector, wait_for};

/// As many of each kind as the issue's long run has; connections stay open until their kind is through.
const OF_EACH: usize = 10_000;
/// Open at once: below the usual limit on file descriptors.
const AT_ONCE: usize = 200;

#[test]
fn garbage_on_every_port_neither_stops_nor_slows_others() {
    let dir = tempfile::tempdir().expect("directory");
    let mut collector = Collector::up(&dir.path().join("data")).expect("up");
    let listeners = collector.listeners.clone();
    let cycles = "max(veghe_agent_cycles_total)";
    wait_for("cycles are stored", || http::query_one(&listeners.ops, cycles)).expect("cycles");

    for url in [&listeners.ops, &listeners.status, &listeners.mqtt] {
        for kind in [random_bytes, huge_length, half_open] {
            let mut open = Vec::with_capacity(AT_ONCE);
            for i in 0..OF_EACH {
                if open.len() == AT_ONCE {
                    open.clear();
                }
                open.extend(kind(url, i as u64));
            }
            // With the last of them still open, everyone is served.
            http::get(&listeners.status.join("/en").expect("url")).expect("status page");
            http::query(&listeners.ops, "up").expect("query");
        }
    }
    let before = http::query_one(&listeners.ops, cycles).expect("query").expect("cycles");
    wait_for("the agent is still heard", || Ok(http::query_one(&listeners.ops, cycles)?.filter(|n| *n > before)))
        .expect("cycles");
    let state_dir = dir.path().join("late");
    collector.join("late", &state_dir, "200ms").expect("join");
    let _agent = veghe_tests::process::agent(&state_dir).expect("agent");
    let late = r#"veghe_agent_cycles_total{instance="late"}"#;
    wait_for("a new agent gets in", || http::query_one(&listeners.ops, late)).expect("cycles");
    assert!(collector.process.is_running().expect("status"));
    assert!(!collector.process.output().expect("log").contains("panicked"));
}

fn connect(url: &Url) -> Option<TcpStream> {
    let stream = TcpStream::connect((url.host_str()?, url.port()?)).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(1))).ok()?;
    Some(stream)
}

/// What the peer makes of it is its affair: it may answer, refuse or close.
fn send(url: &Url, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(url)?;
    stream.write_all(bytes).ok()?;
    Some(stream)
}

fn random_bytes(url: &Url, seed: u64) -> Option<TcpStream> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(16 + seed as usize % 512)
    .collect();
    let mut stream = send(url, &bytes)?;
    let mut answer = [0; 64];
    drop(stream.read(&mut answer));
    Some(stream)
}

fn huge_length(url: &Url, seed: u64) -> Option<TcpStream> {
    match seed % 4 {
        0 => send(url, b"\x16\x03\x01\xff\xff"),
        1 => send(url, b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05"),
        2 => send(url, b"POST /v1/enrol HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9223372036854775807\r\n\r\n{"),
        _ => send(url, &[b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 60_000]].concat()),
    }
}

fn half_open(url: &Url, _seed: u64) -> Option<TcpStream> {
    connect(url)
}
