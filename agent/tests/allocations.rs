//! What is read every few seconds for years is read without allocating, once it has seen what there is.

#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use veghe_agent::sensors::{self, Roots, SensorSettings, Sink};

/// The system's, which counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe to be; it only counts and passes on")]
// SAFETY: all that is asked is passed to the system's as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sensors that run at every cycle and whose sources change with it.
const HOT: [&str; 16] = [
    "conntrack",
    "cpu",
    "cpufreq",
    "diskstats",
    "entropy",
    "filefd",
    "hwmon",
    "loadavg",
    "meminfo",
    "netdev",
    "netstat",
    "schedstat",
    "sockstat",
    "softnet",
    "stat",
    "vmstat",
];

/// What asks for a little at each round: few machines have the first two, and the others' questions cost far more.
const OTHERS: [&str; 4] = ["btrfs", "filesystem", "ipvs", "updates"];

/// By sensor, what the fourth round asked for.
fn fourth_rounds(roots: Roots) -> Vec<(&'static str, u64)> {
    let settings = SensorSettings { roots, ..SensorSettings::default() };
    let mut counts = Vec::new();
    for mut sensor in sensors::all(&settings) {
        let mut sink = Sink::default();
        for round in 0..4 {
            let before = ASKED.with(Cell::get);
            let outcome = sensor.read(&mut sink);
            let asked = ASKED.with(Cell::get) - before;
            if outcome.is_ok() && round == 3 {
                counts.push((sensor.name(), asked));
            }
            sink.take();
        }
    }
    counts
}

#[test]
fn hot_sensors_ask_for_no_memory_once_they_have_seen_what_there_is() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let captured = Roots {
        proc: fixtures.join("proc"),
        sys: fixtures.join("sys"),
        udev: fixtures.join("udev"),
        ..Roots::default()
    };
    let counts = fourth_rounds(captured);
    let hot = counts.iter().filter(|(name, _)| HOT.contains(name)).count();
    assert_eq!(hot, HOT.len(), "all of them have something to read: {counts:?}");
    let asking: Vec<_> = counts.iter().filter(|(name, asked)| *asked > 0 && !OTHERS.contains(name)).collect();
    assert!(asking.is_empty(), "{asking:?} of {counts:?}");
}
