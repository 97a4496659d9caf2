//! Backfill: samples of the past as text become durable commits, in bounded memory however long the text is.
//!
//! Invariants: what a finished import counts as stored is on disk; a line that is refused is told with its number and
//! keeps no other out; a text whose time stamps could be seconds as well as milliseconds is refused before anything of
//! it is stored. What it deliberately does not do: HTTP (`web`), or ask for the time.

pub mod command;
mod exposition;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use veghe_model::Timestamp;
use veghe_tsdb::{Commit, CommitError, SealError, SeriesId, Store};

use self::exposition::{Line, Sample, Time};

/// A line may be this long, help texts included: the labels of one series have at most 64 KiB.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Samples in one commit.
const COMMIT_SAMPLES: usize = 200_000;
/// Bytes of series texts that are new in one commit: well below what a log record may hold.
const COMMIT_SERIES_BYTES: usize = 8 << 20;
/// Bytes of series texts that are remembered; beyond, all are forgotten and looked up anew.
const MAX_KNOWN_BYTES: usize = 64 << 20;
/// Above this, windows of the store's head are sealed between two commits.
const HEAD_BYTES: u64 = 768 << 20;
/// How far ahead of the clock a time stamp may be, as with remote write.
const MAX_AHEAD: Duration = Duration::from_mins(10);
/// Nothing measured is older: 1901, by 32 bits of seconds.
const EARLIEST_MS: i64 = -2_147_483_648_000;
/// From here on a whole number is milliseconds: as seconds it would be the year 5138, and as milliseconds it is 1973.
const SURELY_MILLISECONDS: i64 = 100_000_000_000;
/// Problems told with their line; the others are counted.
const MAX_PROBLEMS: usize = 20;

/// How a text is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As its lines tell; where they don't, it is refused
    #[default]
    Auto,
    /// Prometheus' text format, or what `promtool tsdb dump` prints: time stamps in milliseconds
    Prometheus,
    /// OpenMetrics: time stamps in seconds, `# EOF` at the end
    OpenMetrics,
}

/// How a text is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    Plain,
    /// gzip, also of several members.
    Gzip,
    /// zstd, also of several frames.
    Zstd,
}

impl Packing {
    /// The packing of a file by the bytes with which it begins.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// `reader` unpacked.
    ///
    /// # Errors
    /// Where no unpacker can be made.
    pub fn unpack<'a>(self, reader: impl BufRead + Send + 'a) -> io::Result<Box<dyn BufRead + Send + 'a>> {
        const ROOM_BYTES: usize = 128 << 10;
        Ok(match self {
            Self::Plain => Box::new(reader),
            Self::Gzip => Box::new(BufReader::with_capacity(ROOM_BYTES, flate2::bufread::MultiGzDecoder::new(reader))),
            // It needs at most the 128 MiB that zstd allows by default.
            Self::Zstd => {
                Box::new(BufReader::with_capacity(ROOM_BYTES, zstd::stream::read::Decoder::with_buffer(reader)?))
            }
        })
    }
}

/// A line that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it: `line 3` and these words are a sentence.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} {}", self.line, self.problem)
    }
}

/// What became of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Samples that are on disk now, or were before: of a repeat the first stays.
    pub samples: u64,
    /// Series that they belong to.
    pub series: u64,
    /// The oldest of them, in milliseconds since the epoch.
    pub min_time_ms: Option<i64>,
    /// The newest of them, in milliseconds since the epoch.
    pub max_time_ms: Option<i64>,
    /// Exemplars that were left out: none are kept.
    pub dropped_exemplars: u64,
    /// Lines that were refused.
    pub refused: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
}

impl Summary {
    /// Why lines were refused, for a person; empty where none was.
    pub fn problem_text(&self) -> String {
        let mut lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        let more = self.refused - self.problems.len() as u64;
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.join("\n")
    }
}

/// Why an import ended early. What was committed until then stays, and a repeat changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text can't be read on.
    #[error("cannot read on after line {line}")]
    Read {
        /// The last line that was read whole.
        line: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// Nobody can tell the unit of the time stamps.
    #[error(
        "cannot tell whether time stamps such as {time} are seconds or milliseconds; say so: format `openmetrics` has \
         seconds, format `prometheus` has milliseconds"
    )]
    Ambiguous {
        /// One of them.
        time: i64,
    },
    /// The store failed.
    #[error("cannot store samples")]
    Commit(#[from] CommitError),
    /// The store can't make room.
    #[error("cannot seal samples to make room")]
    Seal(#[from] SealError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
}

/// Reads one text into a store.
pub struct Importer {
    store: Store,
    now: Timestamp,
    format: Format,
    unit: Option<Unit>,
    known: HashMap<Box<str>, SeriesId>,
    known_bytes: usize,
    seen: roaring::RoaringBitmap,
    commit: Commit,
    new_bytes: usize,
    /// Samples whose time stamps wait for their unit, by their lines.
    undecided: Vec<(u64, SeriesId, i64, f64)>,
    ended: bool,
    summary: Summary,
}

impl Importer {
    /// An import into `store`; samples without a time stamp were taken at `now`.
    pub fn new(store: Store, format: Format, now: Timestamp) -> Self {
        let unit = match format {
            Format::Auto => None,
            Format::Prometheus => Some(Unit::Milliseconds),
            Format::OpenMetrics => Some(Unit::Seconds),
        };
        Self {
            store,
            now,
            format,
            unit,
            known: HashMap::new(),
            known_bytes: 0,
            seen: roaring::RoaringBitmap::new(),
            commit: Commit::default(),
            new_bytes: 0,
            undecided: Vec::new(),
            ended: false,
            summary: Summary::default(),
        }
    }

    /// What was stored so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Reads `text` to its end and stores its samples. Blocks until they are on disk.
    ///
    /// # Errors
    /// [`ImportError`]; [`Self::summary`] tells what was stored all the same.
    pub fn run(&mut self, mut text: impl BufRead) -> Result<(), ImportError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let failed = |source| ImportError::Read { line: self.summary.lines, source };
            let length = text.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)?;
            if length == 0 {
                break;
            }
            let whole = line.pop_if(|last| *last == b'\n').is_some() || length < MAX_LINE_BYTES;
            if !whole {
                text.skip_until(b'\n').map_err(failed)?;
            }
            self.summary.lines += 1;
            if whole {
                self.line(&line)?;
            } else {
                self.refuse(format!("has more than {MAX_LINE_BYTES} bytes"));
            }
        }
        self.decide_at_the_end()?;
        self.store()?;
        if self.format == Format::OpenMetrics && !self.ended {
            self.refuse("is the last one and no `# EOF`: the text may have been cut off".to_owned());
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), ImportError> {
        let read = match exposition::read(line) {
            Ok(Line::Nothing) => return Ok(()),
            Ok(_) if self.ended => Err("comes after `# EOF`".to_owned()),
            read => read,
        };
        match read {
            Ok(Line::Nothing) => {}
            Ok(Line::OnlyOpenMetrics) => self.decide(Unit::Seconds),
            Ok(Line::OnlyText) => self.decide(Unit::Milliseconds),
            Ok(Line::End) => {
                self.decide(Unit::Seconds);
                self.ended = true;
            }
            Ok(Line::Sample(sample)) => self.sample(&sample)?,
            Err(problem) => self.refuse(problem),
        }
        Ok(())
    }

    fn sample(&mut self, sample: &Sample<'_>) -> Result<(), ImportError> {
        self.summary.dropped_exemplars += u64::from(sample.has_exemplar);
        let id = match self.known.get(sample.series) {
            Some(id) => *id,
            None => match self.learn(sample.series) {
                Ok(id) => id,
                Err(problem) => {
                    self.refuse(problem);
                    return Ok(());
                }
            },
        };
        match sample.time {
            None => self.take(self.summary.lines, id, self.now.millis(), sample.value),
            Some(Time::Seconds(seconds)) => {
                self.decide(Unit::Seconds);
                if self.unit == Some(Unit::Seconds) {
                    self.take(self.summary.lines, id, (seconds * 1000.0).round() as i64, sample.value);
                } else {
                    self.refuse(format!("has the time stamp {seconds}, which is no whole number of milliseconds"));
                }
            }
            Some(Time::Whole(time)) => {
                // The dump of a Prometheus has milliseconds.
                if time >= SURELY_MILLISECONDS || sample.series.starts_with("{__name__=") {
                    self.decide(Unit::Milliseconds);
                }
                match self.unit {
                    Some(unit) => self.take(self.summary.lines, id, in_milliseconds(time, unit), sample.value),
                    None => self.undecided.push((self.summary.lines, id, time, sample.value)),
                }
            }
        }
        if self.undecided.len() >= COMMIT_SAMPLES {
            self.decide_at_the_end()?;
        }
        if self.commit.samples.len() >= COMMIT_SAMPLES || self.new_bytes >= COMMIT_SERIES_BYTES {
            self.decide_at_the_end()?;
            self.store()?;
        }
        Ok(())
    }

    fn learn(&mut self, series: &str) -> Result<SeriesId, String> {
        let labels = exposition::labels(series)?;
        let id = self.store.series(&labels).map_err(|error| format!("is refused: {error}"))?;
        if self.known_bytes > MAX_KNOWN_BYTES {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += series.len() + 64;
        self.new_bytes += series.len();
        self.known.insert(series.into(), id);
        Ok(id)
    }

    /// The unit of every time stamp so far and from here on, unless it is known already.
    fn decide(&mut self, unit: Unit) {
        if self.unit.is_none() {
            self.unit = Some(unit);
            for (line, id, time, value) in std::mem::take(&mut self.undecided) {
                self.take(line, id, in_milliseconds(time, unit), value);
            }
        }
    }

    fn decide_at_the_end(&mut self) -> Result<(), ImportError> {
        match self.undecided.first() {
            Some(&(_, _, time, _)) => Err(ImportError::Ambiguous { time }),
            None => Ok(()),
        }
    }

    fn take(&mut self, line: u64, id: SeriesId, time_ms: i64, value: f64) {
        let why = if time_ms > self.now.saturating_add(MAX_AHEAD).millis() {
            "too far in the future"
        } else if time_ms < EARLIEST_MS {
            "too old"
        } else {
            self.commit.samples.push((id, Timestamp(time_ms), value));
            return;
        };
        self.refuse_line(line, format!("has a time stamp that is {why}: {time_ms} ms since 1970"));
    }

    fn refuse(&mut self, problem: String) {
        self.refuse_line(self.summary.lines, problem);
    }

    fn refuse_line(&mut self, line: u64, problem: String) {
        self.summary.refused += 1;
        if self.summary.problems.len() < MAX_PROBLEMS {
            self.summary.problems.push(Problem { line, problem });
        }
    }

    fn store(&mut self) -> Result<(), ImportError> {
        let commit = std::mem::take(&mut self.commit);
        self.new_bytes = 0;
        let summary = &mut self.summary;
        let samples = commit.samples.len() as u64;
        let times = commit.samples.iter().map(|(_, time, _)| time.millis());
        let (oldest, newest) = (times.clone().min(), times.max());
        let ids: Vec<u32> = commit.samples.iter().map(|(id, ..)| id.0).collect();
        self.store.commit(commit)?;
        summary.samples += samples;
        summary.min_time_ms = [summary.min_time_ms, oldest].into_iter().flatten().min();
        summary.max_time_ms = [summary.max_time_ms, newest].into_iter().flatten().max();
        self.seen.extend(ids);
        summary.series = self.seen.len();
        while self.store.stats().head_bytes > HEAD_BYTES {
            let report = self.store.seal(self.now)?;
            if !report.more {
                break;
            }
        }
        Ok(())
    }
}

fn in_milliseconds(time: i64, unit: Unit) -> i64 {
    match unit {
        Unit::Seconds => time.saturating_mul(1000),
        Unit::Milliseconds => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use veghe_tsdb::Options;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("directory");
        let options = Options { dir: dir.path().to_owned(), window: Duration::from_hours(2), max_series: 1000 };
        let store = Store::open(options).expect("store").0;
        (dir, store)
    }

    fn import(store: &Store, format: Format, text: &[u8]) -> Result<Summary, ImportError> {
        let mut importer = Importer::new(store.clone(), format, NOW);
        importer.run(text)?;
        Ok(importer.summary().clone())
    }

    fn stored(store: &Store) -> Vec<(String, i64, f64)> {
        let found = store.select(&[], Timestamp::MIN, Timestamp::MAX).expect("select");
        found.iter().flat_map(|s| s.iter().map(|x| (s.labels.to_string(), x.timestamp.millis(), x.value))).collect()
    }

    #[test]
    fn both_formats_and_a_dump_are_the_same_samples() {
        let texts = [
            "# TYPE a counter\na_total{x=\"1\"} 1.5 1700000000123\na_total{x=\"1\"} 2 1700000060000\n",
            "# TYPE a counter\na_total{x=\"1\"} 1.5 1700000000.123 # {id=\"q\"} 1\na_total{x=\"1\"} 2 1700000060\n# EOF\n",
            // Whole seconds wait for what tells their unit.
            "a_total{x=\"1\"} 2 1700000060\na_total{x=\"1\"} 1.5 1.700000000123e9\n# EOF",
            "{__name__=\"a_total\", x=\"1\"} 1.5 1700000000123\n{__name__=\"a_total\", x=\"1\"} 2 1700000060000\n",
        ];
        for text in texts {
            let (_dir, store) = store();
            let summary = import(&store, Format::Auto, text.as_bytes()).expect("import");
            let series = r#"a_total{x="1"}"#.to_owned();
            assert_eq!(stored(&store), [(series.clone(), 1_700_000_000_123, 1.5), (series, 1_700_000_060_000, 2.0)]);
            assert_eq!((summary.samples, summary.series, summary.refused), (2, 1, 0), "{text}: {summary:?}");
            assert_eq!(summary.min_time_ms.zip(summary.max_time_ms), Some((1_700_000_000_123, 1_700_000_060_000)));
        }
    }

    #[test]
    fn a_refused_line_is_told_with_its_number_and_keeps_no_other_out() {
        let (_dir, store) = store();
        let long = format!("# HELP a {}\n", "x".repeat(MAX_LINE_BYTES));
        let text = format!(
            "a 1 1700000000000\n\nb\n{long}c 1 1900000000000\nd 1 -9000000000000\ne 1 1700000000000.5\nf{{}} 2\n"
        );
        let summary = import(&store, Format::Auto, text.as_bytes()).expect("import");
        let lines: Vec<_> = summary.problems.iter().map(Problem::to_string).collect();
        assert_eq!(
            lines,
            [
                "line 3 has no value",
                "line 4 has more than 1048576 bytes",
                "line 5 has a time stamp that is too far in the future: 1900000000000 ms since 1970",
                "line 6 has a time stamp that is too old: -9000000000000 ms since 1970",
                "line 7 has the time stamp 1700000000000.5, which is no whole number of milliseconds",
            ]
        );
        assert_eq!((summary.lines, summary.samples, summary.refused), (8, 2, 5));
        assert_eq!(stored(&store), [("a".to_owned(), 1_700_000_000_000, 1.0), ("f".to_owned(), NOW.millis(), 2.0)]);
    }

    #[test]
    fn a_text_of_an_unknown_unit_is_refused_before_anything_is_stored() {
        let (_dir, store) = store();
        let text = b"a 1 1700000000\na 2 1700000015\n";
        let error = import(&store, Format::Auto, text).expect_err("ambiguous");
        assert!(error.to_string().contains("1700000000 are seconds or milliseconds"), "{error}");
        assert_eq!(stored(&store), []);
        let summary = import(&store, Format::OpenMetrics, text).expect("seconds");
        assert_eq!(stored(&store)[0].1, 1_700_000_000_000);
        assert_eq!(summary.problem_text(), "line 2 is the last one and no `# EOF`: the text may have been cut off");
        let after = import(&store, Format::OpenMetrics, b"# EOF\na 3 1700000030\n").expect("seconds");
        assert_eq!(after.problem_text(), "line 2 comes after `# EOF`");
    }

    #[test]
    fn packed_texts_are_unpacked() {
        let text = b"a 1 1700000000000\n";
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        gzip.write_all(text).expect("gzip");
        let zstd = zstd::encode_all(&text[..], 3).expect("zstd");
        for packed in [text.to_vec(), gzip.finish().expect("gzip"), zstd] {
            let (_dir, store) = store();
            let mut importer = Importer::new(store.clone(), Format::Auto, NOW);
            importer.run(Packing::of(&packed).unpack(&*packed).expect("unpacker")).expect("import");
            assert_eq!(stored(&store).len(), 1);
            let cut = Packing::of(&packed).unpack(&packed[..packed.len() - 1]).expect("unpacker");
            let result = Importer::new(store, Format::Auto, NOW).run(cut);
            assert_eq!(result.is_err(), packed != text, "a packed text that is cut off is no whole text");
        }
    }

    #[test]
    fn a_long_text_is_stored_in_several_commits() {
        let (_dir, store) = store();
        let mut text = Vec::new();
        for i in 0..(COMMIT_SAMPLES as i64 + 10) {
            writeln!(text, "a{{n=\"{}\"}} {i} {}", i % 10, 1_700_000_000_000 + i * 1000).expect("text");
        }
        let summary = import(&store, Format::Auto, &text).expect("import");
        assert_eq!((summary.samples, summary.series), (COMMIT_SAMPLES as u64 + 10, 10));
        assert_eq!(stored(&store).len(), COMMIT_SAMPLES + 10);
    }
}
