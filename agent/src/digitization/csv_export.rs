//! Exports of capture software: each row of a growing or a new CSV file becomes one event, once.
//!
//! Invariants: only whole lines are read; how far a file was read and what was told of it are in one transaction; an id is made of
//! what a row says and how often the same was in the file before, so that a file that is written anew, renamed or copied tells
//! nothing twice. Memory is bounded by one piece of a file.
//! What it deliberately does not do: watch by inotify (a look now and then is enough), guess columns.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use jiff::civil;
use serde_json::{Map, Value, json};
use veghe_wire::AgentId;

use super::Trouble;
use super::event::Draft;
use super::hotfolder::Look;
use super::settings::{CsvExport, Encoding};
use super::status::{ExportStatus, Status};
use super::store::{CsvFile, MAX_WAITING, Store};
use super::template::word;
use crate::sensors::linux::found;

/// Files of one export.
const MAX_FILES: usize = 10_000;
/// What is read and told in one transaction.
const PIECE_BYTES: usize = 256 << 10;
/// A line that is longer is none.
const MAX_LINE_BYTES: usize = 64 << 10;
/// What a file is known again by.
const HEAD_BYTES: u64 = 1024;
/// Bad rows of one piece that are named one by one.
const MAX_NAMED: usize = 100;
const MAX_TEXT: usize = 128;
/// The collector takes no event before it (1990-01-01), nor one that is more than ten minutes ahead.
const EARLIEST_MS: i64 = 631_152_000_000;
const FUTURE_MS: i64 = 600_000;

/// What the thread of an export owns.
#[derive(Debug)]
pub(crate) struct Importer {
    settings: CsvExport,
    agent: AgentId,
    store: Store,
    status: Arc<ExportStatus>,
    all: Arc<Status>,
}

/// What is wrong with a row: column and remedy.
type Bad = (String, String);

impl Importer {
    pub(crate) fn new(
        settings: CsvExport,
        agent: AgentId,
        store: Store,
        status: Arc<ExportStatus>,
        all: Arc<Status>,
    ) -> Self {
        Self { settings, agent, store, status, all }
    }

    /// Reads what is new in every file. Returns whether something was told.
    pub(crate) fn look(&mut self, now_ms: i64) -> bool {
        let files = found::files(&self.settings.files, MAX_FILES);
        self.status.files.store(files.len() as u64, Relaxed);
        let mut has_told = false;
        for path in files {
            loop {
                match self.read_piece(&path, now_ms) {
                    Ok(Piece { has_told: told, has_more }) => {
                        has_told |= told;
                        if !has_more {
                            break;
                        }
                    }
                    Err(Trouble::Read(error)) => {
                        tracing::warn!(%error, export = self.settings.name, "cannot read a file of an export");
                        break;
                    }
                    Err(Trouble::Store(error)) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(
                            error,
                            export = self.settings.name,
                            "cannot remember rows; they are read again"
                        );
                        return has_told;
                    }
                }
            }
        }
        has_told
    }

    /// Reads the next whole lines of a file.
    fn read_piece(&mut self, path: &Path, now_ms: i64) -> Result<Piece, Trouble> {
        let mut file = File::open(path)?;
        let look = Look::of(&file.metadata()?);
        let key = path.as_os_str().as_bytes();
        let mut known = self.store.csv_file(&self.settings.name, key)?.unwrap_or_default();
        if known.head_bytes > 0
            && (known.size, known.mtime_ns) == (look.size, look.mtime_ns)
            && known.offset >= look.size
        {
            return Ok(Piece::default());
        }
        let is_other = look.size < known.offset || head(&mut file, known.head_bytes)? != known.head;
        if is_other {
            known = CsvFile::default();
        }
        let (encoding, mark) = self.encoding(&mut file)?;
        let is_new = known.offset == 0;
        if is_new {
            (known.offset, known.line) = (mark, 1);
        }
        file.seek(SeekFrom::Start(known.offset))?;
        let mut bytes = Vec::new();
        file.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
        let whole = whole_lines(&bytes, encoding);
        if whole == 0 {
            if bytes.len() >= MAX_LINE_BYTES {
                let what =
                    format!("has a line of more than {MAX_LINE_BYTES} bytes; is it a CSV file of that encoding?");
                let place = format!("{}:{}", path.display(), known.line);
                self.store.write(|changes| changes.note("csv", &place, &what, now_ms))?;
            }
            return Ok(Piece::default());
        }
        if self.store.waiting()? >= MAX_WAITING {
            return Ok(Piece::default());
        }
        let text = decode(bytes.get(..whole).unwrap_or_default(), encoding);
        let rows = self.settings.rows(&text, path, &mut known, now_ms);
        known.offset += whole as u64;
        (known.size, known.mtime_ns) = (look.size, look.mtime_ns);
        known.head_bytes = known.offset.min(HEAD_BYTES);
        known.head = head(&mut File::open(path)?, known.head_bytes)?;
        let (settings, agent) = (&self.settings, &self.agent);
        let (told, bad) = (rows.good.len() as u64, rows.bad);
        self.store.write(|changes| {
            if is_new {
                changes.forget_rows(&settings.name, key)?;
            }
            for row in &rows.good {
                let repeats = changes.repeats(&settings.name, key, &row.hash)?;
                changes.tell(&event(settings, agent, row, repeats, now_ms))?;
            }
            for (place, what) in &rows.problems {
                changes.note("csv", place, what, now_ms)?;
            }
            changes.add("csv rows", &settings.name, told)?;
            changes.add("csv bad rows", &settings.name, bad)?;
            changes.keep_csv(&settings.name, key, &known)
        })?;
        self.status.rows_total.fetch_add(told, Relaxed);
        self.status.bad_rows_total.fetch_add(bad, Relaxed);
        self.all.waiting.store(self.store.waiting()?, Relaxed);
        if bad > 0 {
            let export = &self.settings.name;
            tracing::warn!(
                export,
                rows = bad,
                "rows of an export can't be read; `veghe-agent digitization` names them"
            );
        }
        Ok(Piece { has_told: told > 0, has_more: bytes.len() == PIECE_BYTES })
    }

    fn encoding(&self, file: &mut File) -> io::Result<(Encoding, u64)> {
        let mut start = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(3).read_to_end(&mut start)?;
        let marked = match start.as_slice() {
            [0xef, 0xbb, 0xbf] => Some((Encoding::Utf8, 3)),
            [0xff, 0xfe, ..] => Some((Encoding::Utf16Le, 2)),
            [0xfe, 0xff, ..] => Some((Encoding::Utf16Be, 2)),
            _ => None,
        };
        Ok(match (self.settings.encoding, marked) {
            (Encoding::Auto, Some(marked)) => marked,
            (Encoding::Auto, None) => (Encoding::Utf8, 0),
            (wanted, Some((found, mark))) if wanted == found => (wanted, mark),
            (wanted, _) => (wanted, 0),
        })
    }
}

impl CsvExport {
    /// What the rows of a piece say. The first line of a file names its columns.
    fn rows(&self, text: &str, path: &Path, known: &mut CsvFile, now_ms: i64) -> Rows {
        let mut rows = Rows::default();
        let file = path.display();
        let first_line = known.line;
        known.line += text.matches('\n').count() as u64;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let mut record = csv::StringRecord::new();
        let (mut counted, mut line) = (0, first_line);
        loop {
            // Not the reader's own number: it counts the end of a line with the one after it.
            let at = reader.position().byte() as usize;
            let blank = text.get(at..).map_or(0, |rest| rest.len() - rest.trim_start_matches(['\r', '\n']).len());
            let passed = text.get(counted..at + blank).unwrap_or_default();
            (line, counted) = (line + passed.matches('\n').count() as u64, at + blank);
            match reader.read_record(&mut record) {
                Ok(false) => return rows,
                Ok(true) => {}
                Err(error) => {
                    rows.refuse(format!("{file}:{line}"), format!("is no row: {error}"));
                    continue;
                }
            }
            if record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            if known.header.is_empty() {
                known.header = record.iter().map(|cell| cell.trim().to_owned()).collect();
                for column in self.columns.values().filter(|column| !known.header.contains(column)) {
                    let there = known.header.join("`, `");
                    rows.problems.push((
                        format!("{file}:{line}"),
                        format!("has no column `{column}`; it has `{there}`: correct digitization.csv.columns"),
                    ));
                }
                continue;
            }
            match self.row(&record, &known.header, now_ms) {
                Ok(row) => rows.good.push(row),
                Err((column, remedy)) => rows.refuse(format!("{file}:{line}"), format!("column `{column}`: {remedy}")),
            }
        }
    }

    /// What one row says.
    fn row(&self, record: &csv::StringRecord, header: &[String], now_ms: i64) -> Result<Row, Bad> {
        let (mut data, mut time_ms) = (Map::new(), None);
        let cells = self.columns.iter().map(|(field, column)| {
            let at = header.iter().position(|name| name == column);
            (field, column.as_str(), at.and_then(|at| record.get(at)).unwrap_or_default().trim())
        });
        let values = self.values.iter().map(|(field, value)| (field, "values", value.as_str()));
        for (field, column, text) in cells.chain(values) {
            let bad = |remedy: String| (column.to_owned(), remedy);
            if text.is_empty() {
                if matches!(field.as_str(), "unit" | "frames" | "time" | "pages" | "stage" | "change" | "outcome") {
                    return Err(bad("is empty; fill it in".to_owned()));
                }
                continue;
            }
            if field == "time" {
                time_ms = Some(self.time(text, now_ms).map_err(bad)?);
                continue;
            }
            data.insert(field.clone(), value(field, text).map_err(bad)?);
        }
        if self.event.starts_with("image.") {
            data.insert("observed_by".to_owned(), json!("csv"));
        }
        let station = data.get("station").and_then(Value::as_str).map(str::to_owned);
        let mut hash = blake3::Hasher::new();
        for cell in record {
            hash.update(&(cell.len() as u64).to_le_bytes());
            hash.update(cell.as_bytes());
        }
        let mut first = [0; 16];
        hash.finalize_xof().fill(&mut first);
        let Some(time_ms) = time_ms else { return Err(("time".to_owned(), "is missing".to_owned())) };
        Ok(Row { hash: first, time_ms, station, data })
    }

    fn time(&self, text: &str, now_ms: i64) -> Result<i64, String> {
        let zone = &self.time_zone;
        let time = match &self.time_format {
            Some(format) => civil::DateTime::strptime(format, text)
                .or_else(|_no_time| civil::Date::strptime(format, text).map(|date| date.at(12, 0, 0, 0)))
                .map_err(|_error| format!("`{text}` is no time of the form `{format}`"))?
                .to_zoned_datetime(zone.clone())
                .map(|zoned| zoned.timestamp()),
            None => text.parse::<jiff::Timestamp>().or_else(|_no_zone| {
                text.parse::<civil::DateTime>()?.to_zoned_datetime(zone.clone()).map(|zoned| zoned.timestamp())
            }),
        };
        let time =
            time.map_err(|_error| format!("`{text}` is no time; set time_format, for example `%d.%m.%Y %H:%M:%S`"))?;
        let ms = time.as_millisecond();
        if (EARLIEST_MS..=now_ms.saturating_add(FUTURE_MS)).contains(&ms) {
            return Ok(ms);
        }
        Err(format!("`{text}` is before 1990 or in the future; correct it, or time_format"))
    }
}

/// What rows of one piece say.
#[derive(Debug, Default)]
struct Rows {
    good: Vec<Row>,
    bad: u64,
    problems: Vec<(String, String)>,
}

impl Rows {
    fn refuse(&mut self, place: String, what: String) {
        self.bad += 1;
        if self.problems.len() < MAX_NAMED {
            self.problems.push((place, what));
        }
    }
}

#[derive(Debug)]
struct Row {
    hash: [u8; 16],
    time_ms: i64,
    station: Option<String>,
    data: Map<String, Value>,
}

#[derive(Debug, Default)]
struct Piece {
    has_told: bool,
    has_more: bool,
}

fn event(settings: &CsvExport, agent: &AgentId, row: &Row, repeats: u32, now_ms: i64) -> String {
    let draft = Draft {
        agent,
        station: row.station.as_deref(),
        kind: &settings.event,
        time_ms: row.time_ms,
        about: &[settings.name.as_bytes(), &row.hash, &repeats.to_le_bytes()],
        data: row.data.clone(),
    };
    draft.to_json(now_ms)
}

/// The value of a field as the collector wants it.
fn value(field: &str, text: &str) -> Result<Value, String> {
    match field {
        "frames" | "pages" | "bytes" | "width_px" | "height_px" | "bits" | "checked" | "rejected" => {
            let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '\u{a0}')).collect();
            digits.parse::<u64>().map(Value::from).map_err(|_error| format!("`{text}` is no whole number"))
        }
        "ppi" | "confidence" => {
            let number = text.replace(',', ".").parse::<f64>().ok().filter(|number| number.is_finite());
            number.map(Value::from).ok_or_else(|| format!("`{text}` is no number"))
        }
        "station" | "reason" => word(text)
            .map(Value::from)
            .ok_or_else(|| format!("`{text}` is not a short name: 1 to 32 letters, digits, `.`, `_` or `-`")),
        "unit" | "batch" if text.len() > 64 => Err(format!("`{text}` is longer than 64 bytes")),
        _ if text.len() > MAX_TEXT || text.chars().any(char::is_control) => {
            Err("is too long, or has control characters".to_owned())
        }
        _ => Ok(Value::from(text)),
    }
}

/// Bytes up to the end of the last whole line.
fn whole_lines(bytes: &[u8], encoding: Encoding) -> usize {
    let wide = match encoding {
        Encoding::Utf16Le => [b'\n', 0],
        Encoding::Utf16Be => [0, b'\n'],
        _ => return bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
    };
    bytes.chunks_exact(2).rposition(|pair| pair == wide).map_or(0, |at| 2 * at + 2)
}

fn decode(bytes: &[u8], encoding: Encoding) -> String {
    let encoding = match encoding {
        Encoding::Auto | Encoding::Utf8 => encoding_rs::UTF_8,
        Encoding::Utf16Le => encoding_rs::UTF_16LE,
        Encoding::Utf16Be => encoding_rs::UTF_16BE,
        Encoding::Windows1250 => encoding_rs::WINDOWS_1250,
    };
    encoding.decode_without_bom_handling(bytes).0.into_owned()
}

/// BLAKE3 of the first bytes of a file.
fn head(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(bytes).read_to_end(&mut first)?;
    Ok(blake3::hash(&first).as_bytes().to_vec())
}

/// Reads bytes after the first one as the whole lines of an export whose columns are named as its fields are.
pub(super) fn fuzz(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let encodings = [Encoding::Auto, Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be, Encoding::Windows1250];
    let (kind, encoding) = (usize::from(*kind), encodings[usize::from(*kind) % encodings.len()]);
    let fields = ["unit", "frames", "time", "station", "ppi", "batch", "format"];
    let settings = CsvExport {
        name: "fuzz".to_owned(),
        files: String::new(),
        encoding,
        delimiter: *b";,\t|".get(kind / 5 % 4).unwrap_or(&b';'),
        event: "image.captured".to_owned(),
        columns: fields.iter().map(|field| ((*field).to_owned(), (*field).to_owned())).collect(),
        values: [("stage".to_owned(), "scan".to_owned())].into(),
        time_format: (kind >= 128).then(|| "%d.%m.%Y %H:%M:%S".to_owned()),
        time_zone: jiff::tz::TimeZone::UTC,
        scan: std::time::Duration::ZERO,
    };
    let Ok(agent) = "fuzz".parse::<AgentId>() else { return };
    let text = decode(bytes.get(..whole_lines(bytes, encoding)).unwrap_or_default(), encoding);
    let mut known = CsvFile { line: 1, ..CsvFile::default() };
    let now_ms = 1_778_767_200_000;
    let rows = settings.rows(&text, Path::new("fuzz.csv"), &mut known, now_ms);
    let lines = text.lines().count().max(text.matches(['\r', '\n']).count()) as u64;
    assert!(rows.good.len() as u64 + rows.bad <= lines, "{} good and {} bad of {lines}", rows.good.len(), rows.bad);
    assert!(rows.problems.len() <= MAX_NAMED + fields.len());
    for row in &rows.good {
        let event = event(&settings, &agent, row, 0, now_ms);
        assert!(serde_json::from_str::<Value>(&event).is_ok_and(|event| event["id"].is_string()), "{event}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;
    use crate::digitization::settings;
    use veghe_wire::document::{Node, Problems};

    /// 2026-05-14, afternoon.
    const NOW_MS: i64 = 1_778_767_200_000;

    struct Place {
        dir: tempfile::TempDir,
        importer: Importer,
    }

    impl Place {
        fn new(more: &str) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let yaml = format!(
                "csv:\n  - {{name: capture, files: {}/*.csv, time_format: '%d.%m.%Y %H:%M:%S', time_zone: Europe/Bucharest,\n     columns: {{unit: Unitate, frames: Imagini, time: Data, station: Stație}}{more}}}\n",
                dir.path().display()
            );
            let mut problems = Problems::new("agent.yaml");
            let node = Node::parse(&yaml, &mut problems).expect("YAML");
            let settings = settings::read(&mut node.section(&mut problems), &mut problems);
            assert!(problems.is_empty(), "{problems}");
            let export = settings.csv.into_iter().next().expect("export");
            Self { importer: Self::importer(&dir, export), dir }
        }

        fn importer(dir: &tempfile::TempDir, export: CsvExport) -> Importer {
            let store = Store::open(dir.path()).expect("store");
            Importer::new(export, "scan-1".parse().expect("id"), store, Arc::default(), Arc::default())
        }

        /// As after a kill.
        fn restart(&mut self) {
            self.importer = Self::importer(&self.dir, self.importer.settings.clone());
        }

        fn append(&self, name: &str, bytes: &[u8]) {
            let file = OpenOptions::new().create(true).append(true).open(self.dir.path().join(name));
            file.expect("open").write_all(bytes).expect("write");
        }

        /// Units and images that are told so far, in order.
        fn told(&mut self) -> Vec<(String, u64)> {
            self.importer.look(NOW_MS);
            let body = self.importer.store.message().expect("store").map_or_else(|| "[]".to_owned(), |(_, body)| body);
            let events: Vec<Value> = serde_json::from_str(&body).expect("JSON");
            let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
            assert_eq!(ids.len(), events.len(), "no id is there twice");
            let told = events.iter().map(|event| {
                let data = &event["data"];
                (data["unit"].as_str().expect("unit").to_owned(), data["frames"].as_u64().expect("frames"))
            });
            told.collect()
        }
    }

    fn pair(unit: &str, frames: u64) -> (String, u64) {
        (unit.to_owned(), frames)
    }

    const HEADER: &str = "Unitate;Imagini;Data;Stație\r\n";

    #[test]
    fn a_growing_file_is_told_row_by_row_once() {
        let mut place = Place::new("");
        place.append("a.csv", HEADER.as_bytes());
        place.append("a.csv", b"U-1;2;14.05.2026 08:12:31;S02\r\nU-1;3;14.05.2026 08:1");
        assert_eq!(place.told(), [pair("U-1", 2)], "a half line is not read");
        place.append("a.csv", b"3:00;S02\r\nU-1;3;14.05.2026 08:13:00;S02\r\n");
        let all = [pair("U-1", 2), pair("U-1", 3), pair("U-1", 3)];
        assert_eq!(place.told(), all, "the same row again is another one");
        place.restart();
        assert_eq!(place.told(), all);
        let body = place.importer.store.message().expect("store").expect("events").1;
        assert!(body.contains("2026-05-14T05:12:31Z") && body.contains("//veghe/agent/scan-1/station/S02"), "{body}");
    }

    #[test]
    fn a_file_that_is_written_anew_or_copied_has_the_same_ids() {
        let mut place = Place::new("");
        let rows = format!("{HEADER}U-1;2;14.05.2026 08:12:31;S02\nU-2;1;14.05.2026 08:12:31;S02\n");
        place.append("a.csv", rows.as_bytes());
        place.importer.look(NOW_MS);
        let ids = |place: &Place| {
            let body = place.importer.store.message().expect("store").expect("events").1;
            let events: Vec<Value> = serde_json::from_str(&body).expect("JSON");
            events.iter().map(|event| event["id"].to_string()).collect::<Vec<_>>()
        };
        let first = ids(&place);
        fs::copy(place.dir.path().join("a.csv"), place.dir.path().join("b.csv")).expect("copy");
        fs::write(place.dir.path().join("a.csv"), format!("{HEADER}U-1;2;14.05.2026 08:12:31;S02\n")).expect("write");
        place.importer.look(NOW_MS);
        let again = ids(&place);
        assert_eq!(again.len(), 5);
        assert!(again.iter().all(|id| first.contains(id)), "the collector counts each once");
    }

    #[test]
    fn every_encoding_of_windows_programs_is_read() {
        for (encoding, bytes) in [
            (
                ", encoding: windows-1250",
                encoding_rs::WINDOWS_1250
                    .encode("Unitate;Imagini;Data;Stație\nTimi\u{15f}-\u{163};2;14.05.2026 08:12:31;S1\n")
                    .0
                    .into_owned(),
            ),
            (
                "",
                [
                    b"\xef\xbb\xbf",
                    "Unitate;Imagini;Data;Stație\nTimi\u{15f}-\u{163};2;14.05.2026 08:12:31;S1\n".as_bytes(),
                ]
                .concat(),
            ),
            (
                "",
                "\u{feff}Unitate;Imagini;Data;Stație\nTimi\u{15f}-\u{163};2;14.05.2026 08:12:31;S1\n"
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect(),
            ),
            (
                "",
                "\u{feff}Unitate;Imagini;Data;Stație\nTimi\u{15f}-\u{163};2;14.05.2026 08:12:31;S1\n"
                    .encode_utf16()
                    .flat_map(u16::to_be_bytes)
                    .collect(),
            ),
        ] {
            // Windows-1250 has no letter with a comma below: the column is named as it writes it.
            let mut place = Place::new(encoding);
            if !encoding.is_empty() {
                place.importer.settings.columns.remove("station");
            }
            place.append("a.csv", &bytes);
            assert_eq!(place.told(), [pair("Timi\u{15f}-\u{163}", 2)], "{encoding}");
        }
    }

    #[test]
    fn bad_rows_are_told_with_file_row_column_and_remedy() {
        let mut place = Place::new("");
        place.append("a.csv", HEADER.as_bytes());
        place.append("a.csv", b"U-1;two;14.05.2026 08:12:31;S02\nU-1;1;2026-05-14;S02\n;1;14.05.2026 08:12:31;S02\nU-1;1;14.05.2026 08:12:31;S 02\nU-2;1;14.05.2026 08:12:31;S02\n");
        assert_eq!(place.told(), [pair("U-2", 1)]);
        let mut problems = place.importer.store.problems().expect("store");
        problems.sort_by(|a, b| a.1.cmp(&b.1));
        let told: Vec<&str> = problems.iter().map(|(_, _, what, _)| what.as_str()).collect();
        assert_eq!(
            told,
            [
                "column `Imagini`: `two` is no whole number",
                "column `Data`: `2026-05-14` is no time of the form `%d.%m.%Y %H:%M:%S`",
                "column `Unitate`: is empty; fill it in",
                "column `Stație`: `S 02` is not a short name: 1 to 32 letters, digits, `.`, `_` or `-`",
            ]
        );
        assert!(problems[0].1.ends_with("a.csv:2"), "{}", problems[0].1);
        assert_eq!(place.importer.status.bad_rows_total.load(Relaxed), 4);
    }

    #[test]
    fn a_column_that_is_not_there_is_told_with_those_that_are() {
        let mut place = Place::new("");
        place.append("a.csv", b"Unitate;Nr;Data;Sta\xc8\x9bie\nU-1;1;14.05.2026 08:12:31;S02\n");
        assert_eq!(place.told(), []);
        let problems = place.importer.store.problems().expect("store");
        assert!(problems.iter().any(|(_, _, what, _)| what.contains("no column `Imagini`") && what.contains("`Nr`")));
    }
}
