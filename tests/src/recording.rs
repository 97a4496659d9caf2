//! A recorded host: what a real `node_exporter` exposed, scrape by scrape, so that stores are measured on data as
//! compressible as a server's and no more.
//!
//! A file is zstd over lines of tab-separated fields. First line: `time_ms` and the moment of each scrape, milliseconds
//! since the Unix epoch. Every other line is a series as PromQL writes it, then its value at each scrape; an empty field
//! repeats the value before. Series that a scrape lacks are left out, and the labels that name the machine are blanked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use veghe_model::{Labels, MatchOp};

/// Level of zstd: a recording is written once.
const LEVEL: i32 = 19;
/// Labels that tell whose machine was recorded rather than how it behaved.
const IDENTIFYING: [&str; 4] = ["nodename", "domainname", "address", "uuid"];

/// One host's series and their values over time.
pub struct Recording {
    /// Labels of each series, without `instance` and `job`.
    pub series: Vec<Labels>,
    /// When each row was taken, in milliseconds after the first.
    pub offsets_ms: Vec<i64>,
    /// A value of each series, row by row.
    pub rows: Vec<Vec<f64>>,
}

impl Recording {
    /// Reads a file that [`write()`] made.
    ///
    /// # Errors
    /// Names the file and what in it is no recording.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = fs::File::open(path).with_context(|| format!("cannot open recording {}", path.display()))?;
        let text = zstd::decode_all(file).with_context(|| format!("cannot decompress {}", path.display()))?;
        let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no recording", path.display()))
    }

    /// The recording `times` in a row, a scrape apart: what never falls goes on from where it was, as a counter of a machine
    /// that works on; everything else has its values again.
    ///
    /// # Errors
    /// Where there are too few rows to tell how far apart they are.
    pub fn repeated(mut self, times: usize) -> anyhow::Result<Self> {
        let [.., before_last, last] = *self.offsets_ms else { anyhow::bail!("it has fewer than two scrapes") };
        let span = last + (last - before_last);
        let (once_ms, once) = (self.offsets_ms.clone(), self.rows.clone());
        let grown: Vec<f64> = (0..self.series.len())
            .map(|series| {
                let never_falls = once.is_sorted_by(|row, next| row[series] <= next[series]);
                if never_falls { once[once.len() - 1][series] - once[0][series] } else { 0.0 }
            })
            .collect();
        for time in 1..times {
            self.offsets_ms.extend(once_ms.iter().map(|offset| offset + span * time as i64));
            let later =
                |row: &Vec<f64>| row.iter().zip(&grown).map(|(value, grown)| value + grown * time as f64).collect();
            self.rows.extend(once.iter().map(later));
        }
        Ok(self)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let times =
            lines.next().and_then(|line| line.strip_prefix("time_ms\t")).context("its first line has no times")?;
        let times: Vec<i64> = times.split('\t').map(str::parse).collect::<Result<_, _>>()?;
        let first = *times.first().context("it has no scrape")?;
        let mut recording = Self {
            series: Vec::new(),
            offsets_ms: times.iter().map(|time| time - first).collect(),
            rows: vec![Vec::new(); times.len()],
        };
        for line in lines {
            let (series, values) = line.split_once('\t').with_context(|| format!("a series without values: {line}"))?;
            recording.series.push(labels(series)?);
            let mut last = None;
            let mut count = 0;
            for (row, value) in recording.rows.iter_mut().zip(values.split('\t')) {
                if !value.is_empty() {
                    last = Some(value.parse().with_context(|| format!("`{value}` is no value of {series}"))?);
                }
                row.push(last.with_context(|| format!("{series} has no first value"))?);
                count += 1;
            }
            ensure!(count == times.len(), "{series} has {count} values instead of {}", times.len());
        }
        Ok(recording)
    }
}

/// Writes scrapes, each the moment in milliseconds since the Unix epoch and the exposition, oldest first; gives the
/// number of series that all of them have.
///
/// # Errors
/// Where a line is no sample, or the file can't be written.
pub fn write(scrapes: &[(i64, String)], path: &Path) -> anyhow::Result<usize> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (row, (_, exposition)) in scrapes.iter().enumerate() {
        for line in exposition.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
            let of_series = values.entry(series).or_default();
            // One that began or paused is left out in the end: it will be too short.
            if of_series.len() == row {
                of_series.push(value);
            }
        }
    }
    values.retain(|_, of_series| of_series.len() == scrapes.len());
    let mut text = String::from("time_ms");
    for (time, _) in scrapes {
        write!(text, "\t{time}")?;
    }
    for (series, of_series) in &values {
        write!(text, "\n{}", without_identity(&labels(series)?))?;
        let mut last = "";
        for value in of_series {
            text.push('\t');
            if *value != last {
                text.push_str(value);
            }
            last = value;
        }
    }
    text.push('\n');
    fs::write(path, zstd::encode_all(text.as_bytes(), LEVEL)?)
        .with_context(|| format!("cannot write recording {}", path.display()))?;
    Ok(values.len())
}

/// The labels of a series in the notation that expositions and PromQL share.
fn labels(series: &str) -> anyhow::Result<Labels> {
    let matchers = veghe_promql::parse_selector(series).with_context(|| format!("no series: {series}"))?;
    ensure!(matchers.iter().all(|matcher| matcher.op() == MatchOp::Equal), "no series but a selector: {series}");
    Ok(Labels::from_pairs(matchers.iter().map(|matcher| (matcher.name(), matcher.value()))))
}

fn without_identity(labels: &Labels) -> Labels {
    Labels::from_pairs(labels.iter().map(|label| {
        let identifies = IDENTIFYING.contains(&&*label.name);
        (Arc::clone(&label.name), if identifies { "recorded".into() } else { Arc::clone(&label.value) })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_scraped_is_read_again_and_does_not_name_the_machine() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("recording.tsv.zst");
        let scrape = |cpu: &str, more: &str| {
            format!(
                "# HELP c Seconds\nc{{cpu=\"0\",mode=\"a b\"}} {cpu}\nnode_uname_info{{nodename=\"srv\",release=\"6\"}} 1\n{more}"
            )
        };
        let scrapes =
            [(1_000, scrape("1.5", "")), (16_003, scrape("1.5", "late 1\n")), (31_000, scrape("+Inf", "late 2\n"))];
        assert_eq!(write(&scrapes, &path).expect("written"), 2);
        let read = Recording::read(&path).expect("read");
        assert_eq!(read.offsets_ms, [0, 15_003, 30_000]);
        let names: Vec<String> = read.series.iter().map(ToString::to_string).collect();
        assert_eq!(names, [r#"c{cpu="0", mode="a b"}"#, r#"node_uname_info{nodename="recorded", release="6"}"#]);
        assert_eq!(read.rows, [[1.5, 1.0], [1.5, 1.0], [f64::INFINITY, 1.0]]);
    }

    #[test]
    fn a_counter_goes_on_when_a_recording_is_played_again() {
        let text = "time_ms\t1000\t16000\nc\t1\t3.5\ng\t7\t2\n";
        let twice = Recording::parse(text).and_then(|once| once.repeated(2)).expect("recording");
        assert_eq!(twice.offsets_ms, [0, 15_000, 30_000, 45_000]);
        assert_eq!(twice.rows, [[1.0, 7.0], [3.5, 2.0], [3.5, 7.0], [6.0, 2.0]]);
    }

    #[test]
    fn a_file_that_is_cut_is_told_as_such() {
        let error = Recording::parse("time_ms\t1\t2\nup\t1").map(|_| ()).expect_err("one value is missing");
        assert_eq!(error.to_string(), "up has 1 values instead of 2");
    }
}
