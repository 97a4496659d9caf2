//! adjtimex(2): how well the kernel's clock is disciplined, by whom, and how far it may be off.
//!
//! Invariant: the kernel is only asked; no mode bit is ever set, so that nothing changes and no privilege is needed.
//! The one unsafe call of this crate is here, as no safe wrapper of this system call exists among its dependencies.

use std::io;

use super::{Entry, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new("timex", |_| Vec::new(), |_| Box::new(Timex)).unless(|_| {
    // Some containers' filters forbid the call.
    adjtimex().err().map(|error| format!("cannot ask the kernel by adjtimex: {error}"))
});

const NANOSECONDS: f64 = 1e9;
const MICROSECONDS: f64 = 1e6;
/// Frequencies are in parts per million with 16 fractional bits.
const PPM_SCALE: f64 = 1e6 * 65536.0;

/// `node_timex_*`.
pub(crate) struct Timex;

impl Sensor for Timex {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let (state, timex) = adjtimex().map_err(|source| SensorError::Ask { call: "adjtimex", source })?;
        put(state, &timex, sink);
        Ok(())
    }
}

fn put(state: i32, timex: &libc::timex, sink: &mut Sink) {
    let fraction = if timex.status & libc::STA_NANO == 0 { MICROSECONDS } else { NANOSECONDS };
    let is_synchronized = state != libc::TIME_ERROR;
    sink.put("node_timex_estimated_error_seconds", &[], timex.esterror as f64 / MICROSECONDS);
    sink.put("node_timex_frequency_adjustment_ratio", &[], 1.0 + timex.freq as f64 / PPM_SCALE);
    sink.put("node_timex_loop_time_constant", &[], timex.constant as f64);
    sink.put("node_timex_maxerror_seconds", &[], timex.maxerror as f64 / MICROSECONDS);
    sink.put("node_timex_offset_seconds", &[], timex.offset as f64 / fraction);
    sink.put("node_timex_pps_calibration_total", &[], timex.calcnt as f64);
    sink.put("node_timex_pps_error_total", &[], timex.errcnt as f64);
    sink.put("node_timex_pps_frequency_hertz", &[], timex.ppsfreq as f64 / PPM_SCALE);
    sink.put("node_timex_pps_jitter_seconds", &[], timex.jitter as f64 / fraction);
    sink.put("node_timex_pps_jitter_total", &[], timex.jitcnt as f64);
    sink.put("node_timex_pps_shift_seconds", &[], f64::from(timex.shift));
    sink.put("node_timex_pps_stability_exceeded_total", &[], timex.stbcnt as f64);
    sink.put("node_timex_pps_stability_hertz", &[], timex.stabil as f64 / PPM_SCALE);
    sink.put("node_timex_status", &[], f64::from(timex.status));
    sink.put("node_timex_sync_status", &[], f64::from(u8::from(is_synchronized)));
    sink.put("node_timex_tai_offset_seconds", &[], f64::from(timex.tai));
    sink.put("node_timex_tick_seconds", &[], timex.tick as f64 / MICROSECONDS);
}

/// The clock's state (`TIME_OK`, `TIME_ERROR` and so on) and the kernel's variables.
#[expect(unsafe_code, reason = "no dependency wraps adjtimex(2)")]
fn adjtimex() -> io::Result<(i32, libc::timex)> {
    // SAFETY: `timex` consists of integers only, for which all zeros are a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for reads and writes of one `timex` during the call, and the kernel keeps none.
    // `modes` is zero, so that the call only reads the clock's variables.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok((state, timex)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(state: i32, timex: &libc::timex) -> Vec<(String, f64)> {
        let mut sink = Sink::default();
        put(state, timex, &mut sink);
        let (series, values) = sink.take();
        series.0.iter().map(|name| name.metric().to_owned()).zip(values).collect()
    }

    fn value(of: &[(String, f64)], metric: &str) -> f64 {
        of.iter().find(|(name, _)| name == metric).expect("metric").1
    }

    #[test]
    fn units_follow_the_resolution_that_the_kernel_tells() {
        let (_, mut timex) = adjtimex().expect("adjtimex");
        (timex.status, timex.offset, timex.jitter) = (libc::STA_PLL, 1500, 250);
        (timex.freq, timex.maxerror, timex.tick) = (-65536, 2_000_000, 10_000);
        let coarse = values(libc::TIME_ERROR, &timex);
        timex.status |= libc::STA_NANO;
        let fine = values(libc::TIME_OK, &timex);
        for (metric, expected) in [("node_timex_offset_seconds", 1500.0), ("node_timex_pps_jitter_seconds", 250.0)] {
            assert_eq!((value(&coarse, metric), value(&fine, metric)), (expected / 1e6, expected / 1e9), "{metric}");
        }
        assert_eq!(value(&fine, "node_timex_frequency_adjustment_ratio"), 1.0 - 1e-6);
        assert_eq!((value(&fine, "node_timex_maxerror_seconds"), value(&fine, "node_timex_tick_seconds")), (2.0, 0.01));
        assert_eq!(value(&coarse, "node_timex_sync_status"), 0.0);
        assert_eq!(value(&fine, "node_timex_sync_status"), 1.0);
        assert_eq!(value(&fine, "node_timex_status"), f64::from(libc::STA_PLL | libc::STA_NANO));
    }
}
