//! PDF (ISO 32000-1): pages by the root of the page tree, the first page's image, encryption and PDF/A.
//!
//! Objects are found through the cross-reference tables and streams, each entry looked up where it stands: the
//! tables are never loaded whole. A file without a usable one is not repaired but called damaged.

use std::collections::HashSet;
use std::io::{Read, Seek};

use crate::pdf_object::{Dictionary, Lexer, Object, ObjectNumber};
use crate::source::Source;
use crate::{Completeness, Fault, Found, Image, Inspection};

/// Where the last cross-reference is told; ISO 32000-1, appendix H: `%%EOF` within the last 1024 bytes.
const TAIL_BYTES: u64 = 4096;
/// An object's dictionary, read in one piece.
const OBJECT_BYTES: u64 = 64 << 10;
/// A stream before and after decompression.
const STREAM_BYTES: u64 = 16 << 20;
/// Updates of a file, one cross-reference each.
const MAX_UPDATES: usize = 1024;
/// Steps from a page to its resources or from the root to the first page.
const MAX_STEPS: usize = 64;
/// Streams that must be read to read a stream: its length may be in a stream of objects.
const MAX_NESTED_STREAMS: usize = 8;
const POINTS_PER_INCH: f64 = 72.0;
/// Names the part of PDF/A in metadata.
const PDFA_PART: &[u8] = b"pdfaid:part";

pub(crate) fn inspect<R: Read + Seek>(source: &mut Source<R>, found: &mut Inspection) -> Found<()> {
    let (start, is_complete) = last_cross_reference(source)?;
    if !is_complete {
        found.completeness = Completeness::Truncated;
    }
    let mut document = Document::open(source, start)?;
    found.encrypted = document.trailer.get("Encrypt").is_some_and(|value| *value != Object::Null);
    let described = document.describe(found);
    match described {
        // What is encrypted may hide its directory in compressed objects.
        Err(Fault::Damaged { .. }) if found.encrypted => Ok(()),
        described => described,
    }
}

/// Where the newest cross-reference is, and whether the file ends after the mark that tells.
pub(crate) fn last_cross_reference<R: Read + Seek>(source: &mut Source<R>) -> Found<(u64, bool)> {
    let tail_begin = source.len().saturating_sub(TAIL_BYTES);
    let tail = source.up_to(tail_begin, TAIL_BYTES)?;
    let last = |mark: &[u8]| tail.windows(mark.len()).rposition(|window| window == mark);
    let Some(mark) = last(b"startxref") else { return Err(Fault::Truncated) };
    let is_complete = last(b"%%EOF").is_some_and(|end| end >= mark);
    let mut lexer = Lexer::new(&tail[mark + b"startxref".len()..], tail_begin + mark as u64);
    let start = lexer.next()?.as_ref().and_then(Object::unsigned);
    let damaged = Fault::Damaged { offset: tail_begin + mark as u64, what: "no place of a cross-reference" };
    Ok((start.ok_or(damaged)?, is_complete))
}

/// One cross-reference.
enum Table {
    /// Sections of a table: first object, how many, where their entries of 20 bytes are.
    Text(Vec<(u64, u64, u64)>),
    /// A decompressed stream: pairs of first object and how many, the widths of the fields, the entries.
    Stream { index: Vec<(u64, u64)>, widths: [usize; 3], entries: Vec<u8> },
}

/// Where an object is.
pub(crate) enum Place {
    At(u64),
    /// In a stream of objects.
    Within {
        stream: ObjectNumber,
        index: usize,
    },
}

/// Something drawn by name, with its width and height in points.
type Placement = (Vec<u8>, (f64, f64));

/// What a content stream draws.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Drawn {
    /// By name, 64 at most.
    pub(crate) placed: Vec<Placement>,
    /// Whether it shows letters, or images within itself. What was recognized in a scan is not shown.
    pub(crate) has_more: bool,
}

pub(crate) struct Document<'a, R> {
    source: &'a mut Source<R>,
    /// Newest first.
    tables: Vec<Table>,
    pub(crate) trailer: Dictionary,
    /// Streams that are being read.
    nested: usize,
}

impl<'a, R: Read + Seek> Document<'a, R> {
    pub(crate) fn open(source: &'a mut Source<R>, start: u64) -> Found<Self> {
        let mut document = Self { source, tables: Vec::new(), trailer: Dictionary::default(), nested: 0 };
        let mut visited = HashSet::new();
        let mut waiting = vec![start];
        while let Some(offset) = waiting.pop() {
            if !visited.insert(offset) {
                continue;
            }
            if visited.len() > MAX_UPDATES {
                return Err(Fault::TooLarge("the number of updates"));
            }
            let trailer = document.cross_reference(offset)?;
            // What a hybrid file hides from old readers comes before the update before.
            for key in ["Prev", "XRefStm"] {
                waiting.extend(trailer.get(key).and_then(Object::unsigned));
            }
            if document.tables.len() == 1 {
                document.trailer = trailer;
            }
        }
        Ok(document)
    }

    /// Reads the cross-reference at `offset`; gives its trailer.
    fn cross_reference(&mut self, offset: u64) -> Found<Dictionary> {
        let damaged = |what| Fault::Damaged { offset, what };
        let start = self.source.up_to(offset, 64)?;
        let mut lexer = Lexer::new(&start, offset);
        if lexer.next()? != Some(Object::Word(b"xref".to_vec())) {
            let (dictionary, entries) = self.stream_at(offset)?;
            let number = |value: &Object| value.unsigned().filter(|value| u32::try_from(*value).is_ok());
            let numbers = |key: &str| match dictionary.get(key) {
                Some(Object::Array(items)) => items.iter().map(number).collect::<Option<Vec<u64>>>(),
                _ => None,
            };
            let widths = numbers("W").and_then(|widths| <[u64; 3]>::try_from(widths).ok());
            let widths = widths.filter(|widths| widths.iter().all(|width| *width <= 8));
            let widths = widths.ok_or(damaged("a cross-reference stream without widths"))?.map(|width| width as usize);
            let size = dictionary.get("Size").and_then(Object::unsigned).unwrap_or(0);
            let index = numbers("Index").unwrap_or_else(|| vec![0, size]);
            let index = index.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            self.tables.push(Table::Stream { index, widths, entries });
            return Ok(dictionary);
        }
        let mut sections = Vec::new();
        let mut at = offset + lexer.position() as u64;
        loop {
            let head = self.source.up_to(at, 64)?;
            let mut lexer = Lexer::new(&head, at);
            let first = match lexer.next()? {
                Some(Object::Word(word)) if word == b"trailer" => break,
                first => first.as_ref().and_then(Object::unsigned),
            };
            let count = lexer.next()?.as_ref().and_then(Object::unsigned);
            let (Some(first), Some(count)) = (first, count) else {
                return Err(damaged("a cross-reference without trailer"));
            };
            let spaces = head[lexer.position()..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let entries = at + (lexer.position() + spaces) as u64;
            at = count.checked_mul(20).and_then(|bytes| entries.checked_add(bytes)).ok_or(Fault::Truncated)?;
            sections.push((first, count, entries));
            if sections.len() > 100_000 {
                return Err(Fault::TooLarge("the cross-reference"));
            }
        }
        self.tables.push(Table::Text(sections));
        let bytes = self.source.up_to(at, OBJECT_BYTES)?;
        let mut lexer = Lexer::new(&bytes, at);
        lexer.next()?;
        match lexer.next()? {
            Some(Object::Dictionary(trailer)) => Ok(trailer),
            _ => Err(damaged("a cross-reference without trailer")),
        }
    }

    pub(crate) fn place(&mut self, number: ObjectNumber) -> Found<Option<Place>> {
        let number = u64::from(number);
        for table in &self.tables {
            match table {
                Table::Text(sections) => {
                    for (first, count, entries) in sections {
                        let Some(i) = number.checked_sub(*first).filter(|i| i < count) else { continue };
                        let entry = self.source.at(entries + i * 20, 18)?;
                        if entry[17] != b'n' {
                            continue;
                        }
                        let offset = std::str::from_utf8(&entry[..10]).ok().and_then(|text| text.parse().ok());
                        return Ok(offset.map(Place::At));
                    }
                }
                Table::Stream { index, widths, entries } => {
                    let each = widths.iter().sum::<usize>();
                    let mut before = 0;
                    for (first, count) in index {
                        let Some(i) = number.checked_sub(*first).filter(|i| i < count) else {
                            before += count;
                            continue;
                        };
                        let begin = usize::try_from(before + i).ok().and_then(|i| i.checked_mul(each));
                        let entry = begin.and_then(|begin| entries.get(begin..begin.checked_add(each)?));
                        let Some(entry) = entry else { break };
                        let (kind, rest) = entry.split_at(widths[0]);
                        let (second, third) = rest.split_at(widths[1]);
                        let value = |bytes: &[u8]| bytes.iter().fold(0_u64, |v, b| v << 8 | u64::from(*b));
                        match if kind.is_empty() { 1 } else { value(kind) } {
                            1 => return Ok(Some(Place::At(value(second)))),
                            2 => {
                                let stream = u32::try_from(value(second)).ok();
                                let index = value(third) as usize;
                                return Ok(stream.map(|stream| Place::Within { stream, index }));
                            }
                            _ => {}
                        }
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    /// The object of `number`; of a stream its dictionary.
    fn object(&mut self, number: ObjectNumber) -> Found<Object> {
        match self.place(number)? {
            None => Ok(Object::Null),
            Some(Place::At(offset)) => {
                let bytes = self.source.up_to(offset, OBJECT_BYTES)?;
                let mut lexer = body_of(&bytes, offset)?;
                Ok(lexer.next()?.unwrap_or(Object::Null))
            }
            Some(Place::Within { stream, index }) => {
                let Some(Place::At(offset)) = self.place(stream)? else {
                    return Err(Fault::Damaged { offset: 0, what: "a stream of objects is not there" });
                };
                let (dictionary, bytes) = self.stream_at(offset)?;
                let first = dictionary.get("First").and_then(Object::unsigned).unwrap_or(0) as usize;
                let mut head = Lexer::new(&bytes, offset);
                let mut place = None;
                for _ in 0..=index {
                    let number = head.next()?;
                    place = head.next()?.as_ref().and_then(Object::unsigned);
                    if number.is_none() || place.is_none() {
                        break;
                    }
                }
                let body = place.and_then(|place| bytes.get(first.checked_add(place as usize)?..));
                let body = body.ok_or(Fault::Damaged { offset, what: "a stream of objects without that object" })?;
                Ok(Lexer::new(body, offset).next()?.unwrap_or(Object::Null))
            }
        }
    }

    /// `object`, or what it refers to.
    pub(crate) fn resolved(&mut self, object: Option<&Object>) -> Found<Object> {
        let mut object = object.cloned().unwrap_or(Object::Null);
        for _ in 0..MAX_STEPS {
            let Object::Reference(number) = object else { return Ok(object) };
            object = self.object(number)?;
        }
        Err(Fault::Damaged { offset: 0, what: "references lead in a circle" })
    }

    pub(crate) fn dictionary(&mut self, object: Option<&Object>) -> Found<Dictionary> {
        match self.resolved(object)? {
            Object::Dictionary(dictionary) => Ok(dictionary),
            _ => Ok(Dictionary::default()),
        }
    }

    /// The stream at `offset`, decompressed.
    pub(crate) fn stream_at(&mut self, offset: u64) -> Found<(Dictionary, Vec<u8>)> {
        if self.nested == MAX_NESTED_STREAMS {
            return Err(Fault::Damaged { offset, what: "streams lead in a circle" });
        }
        self.nested += 1;
        let stream = self.read_stream(offset);
        self.nested -= 1;
        stream
    }

    /// The stream at `offset` as it stands there, of at most `limit` bytes.
    pub(crate) fn raw_stream(&mut self, offset: u64, limit: u64) -> Found<(Dictionary, Vec<u8>)> {
        let damaged = |what| Fault::Damaged { offset, what };
        let head = self.source.up_to(offset, OBJECT_BYTES)?;
        let mut lexer = body_of(&head, offset)?;
        let Some(Object::Dictionary(dictionary)) = lexer.next()? else { return Err(damaged("no stream")) };
        if lexer.next()? != Some(Object::Word(b"stream".to_vec())) {
            return Err(damaged("no stream"));
        }
        let mut begin = lexer.position();
        begin += usize::from(head.get(begin) == Some(&b'\r'));
        begin += usize::from(head.get(begin) == Some(&b'\n'));
        let length = self.resolved(dictionary.get("Length"))?.unsigned().ok_or(damaged("a stream without length"))?;
        if length > limit {
            return Err(Fault::TooLarge("a stream"));
        }
        let data = self.source.at(offset + begin as u64, length)?;
        Ok((dictionary, data))
    }

    fn read_stream(&mut self, offset: u64) -> Found<(Dictionary, Vec<u8>)> {
        let damaged = |what| Fault::Damaged { offset, what };
        let (dictionary, data) = self.raw_stream(offset, STREAM_BYTES)?;
        let filter = match dictionary.get("Filter") {
            Some(Object::Array(filters)) if filters.len() == 1 => filters.first().cloned(),
            filter => filter.cloned(),
        };
        let data = match filter.as_ref().map(Object::name) {
            None => data,
            Some(Some(b"FlateDecode" | b"Fl")) => {
                let mut out = Vec::new();
                let mut decoder = flate2::read::ZlibDecoder::new(&data[..]).take(STREAM_BYTES);
                // Some writers cut the checksum at the end: what came before it counts.
                if decoder.read_to_end(&mut out).is_err() && out.is_empty() {
                    return Err(damaged("a stream does not decompress"));
                }
                self.source.charge(out.len() as u64)?;
                out
            }
            Some(_) => return Err(damaged("a stream in an unknown compression")),
        };
        let parameters = match dictionary.get("DecodeParms") {
            Some(Object::Array(items)) => self.dictionary(items.first())?,
            parameters => self.dictionary(parameters)?,
        };
        let parameter = |key: &str| parameters.get(key).and_then(Object::unsigned);
        let data = match parameter("Predictor").unwrap_or(1) {
            1 => data,
            10..=15 => unpredicted(&data, parameter("Columns").unwrap_or(1)).ok_or(damaged("a stream without rows"))?,
            _ => return Err(damaged("a stream in an unknown prediction")),
        };
        Ok((dictionary, data))
    }

    fn describe(&mut self, found: &mut Inspection) -> Found<()> {
        let root = self.trailer.get("Root").cloned();
        let root = self.dictionary(root.as_ref())?;
        let pages = self.dictionary(root.get("Pages"))?;
        let count = self.resolved(pages.get("Count"))?.unsigned();
        let count = count.and_then(|count| u32::try_from(count).ok());
        found.count = Some(count.ok_or(Fault::Damaged { offset: 0, what: "no page tree" })?);
        if !found.encrypted {
            found.pdfa_part = self.pdfa_part(&root)?;
        }
        let image = self.first_image(pages)?;
        found.images.extend(image);
        Ok(())
    }

    /// The attribute or element `pdfaid:part` of the metadata (ISO 19005-1, 6.7.11).
    fn pdfa_part(&mut self, root: &Dictionary) -> Found<Option<u8>> {
        let Some(Object::Reference(number)) = root.get("Metadata") else { return Ok(None) };
        let Some(Place::At(offset)) = self.place(*number)? else { return Ok(None) };
        let (_, text) = match self.stream_at(offset) {
            Ok(stream) => stream,
            // Metadata that can't be read claim nothing.
            Err(Fault::Read(error)) => return Err(Fault::Read(error)),
            Err(_) => return Ok(None),
        };
        let at = text.windows(PDFA_PART.len()).position(|window| window == PDFA_PART);
        let after = at.and_then(|at| text.get(at + PDFA_PART.len()..)).unwrap_or_default();
        let part = after.iter().take(8).find(|byte| !matches!(byte, b'=' | b'>' | b'"' | b'\'' | b' '));
        Ok(part.filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0'))
    }

    /// The first image that the first page places.
    fn first_image(&mut self, pages: Dictionary) -> Found<Option<Image>> {
        let mut node = pages;
        let mut inherited = None;
        for _ in 0..MAX_STEPS {
            inherited = node.get("Resources").cloned().or(inherited);
            let Object::Array(kids) = self.resolved(node.get("Kids"))? else { break };
            node = self.dictionary(kids.first())?;
        }
        let resources = node.get("Resources").cloned().or(inherited);
        let resources = self.dictionary(resources.as_ref())?;
        let objects = self.dictionary(resources.get("XObject"))?;
        let user_unit = node.get("UserUnit").and_then(Object::number).filter(|unit| *unit > 0.0).unwrap_or(1.0);
        for (name, placed) in self.drawn_by(&node)?.unwrap_or_default().placed {
            let Some(object) = objects.0.get(&name) else { continue };
            let image = self.dictionary(Some(object))?;
            if image.get("Subtype").and_then(Object::name) != Some(b"Image") {
                continue;
            }
            return self.image(&image, (placed.0 * user_unit, placed.1 * user_unit)).map(Some);
        }
        Ok(None)
    }

    /// What the content of a page draws; nothing where it is encrypted, or compressed otherwise.
    pub(crate) fn drawn_by(&mut self, page: &Dictionary) -> Found<Option<Drawn>> {
        let parts = match self.resolved(page.get("Contents"))? {
            Object::Array(parts) => parts,
            _ => page.get("Contents").cloned().into_iter().collect(),
        };
        let mut content = Vec::new();
        for part in parts.iter().take(MAX_STEPS) {
            let Object::Reference(number) = part else { continue };
            let Some(Place::At(offset)) = self.place(*number)? else { continue };
            match self.stream_at(offset) {
                Ok((_, bytes)) => content.extend(bytes),
                Err(Fault::Read(error)) => return Err(Fault::Read(error)),
                Err(_) => return Ok(None),
            }
            content.push(b'\n');
            if content.len() as u64 > STREAM_BYTES {
                break;
            }
        }
        Ok(Some(drawn(&content)))
    }

    fn image(&mut self, image: &Dictionary, (width_points, height_points): (f64, f64)) -> Found<Image> {
        let mut number = |key: &str| Ok(self.resolved(image.get(key))?.unsigned());
        let (width, height) = (number("Width")?.unwrap_or(0), number("Height")?.unwrap_or(0));
        let bits = number("BitsPerComponent")?.unwrap_or(1);
        let per_inch = |pixels: u64, points: f64| pixels as f64 / (points / POINTS_PER_INCH);
        let ppi = (per_inch(width, width_points), per_inch(height, height_points));
        let filter = match self.resolved(image.get("Filter"))? {
            Object::Array(filters) => filters.last().cloned().unwrap_or(Object::Null),
            filter => filter,
        };
        let compression = match filter.name() {
            None => "none",
            Some(b"DCTDecode" | b"DCT") => "jpeg",
            Some(b"JPXDecode") => "jpeg2000",
            Some(b"CCITTFaxDecode" | b"CCF") => "ccitt",
            Some(b"JBIG2Decode") => "jbig2",
            Some(b"FlateDecode" | b"Fl") => "deflate",
            Some(b"LZWDecode" | b"LZW") => "lzw",
            Some(_) => "other",
        };
        let (samples, icc) = self.colour(image.get("ColorSpace"))?;
        Ok(Image {
            width_px: u32::try_from(width).unwrap_or(0),
            height_px: u32::try_from(height).unwrap_or(0),
            ppi: Some(ppi).filter(|(x, y)| x.is_finite() && y.is_finite() && *x > 0.0 && *y > 0.0),
            bits: bits as u16,
            samples,
            compression: compression.to_owned(),
            icc,
        })
    }

    /// Samples of a colour space, and whether an ICC profile defines it.
    fn colour(&mut self, space: Option<&Object>) -> Found<(u16, bool)> {
        Ok(match self.resolved(space)? {
            Object::Name(name) => match &name[..] {
                b"DeviceRGB" | b"RGB" => (3, false),
                b"DeviceCMYK" | b"CMYK" => (4, false),
                _ => (1, false),
            },
            Object::Array(items) => match items.first().and_then(Object::name) {
                Some(b"ICCBased") => {
                    let profile = self.dictionary(items.get(1))?;
                    (profile.get("N").and_then(Object::unsigned).unwrap_or(3) as u16, true)
                }
                Some(b"CalRGB" | b"Lab") => (3, false),
                _ => (1, false),
            },
            _ => (1, false),
        })
    }
}

/// What stands after `N G obj`.
fn body_of(bytes: &[u8], offset: u64) -> Found<Lexer<'_>> {
    let mut lexer = Lexer::new(bytes, offset);
    let head = (lexer.next()?, lexer.next()?, lexer.next()?);
    match head {
        (Some(Object::Number(_)), Some(Object::Number(_)), Some(Object::Word(word))) if word == b"obj" => Ok(lexer),
        _ => Err(Fault::Damaged { offset, what: "no object where the cross-reference says" }),
    }
}

/// PNG's prediction (ISO/IEC 15948, 9.2) with one byte a column, as cross-references use it.
fn unpredicted(data: &[u8], columns: u64) -> Option<Vec<u8>> {
    let columns = usize::try_from(columns).ok().filter(|columns| (1..=1 << 16).contains(columns))?;
    let mut out: Vec<u8> = Vec::with_capacity(data.len());
    let mut before = vec![0_u8; columns];
    for row in data.chunks_exact(columns + 1) {
        let (kind, row) = row.split_first()?;
        let mut line = vec![0_u8; columns];
        for i in 0..columns {
            let (left, up, corner) = if i == 0 { (0, before[0], 0) } else { (line[i - 1], before[i], before[i - 1]) };
            let predicted = match kind {
                0 => 0,
                1 => left,
                2 => up,
                3 => left.midpoint(up),
                4 => paeth(left, up, corner),
                _ => return None,
            };
            line[i] = row[i].wrapping_add(predicted);
        }
        out.extend_from_slice(&line);
        before = line;
    }
    Some(out)
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (estimate - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}

/// Follows the transformations of a content stream (ISO 32000-1, 8.3 and 8.4) to each `Do`.
pub(crate) fn drawn(content: &[u8]) -> Drawn {
    type Matrix = [f64; 6];
    /// Letters that are neither filled nor stroked (9.3.6).
    const INVISIBLE: f64 = 3.0;
    let product = |[a, b, c, d, e, f]: Matrix, [p, q, r, s, t, u]: Matrix| -> Matrix {
        [a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u]
    };
    let (mut matrix, mut mode): (Matrix, f64) = ([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], 0.0);
    let mut saved = Vec::new();
    let mut operands: Vec<Object> = Vec::new();
    let mut found = Drawn::default();
    let mut lexer = Lexer::new(content, 0);
    // A stream that can't be read on has drawn what it has drawn.
    while let Ok(Some(object)) = lexer.next() {
        let Object::Word(operator) = object else {
            if operands.len() < 64 {
                operands.push(object);
            }
            continue;
        };
        match &operator[..] {
            b"q" if saved.len() < 256 => saved.push((matrix, mode)),
            b"Q" => (matrix, mode) = saved.pop().unwrap_or((matrix, mode)),
            b"cm" => {
                let numbers: Vec<f64> = operands.iter().filter_map(Object::number).collect();
                if let Ok(by) = Matrix::try_from(numbers) {
                    matrix = product(by, matrix);
                }
            }
            b"Do" => {
                if let Some(Object::Name(name)) = operands.last() {
                    // An image fills the unit square.
                    found.placed.push((name.clone(), (matrix[0].hypot(matrix[1]), matrix[2].hypot(matrix[3]))));
                }
            }
            b"Tr" => mode = operands.last().and_then(Object::number).unwrap_or(mode),
            b"Tj" | b"TJ" | b"'" | b"\"" => found.has_more |= mode.to_bits() != INVISIBLE.to_bits(),
            b"BI" => found.has_more = true,
            _ => {}
        }
        if found.placed.len() >= 64 {
            break;
        }
        operands.clear();
    }
    found
}
