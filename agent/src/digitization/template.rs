//! Path templates: what the names of folders and files tell of an image, for example `{unit}/{batch}/{station}/...`.
//!
//! A template is a list of segments apart by `/`. In a segment `{unit}`, `{batch}` and `{station}` take text (with a pattern
//! after a colon only text that matches it: `{unit:CJT-*-????-*}`), `*` stands for any text, all else for itself; a
//! field takes as much as it can. `...` at the end stands for any folders and the file's name. Without it the last segment is
//! the file's name.
//! Invariants: matching costs a product of two bounded lengths; what comes out is within the bounds of the wire.

use crate::sensors::glob;

/// Segments of a template.
const MAX_SEGMENTS: usize = 16;
/// Parts of a segment.
const MAX_PARTS: usize = 16;
/// Bytes of a path segment that is looked at; file systems have no longer ones.
const MAX_SEGMENT_BYTES: usize = 255;
/// Bytes of a unit's or batch's name, as on the wire.
const MAX_CODE_BYTES: usize = 64;
/// Folders below the template's own that `...` stands for.
const REST_DEPTH: usize = 8;

/// What a path can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Unit,
    Batch,
    Station,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Any,
    Field(Field, Option<String>),
}

/// A template of paths below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    segments: Vec<Vec<Part>>,
    has_rest: bool,
}

/// What a path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which unit.
    pub unit: String,
    /// Which batch.
    pub batch: Option<String>,
    /// Which station.
    pub station: Option<String>,
}

/// Why a path tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is not as the template wants.
    Template,
    /// A unit or batch is longer than 64 bytes, has control characters or is no UTF-8.
    Name,
    /// A station is not 1 to 32 letters, digits, `.`, `_` or `-`.
    Station,
}

impl Template {
    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Folders between the root and the deepest file that may match.
    pub fn depth(&self) -> usize {
        if self.has_rest { self.segments.len() + REST_DEPTH } else { self.segments.len().saturating_sub(1) }
    }

    /// Segments, without the rest.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether it gives a unit or at least a batch.
    pub fn names_a_unit(&self) -> bool {
        self.has(Field::Unit)
    }

    fn has(&self, field: Field) -> bool {
        self.segments.iter().flatten().any(|part| matches!(part, Part::Field(f, _) if *f == field))
    }

    /// What `path`, relative and with `/`, tells.
    ///
    /// # Errors
    /// See [`Misfit`].
    pub fn read(&self, path: &str) -> Result<Place, Misfit> {
        let mut place = Place::default();
        let mut given = path.split('/');
        for parts in &self.segments {
            let segment = given.next().ok_or(Misfit::Template)?;
            let mut taken = Vec::new();
            if segment.len() > MAX_SEGMENT_BYTES || !fits(parts, segment, &mut Failed::new(parts, segment), &mut taken)
            {
                return Err(Misfit::Template);
            }
            for (field, text) in taken {
                match field {
                    Field::Unit => place.unit = code(text)?,
                    Field::Batch => place.batch = Some(code(text)?),
                    Field::Station => place.station = Some(word(text).ok_or(Misfit::Station)?),
                }
            }
        }
        let rest = given.count();
        if (self.has_rest && (1..=REST_DEPTH).contains(&rest)) || (!self.has_rest && rest == 0) {
            Ok(place)
        } else {
            Err(Misfit::Template)
        }
    }
}

fn code(text: &str) -> Result<String, Misfit> {
    let is_good = text.len() <= MAX_CODE_BYTES && !text.chars().any(char::is_control) && !text.contains('\u{fffd}');
    if is_good && !text.trim().is_empty() { Ok(text.to_owned()) } else { Err(Misfit::Name) }
}

/// `text` where it may be a station or another label: 1 to 32 letters, digits, `.`, `_` or `-`.
pub(crate) fn word(text: &str) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    ((1..=32).contains(&text.len()) && text.chars().all(is_word)).then(|| text.to_owned())
}

/// Which parts are known not to fit from which place on, so that each pair is tried once.
struct Failed {
    parts: usize,
    length: usize,
    known: Vec<bool>,
}

impl Failed {
    fn new(parts: &[Part], segment: &str) -> Self {
        let length = segment.len() + 1;
        Self { parts: parts.len(), length, known: vec![false; (parts.len() + 1) * length] }
    }

    fn at(&mut self, parts_left: usize, text_left: usize) -> Option<&mut bool> {
        self.known.get_mut((self.parts - parts_left) * self.length + text_left)
    }
}

/// Whether `segment` is made of `parts`; notes what the fields take. The longest text first.
fn fits<'a>(parts: &[Part], segment: &'a str, failed: &mut Failed, taken: &mut Vec<(Field, &'a str)>) -> bool {
    let Some((part, rest)) = parts.split_first() else { return segment.is_empty() };
    if failed.at(parts.len(), segment.len()).is_some_and(|failed| *failed) {
        return false;
    }
    let is_fit = match part {
        Part::Text(text) => segment.strip_prefix(text.as_str()).is_some_and(|left| fits(rest, left, failed, taken)),
        Part::Any => splits(segment, 0).any(|(_, left)| fits(rest, left, failed, taken)),
        Part::Field(field, pattern) => splits(segment, 1).any(|(text, left)| {
            if pattern.as_ref().is_some_and(|pattern| !glob::matches(pattern.as_bytes(), text.as_bytes())) {
                return false;
            }
            taken.push((*field, text));
            let is_fit = fits(rest, left, failed, taken);
            if !is_fit {
                taken.pop();
            }
            is_fit
        }),
    };
    if !is_fit && let Some(failed) = failed.at(parts.len(), segment.len()) {
        *failed = true;
    }
    is_fit
}

/// Every way to cut `segment` in two, the longest first part first, which has at least `least` bytes.
fn splits(segment: &str, least: usize) -> impl Iterator<Item = (&str, &str)> {
    (least..=segment.len()).rev().filter_map(|at| segment.split_at_checked(at))
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut segments: Vec<&str> = text.split('/').collect();
        let has_rest = segments.last() == Some(&"...");
        if has_rest {
            segments.pop();
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("has more than {MAX_SEGMENTS} segments"));
        }
        let parsed: Result<Vec<Vec<Part>>, String> = segments.into_iter().map(parse_segment).collect();
        let template = Self { text: text.to_owned(), segments: parsed?, has_rest };
        for (field, name) in [(Field::Unit, "unit"), (Field::Batch, "batch"), (Field::Station, "station")] {
            let count = template.segments.iter().flatten().filter(|p| matches!(p, Part::Field(f, _) if *f == field));
            if count.count() > 1 {
                return Err(format!("has {{{name}}} twice; write `*` for the second"));
            }
        }
        if !template.has(Field::Unit) && !template.has(Field::Batch) {
            return Err(format!("`{text}` names no {{unit}}; write for example `{{unit}}/{{batch}}/...`"));
        }
        Ok(template)
    }
}

fn parse_segment(segment: &str) -> Result<Vec<Part>, String> {
    if segment.is_empty() || segment == ".." || segment == "." {
        return Err(format!(
            "has the segment `{segment}`; write folder names or fields such as {{unit}} between single `/`"
        ));
    }
    if segment == "..." {
        return Err("has `...` before its end; it may stand there only".to_owned());
    }
    let mut parts = Vec::new();
    let mut left = segment;
    while !left.is_empty() {
        let part = if let Some(after) = left.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or_else(|| format!("`{segment}` has `{{` without `}}`"))?;
            left = after;
            let (name, pattern) = inside.split_once(':').map_or((inside, None), |(name, p)| (name, Some(p.to_owned())));
            let field = match name {
                "unit" => Field::Unit,
                "batch" => Field::Batch,
                "station" => Field::Station,
                other => {
                    return Err(format!("has the field {{{other}}}; there are {{unit}}, {{batch}} and {{station}}"));
                }
            };
            if pattern.as_ref().is_some_and(|pattern| pattern.is_empty() || pattern.len() > MAX_SEGMENT_BYTES) {
                return Err(format!("has an empty or overlong pattern in {{{name}:}}"));
            }
            Part::Field(field, pattern)
        } else if let Some(after) = left.strip_prefix('*') {
            left = after;
            Part::Any
        } else {
            let (text, after) = left.split_at(left.find(['{', '*']).unwrap_or(left.len()));
            if text.contains('}') {
                return Err(format!("`{segment}` has `}}` without `{{`"));
            }
            left = after;
            Part::Text(text.to_owned())
        };
        parts.push(part);
    }
    if parts.len() > MAX_PARTS {
        return Err(format!("`{segment}` has more than {MAX_PARTS} parts"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(template: &str, path: &str) -> Result<(String, Option<String>, Option<String>), Misfit> {
        let place = template.parse::<Template>().expect(template).read(path)?;
        Ok((place.unit, place.batch, place.station))
    }

    fn told(unit: &str, batch: Option<&str>, station: Option<&str>) -> (String, Option<String>, Option<String>) {
        (unit.to_owned(), batch.map(str::to_owned), station.map(str::to_owned))
    }

    #[test]
    fn folders_and_file_names_tell_unit_batch_and_station() {
        let unit = "CJT-URB-1987-0142";
        let all = told(unit, Some("L-0031"), Some("S02"));
        let path = "CJT-URB-1987-0142/L-0031/S02/0001.tif";
        assert_eq!(read("{unit}/{batch}/{station}/...", path), Ok(all.clone()));
        assert_eq!(read("{unit:CJT-*-????-*}/{batch:L-*}/{station}/*.tif", path), Ok(all.clone()));
        assert_eq!(read("{unit}/...", "CJT-URB-1987-0142/a/b/c.tif"), Ok(told(unit, None, None)));
        assert_eq!(read("*/{unit}_*.tif", "today/CJT-URB-1987-0142_0001.tif"), Ok(told(unit, None, None)));
        assert_eq!(read("{unit}_{batch}_{station}_*", "CJT-URB-1987-0142_L-0031_S02_0001.tif"), Ok(all));
        assert_eq!(read("{unit}_*", "U_7_0001.tif"), Ok(told("U_7", None, None)), "a field takes what it can");
    }

    #[test]
    fn what_does_not_fit_is_told_apart() {
        let template = "{unit:CJT-*}/{station}/...";
        for (path, why) in [
            ("0001.tif", Misfit::Template),
            ("CJT-1/0001.tif", Misfit::Template),
            ("XYZ-1/S02/0001.tif", Misfit::Template),
            ("CJT-1/S 02/0001.tif", Misfit::Station),
            ("CJT-1/S02/a/b/c/d/e/f/g/h/0001.tif", Misfit::Template),
            ("CJT-1\u{fffd}/S02/0001.tif", Misfit::Name),
        ] {
            assert_eq!(read(template, path), Err(why), "{path}");
        }
        assert_eq!(read(template, &format!("CJT-{}/S02/1.tif", "9".repeat(61))), Err(Misfit::Name));
        assert_eq!(read("{unit}/*.tif", "U/a/1.tif"), Err(Misfit::Template));
    }

    #[test]
    fn a_template_that_cannot_be_meant_is_refused() {
        for wrong in [
            "",
            "...",
            "*/...",
            "{unit}//x",
            "{unit}/../x",
            ".../{unit}",
            "{unit}/{unit}",
            "{unti}/...",
            "{unit",
            "unit}/{batch}",
            "{unit:}/...",
        ] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_template_reads_any_path_without_a_panic(template in "[{}*a-c:/.unitbatch]{0,40}", path in ".{0,80}") {
            if let Ok(template) = template.parse::<Template>() {
                drop(template.read(&path));
            }
        }

        #[test]
        fn a_hostile_name_costs_little(a in 1..80usize) {
            let name = "a".repeat(255);
            let template = format!("{{unit}}{}b", "*a".repeat(7));
            let template: Template = template.parse().expect("template");
            prop_assert!(template.read(name.split_at(255 - a).0).is_err());
        }
    }
}
