//! Readings in Prometheus' text format, for `once`.
//!
//! Families are ascending by name, with the catalogue's help and type. What it deliberately does not do: time stamps,
//! as the text is read at once.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use veghe_wire::catalogue;

use crate::reading::{Round, SeriesName};

/// Appends `round` to `out`.
pub fn write_text(round: &Round, out: &mut String) {
    let mut families: BTreeMap<&str, Vec<(&SeriesName, f64)>> = BTreeMap::new();
    for reading in &round.readings {
        for (series, &value) in reading.series.0.iter().zip(&reading.values) {
            families.entry(series.metric()).or_default().push((series, value));
        }
    }
    for (name, series) in families {
        // A string takes every write.
        write_family(name, &series, out).ok();
    }
}

fn write_family(name: &str, series: &[(&SeriesName, f64)], out: &mut String) -> fmt::Result {
    if let Some(metric) = catalogue::lookup(name) {
        let help = metric.help_for(name).replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", metric.kind.as_str())?;
    }
    for (series, value) in series {
        out.push_str(name);
        for (index, (label, value)) in series.labels().iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(out, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' })?;
        }
        let close = if series.labels().is_empty() { "" } else { "}" };
        writeln!(out, "{close} {}", Number(*value))?;
    }
    Ok(())
}

/// A number as the format wants it: the shortest text that reads back as the same.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if self.0 == f64::INFINITY {
            f.write_str("+Inf")
        } else if magnitude >= 1e21 && self.0.is_finite() || magnitude > 0.0 && magnitude < 1e-5 {
            write!(f, "{:e}", self.0)
        } else if self.0 == f64::NEG_INFINITY {
            f.write_str("-Inf")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reading::{Reading, SeriesSet};

    #[test]
    fn families_are_together_and_labels_are_escaped() {
        let reading = |sensor, series: Vec<SeriesName>, values| Reading {
            sensor,
            series: Arc::new(SeriesSet(series)),
            values,
            ended: None,
        };
        let device = |device| SeriesName::new("node_disk_io_now", &[("device", device)]);
        let readings = vec![
            reading("a", vec![device("sda"), SeriesName::new("node_load1", &[])], vec![1.0, 0.25]),
            reading("b", vec![device("a\"b\\c\nd")], vec![f64::INFINITY]),
        ];
        let mut text = String::new();
        write_text(&Round { timestamp_ms: 0, readings }, &mut text);
        insta::assert_snapshot!(text, @r##"
        # HELP node_disk_io_now The number of I/Os currently in progress.
        # TYPE node_disk_io_now gauge
        node_disk_io_now{device="sda"} 1
        node_disk_io_now{device="a\"b\\c\nd"} +Inf
        # HELP node_load1 1m load average.
        # TYPE node_load1 gauge
        node_load1 0.25
        "##);
    }

    proptest::proptest! {
        #[test]
        fn numbers_read_back(value in proptest::num::f64::ANY) {
            let back: f64 = Number(value).to_string().parse().expect("a number");
            proptest::prop_assert!(back.to_bits() == value.to_bits() || back.is_nan() && value.is_nan());
        }
    }
}
