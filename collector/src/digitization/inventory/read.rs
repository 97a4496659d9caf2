//! Reads an inventory from CSV or XLSX, row by row, and notes every problem with row, column and remedy.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use calamine::{Data, DataRef, Reader as _, Xlsx};

use super::super::unit::Unit;
use super::columns::{COLUMNS, Mapping, fill};

/// Units of one inventory.
const MAX_UNITS: usize = 200_000;
/// Columns of one file.
const MAX_COLUMNS: usize = 256;
/// Bytes of a file.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Problems that are kept; the rest is counted.
const MAX_PROBLEMS: usize = 1000;

/// Why a file can't be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system gives nothing.
    #[error("cannot read inventory {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is too large.
    #[error("inventory {} has more than {} MiB; split it", path.display(), MAX_FILE_BYTES >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is no workbook.
    #[error("cannot read inventory {} as XLSX; save it as XLSX or as CSV UTF-8", path.display())]
    Workbook {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: calamine::XlsxError,
    },
}

/// Something about a cell, a row or the whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line of a CSV file or the row of a sheet, from 1; 0 is the whole file.
    pub row: u64,
    /// The column's name; empty where it is about the row.
    pub column: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// `row 17, nr_file: ...`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.row, self.column.as_str()) {
            (0, "") => f.write_str(&self.message),
            (row, "") => write!(f, "row {row}: {}", self.message),
            (row, column) => write!(f, "row {row}, {column}: {}", self.message),
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Reading {
    /// The units of good rows, in the file's order.
    pub units: Vec<Unit>,
    /// What keeps the file from being used; the first 1000.
    pub problems: Vec<Problem>,
    /// How many there are in all.
    pub problem_count: usize,
    /// What is odd and does not keep the file from being used.
    pub warnings: Vec<Problem>,
}

/// Reads the file at `path`: XLSX (its first sheet) where it begins as one, else CSV.
///
/// # Errors
/// Where there is nothing to read; what is wrong with its content is in the reading.
pub fn read_file(path: &Path, mapping: &Mapping) -> Result<Reading, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    read_any(BufReader::with_capacity(1 << 16, file), mapping).map_err(|error| match error {
        calamine::XlsxError::Io(source) => failed(source),
        source => FileError::Workbook { path: path.to_owned(), source },
    })
}

/// Reads what begins as XLSX as that, else as CSV.
///
/// # Errors
/// Where it is no workbook although it begins as one, or can't be read.
pub(in crate::digitization) fn read_any(
    mut file: impl Read + Seek,
    mapping: &Mapping,
) -> Result<Reading, calamine::XlsxError> {
    let mut magic = [0; 4];
    let is_zip = file.read(&mut magic)? == 4 && magic == *b"PK\x03\x04";
    file.rewind()?;
    if !is_zip {
        return Ok(read_csv(file, mapping));
    }
    super::room::check(&mut file)?;
    file.rewind()?;
    // calamine counts a cell's place without looking whether it runs over, which panics in builds that do look.
    catch_unwind(AssertUnwindSafe(|| read_sheet(&mut Xlsx::new(file)?, mapping)))
        .unwrap_or(Err(calamine::XlsxError::Unexpected("a cell is at a place that no sheet has")))
}

/// Reads CSV: UTF-8 with or without a byte order mark, separated by `;`, a tab or a comma, whichever the header has.
pub fn read_csv(mut input: impl Read, mapping: &Mapping) -> Reading {
    let mut table = Table::new(mapping);
    let mut head = Vec::new();
    if let Err(error) = input.by_ref().take(1 << 14).read_to_end(&mut head) {
        table.problem(0, "", format!("cannot be read: {error}"));
        return table.reading;
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
    let delimiter = [b';', b'\t', b','].into_iter().find(|one| first.contains(one)).unwrap_or(b';');
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(io::Cursor::new(head).chain(input));
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                table.problem(0, "", format!("cannot be read further: {error}"));
                break;
            }
        }
        let row = record.position().map_or(0, csv::Position::line);
        let cells: Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
        let Ok(cells) = cells else {
            table.problem(row, "", "is not UTF-8; save the file as `CSV UTF-8`");
            if table.header.is_none() {
                break;
            }
            continue;
        };
        if !table.row(row, &cells) {
            break;
        }
    }
    table.finish()
}

fn read_sheet<R: Read + Seek>(book: &mut Xlsx<R>, mapping: &Mapping) -> Result<Reading, calamine::XlsxError> {
    let mut table = Table::new(mapping);
    let Some(sheet) = book.sheet_names().into_iter().next() else {
        table.problem(0, "", "has no sheet");
        return Ok(table.finish());
    };
    let mut cells = book.worksheet_cells_reader(&sheet)?;
    let (mut row, mut texts) = (0_u32, Vec::<String>::new());
    let mut go_on = true;
    while go_on {
        let Some(cell) = cells.next_cell()? else { break };
        let (at_row, at_column) = cell.get_position();
        if at_row != row {
            go_on = table.texts(u64::from(row) + 1, &texts);
            texts.clear();
            row = at_row;
        }
        let column = at_column as usize;
        if column < MAX_COLUMNS {
            texts.resize(texts.len().max(column + 1), String::new());
            texts[column] = text_of(cell.get_value());
        }
    }
    if go_on {
        table.texts(u64::from(row) + 1, &texts);
    }
    Ok(table.finish())
}

fn text_of(value: &DataRef<'_>) -> String {
    match value {
        DataRef::Empty => String::new(),
        DataRef::SharedString(text) => (*text).to_owned(),
        other => match Data::from(other.clone()) {
            // A sheet keeps whole numbers as floats.
            Data::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("{number:.0}"),
            Data::Error(error) => format!("#{error:?}"),
            other => other.to_string(),
        },
    }
}

/// Takes rows, the header first.
struct Table<'a> {
    mapping: &'a Mapping,
    /// For each column of the file the place of ours.
    header: Option<Vec<Option<usize>>>,
    /// Rows of the codes seen.
    seen: HashMap<String, u64>,
    reading: Reading,
}

impl<'a> Table<'a> {
    fn new(mapping: &'a Mapping) -> Self {
        Self { mapping, header: None, seen: HashMap::new(), reading: Reading::default() }
    }

    fn problem(&mut self, row: u64, column: &str, message: impl Into<String>) {
        self.reading.problem_count += 1;
        if self.reading.problems.len() < MAX_PROBLEMS {
            self.reading.problems.push(Problem { row, column: column.to_owned(), message: message.into() });
        }
    }

    fn texts(&mut self, row: u64, texts: &[String]) -> bool {
        let cells: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.row(row, &cells)
    }

    /// Takes a row; false where reading on makes no sense.
    fn row(&mut self, row: u64, cells: &[&str]) -> bool {
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            return true;
        }
        let Some(header) = self.header.take() else { return self.take_header(row, cells) };
        let go_on = self.take_unit(row, cells, &header);
        self.header = Some(header);
        go_on
    }

    fn take_header(&mut self, row: u64, cells: &[&str]) -> bool {
        let before = self.reading.problem_count;
        let mut header = Vec::new();
        for cell in cells.iter().take(MAX_COLUMNS) {
            let place = self.mapping.place(cell);
            if let Some(place) = place
                && header.contains(&Some(place))
            {
                self.problem(row, COLUMNS[place].name, "is there twice; remove one of them");
            }
            header.push(place);
        }
        for (place, column) in COLUMNS.iter().enumerate().filter(|(_, column)| column.is_required) {
            if !header.contains(&Some(place)) {
                let remedy = format!("has no such column; add it, or name yours with `--map {}=YOURS`", column.name);
                self.problem(row, column.name, remedy);
            }
        }
        self.header = Some(header);
        self.reading.problem_count == before
    }

    fn take_unit(&mut self, row: u64, cells: &[&str], header: &[Option<usize>]) -> bool {
        if self.reading.units.len() >= MAX_UNITS {
            self.problem(row, "", format!("is one unit too many; an inventory has at most {MAX_UNITS}"));
            return false;
        }
        if cells.len() > header.len() && cells[header.len()..].iter().any(|cell| !cell.trim().is_empty()) {
            let message = format!(
                "has {} cells, the header {}; quote texts that have the separator in them",
                cells.len(),
                header.len()
            );
            self.problem(row, "", message);
            return true;
        }
        let before = self.reading.problem_count;
        let mut unit = Unit::default();
        for (at, place) in header.iter().enumerate() {
            let Some(place) = *place else { continue };
            if let Err(message) = fill(&mut unit, place, cells.get(at).copied().unwrap_or("")) {
                self.problem(row, COLUMNS[place].name, message);
            }
        }
        if let Some(first) = self.seen.get(&unit.code).copied().filter(|_| !unit.code.is_empty()) {
            self.problem(
                row,
                "cod_unitate",
                format!("`{}` is in row {first} already; each unit has a code of its own", unit.code),
            );
        } else {
            self.seen.insert(unit.code.clone(), row);
        }
        if self.reading.problem_count > before {
            return true;
        }
        for oddity in unit.oddities() {
            if self.reading.warnings.len() < MAX_PROBLEMS {
                let column = oddity.column().to_owned();
                self.reading.warnings.push(Problem { row, column, message: oddity.to_string() });
            }
        }
        self.reading.units.push(unit);
        true
    }

    fn finish(mut self) -> Reading {
        if self.header.is_none() && self.reading.problem_count == 0 {
            self.problem(0, "", "is empty; its first row must name the columns");
        } else if self.reading.units.is_empty() && self.reading.problem_count == 0 {
            self.problem(0, "", "has no unit below its header");
        }
        self.reading
    }
}
