//! Ports for servers that can't be told to take any.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel gives to sockets that ask for any, which are everywhere while tests run.
const LOWEST: u32 = 10_000;
const COUNT: u32 = 20_000;

/// A port that is free on all addresses, by TCP and UDP, and stays so: no other server of this program gets it, and other
/// programs begin elsewhere.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    let mut ports = (0..COUNT).map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        (LOWEST + number % COUNT) as u16
    });
    let is_free =
        |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok() && UdpSocket::bind(("0.0.0.0", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}
