//! The columns of an inventory and how those of another program are mapped to them.

use std::collections::BTreeMap;

use super::super::unit::{MAX_LEAVES, MAX_WIDTH_MM, Unit};

/// A column: its name in the file, whether every row must fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// As in the header.
    pub name: &'static str,
    /// Whether an empty cell is a problem.
    pub is_required: bool,
    /// Bytes of a cell.
    pub max_bytes: usize,
}

const fn column(name: &'static str, max_bytes: usize) -> Column {
    Column { name, is_required: false, max_bytes }
}

const fn required(name: &'static str, max_bytes: usize) -> Column {
    Column { name, is_required: true, max_bytes }
}

/// Every column, in the order in which it is written.
pub const COLUMNS: [Column; 19] = [
    required("cod_unitate", 64),
    column("fond", 256),
    column("inventar", 256),
    column("nr_crt", 32),
    column("tip", 64),
    column("titlu", 1024),
    column("ani_extremi", 64),
    column("termen_pastrare", 64),
    required("nr_file", 32),
    required("latime_mm", 32),
    column("format", 64),
    column("legatura", 64),
    column("stare", 128),
    column("acces", 64),
    column("cutie", 64),
    column("locatie", 128),
    column("prioritate", 32),
    column("lot", 64),
    column("pagini_estimate", 32),
];

/// The text of a unit in the column at `place` of [`COLUMNS`].
pub(super) fn cell(unit: &Unit, place: usize) -> String {
    let text = match place {
        0 => &unit.code,
        1 => &unit.fonds,
        2 => &unit.series,
        3 => &unit.number,
        4 => &unit.kind,
        5 => &unit.title,
        6 => &unit.years,
        7 => &unit.retention,
        8 => return unit.leaves.to_string(),
        9 => return unit.width_mm.to_string(),
        10 => &unit.format,
        11 => &unit.binding,
        12 => &unit.condition,
        13 => &unit.access,
        14 => &unit.container,
        15 => &unit.location,
        16 => return if unit.priority == 0 { String::new() } else { unit.priority.to_string() },
        17 => &unit.batch,
        _ => return unit.pages.map_or(String::new(), |pages| pages.to_string()),
    };
    text.clone()
}

/// Puts the text of a cell into `unit`.
///
/// # Errors
/// What is wrong with the text, and what to write instead.
pub(super) fn fill(unit: &mut Unit, place: usize, text: &str) -> Result<(), String> {
    let Column { is_required, max_bytes, .. } = COLUMNS[place];
    let text = text.trim();
    if text.is_empty() {
        return if is_required { Err("is empty; every unit needs it".to_owned()) } else { Ok(()) };
    }
    if text.len() > max_bytes {
        return Err(format!("is longer than {max_bytes} bytes; shorten it"));
    }
    if text.chars().any(char::is_control) {
        return Err("has a line break or control character; write it on one line".to_owned());
    }
    let slot = match place {
        0 => &mut unit.code,
        1 => &mut unit.fonds,
        2 => &mut unit.series,
        3 => &mut unit.number,
        4 => &mut unit.kind,
        5 => &mut unit.title,
        6 => &mut unit.years,
        7 => &mut unit.retention,
        8 => {
            unit.leaves = number(text, 0, MAX_LEAVES)?;
            return Ok(());
        }
        9 => {
            unit.width_mm = number(text, 1, MAX_WIDTH_MM)?;
            return Ok(());
        }
        10 => &mut unit.format,
        11 => &mut unit.binding,
        12 => &mut unit.condition,
        13 => &mut unit.access,
        14 => &mut unit.container,
        15 => &mut unit.location,
        16 => {
            unit.priority = number(text, 1, 255)? as u8;
            return Ok(());
        }
        17 => &mut unit.batch,
        _ => {
            unit.pages = Some(number(text, 0, 2 * MAX_LEAVES)?);
            return Ok(());
        }
    };
    text.clone_into(slot);
    Ok(())
}

/// Reads a number with a decimal comma or point, to the nearest whole one.
fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let digits = text.replace(',', ".");
    let is_number = digits.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    match digits.parse::<f64>() {
        Ok(number) if is_number && (f64::from(least)..=f64::from(most)).contains(&number.round()) => {
            Ok(number.round() as u32)
        }
        Ok(_) if is_number => Err(format!("`{text}` is not within {least} to {most}")),
        _ => {
            let shown: String = text.chars().take(40).collect();
            Err(format!("`{shown}` is not a number; write for example `31` or `31,5`"))
        }
    }
}

/// Which columns of a file stand for which of ours, beside those that have our names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping(BTreeMap<String, usize>);

/// Why a mapping can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// There is no `=`.
    #[error("`{0}` is no mapping; write OURS=THEIRS, for example `latime_mm=Grosime`")]
    Form(String),
    /// It names no column of ours.
    #[error("`{0}` is none of our columns: {all}", all = COLUMNS.map(|column| column.name).join(", "))]
    Column(String),
}

impl Mapping {
    /// Reads `OURS=THEIRS` each.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn parse<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Self, MappingError> {
        let mut mapping = BTreeMap::new();
        for pair in pairs {
            let (ours, theirs) = pair.split_once('=').ok_or_else(|| MappingError::Form(pair.to_owned()))?;
            let place = COLUMNS.iter().position(|column| column.name == ours.trim());
            mapping.insert(plain(theirs), place.ok_or_else(|| MappingError::Column(ours.to_owned()))?);
        }
        Ok(Self(mapping))
    }

    /// The column of ours that a header names; case, accents and spaces do not matter.
    pub(super) fn place(&self, header: &str) -> Option<usize> {
        let header = plain(header);
        self.0.get(&header).copied().or_else(|| {
            // A column that a mapping fills from elsewhere is not filled twice.
            let place = COLUMNS.iter().position(|column| column.name == header)?;
            (!self.0.values().any(|mapped| *mapped == place)).then_some(place)
        })
    }
}

/// `Lățime (mm)` as `latime_mm`.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.trim().chars().flat_map(char::to_lowercase) {
        match c {
            'ă' | 'â' => plain.push('a'),
            'î' => plain.push('i'),
            // Also with the cedillas of old keyboards.
            'ș' | '\u{15f}' => plain.push('s'),
            'ț' | '\u{163}' => plain.push('t'),
            c if c.is_alphanumeric() => plain.push(c),
            _ if !plain.is_empty() && !plain.ends_with('_') => plain.push('_'),
            _ => {}
        }
    }
    plain.trim_end_matches('_').to_owned()
}
