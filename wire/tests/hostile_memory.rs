//! What the most hostile payloads of few bytes cost in memory; in a process of its own, so that nobody else's counts.

use std::fs;

use veghe_wire::batch::{Decoder, MAX_CYCLES, PayloadError};
use veghe_wire::{MAJOR, MAX_BATCH_BYTES};

/// Bytes of a field of `/proc/self/status`.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with(field)).expect("field");
    line.split_whitespace().nth(1).expect("number").parse::<u64>().expect("number") * 1024
}

/// A payload that decompresses to `part`, repeated as often as given.
fn payload(part: &[u8], times: usize) -> Vec<u8> {
    let mut payload = vec![MAJOR];
    payload.extend(zstd::bulk::compress(&part.repeat(times), 1).expect("zstd"));
    payload
}

/// How much the most memory in use rose while `payload` was decoded.
fn peak(payload: &[u8]) -> (Result<usize, PayloadError>, u64) {
    // 5 resets the high-water mark to what is in use now.
    fs::write("/proc/self/clear_refs", "5").expect("clear_refs");
    let before = status("VmRSS:");
    let decoded = Decoder::new().expect("zstd").decode(payload).map(|batch| batch.cycles.len());
    (decoded, status("VmHWM:").saturating_sub(before))
}

#[test]
fn eight_mebibytes_of_empty_cycles_claim_little_more_than_themselves() {
    const EMPTY_CYCLE: [u8; 2] = [6 << 3 | 2, 0];
    let hostile = payload(&EMPTY_CYCLE, MAX_BATCH_BYTES / 2);
    assert!(hostile.len() < 4096, "{} bytes on the wire", hostile.len());
    let (decoded, bytes) = peak(&hostile);
    assert!(matches!(decoded, Err(PayloadError::Excess)));
    assert!(bytes < 12 << 20, "{bytes} bytes for a batch that is refused");
    let (decoded, bytes) = peak(&payload(&EMPTY_CYCLE, MAX_CYCLES));
    assert_eq!(decoded.expect("as many as may be"), MAX_CYCLES);
    assert!(bytes < 8 << 20, "{bytes} bytes for the most cycles");
}
