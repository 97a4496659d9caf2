//! TIFF 6.0 and `BigTIFF`: the chain of directories, each one image; thumbnails and masks are none.
//!
//! Also reads the TIFF that Exif embeds in a JPEG.

use std::collections::HashSet;
use std::io::{Read, Seek};

use crate::source::Source;
use crate::{Fault, Found, Image, Inspection};

/// Directories of a chain; a bound paper has far fewer leaves.
const MAX_DIRECTORIES: usize = 1_000_000;
/// Entries of a directory; the format has some hundred tags.
const MAX_ENTRIES: u64 = 4096;
/// Strips or tiles of an image.
const MAX_STRIPS: u64 = 4 << 20;

const CM_PER_INCH: f64 = 2.54;

mod tag {
    pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
    pub(super) const WIDTH: u16 = 256;
    pub(super) const LENGTH: u16 = 257;
    pub(super) const BITS: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const SAMPLES: u16 = 277;
    pub(super) const STRIP_BYTE_COUNTS: u16 = 279;
    pub(super) const X_RESOLUTION: u16 = 282;
    pub(super) const Y_RESOLUTION: u16 = 283;
    pub(super) const RESOLUTION_UNIT: u16 = 296;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_BYTE_COUNTS: u16 = 325;
    pub(super) const JPEG_OFFSET: u16 = 513;
    pub(super) const JPEG_BYTE_COUNT: u16 = 514;
    pub(super) const ICC_PROFILE: u16 = 34675;
}

/// How numbers are written in this file.
#[derive(Clone, Copy)]
struct Layout {
    /// `MM`.
    big_endian: bool,
    /// `BigTIFF`: offsets of 8 bytes.
    big: bool,
    /// Where offsets count from: the start of the file, or of the TIFF within it.
    base: u64,
}

impl Layout {
    fn number(self, bytes: &[u8]) -> u64 {
        let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }

    fn offset_bytes(self) -> u64 {
        if self.big { 8 } else { 4 }
    }

    fn entry_bytes(self) -> u64 {
        if self.big { 20 } else { 12 }
    }
}

/// A field of a directory, its values not read yet.
#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are, from the start of the file.
    place: u64,
}

impl Entry {
    fn value_bytes(self) -> u64 {
        match self.kind {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 1,
        }
    }
}

/// A directory and where the next one is, zero at the end.
struct Directory {
    entries: Vec<Entry>,
    next: u64,
}

impl Directory {
    fn find(&self, tag: u16) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.tag == tag).copied()
    }
}

struct Reader<'a, R> {
    source: &'a mut Source<R>,
    layout: Layout,
}

pub(crate) fn inspect<R: Read + Seek>(source: &mut Source<R>, found: &mut Inspection) -> Found<()> {
    let (mut reader, mut place) = Reader::begin(source, 0)?;
    let mut visited = HashSet::new();
    let mut end = 0;
    while place != 0 {
        if !visited.insert(place) {
            return Err(Fault::Damaged { offset: place, what: "the chain of directories returns to one before" });
        }
        if visited.len() > MAX_DIRECTORIES {
            return Err(Fault::TooLarge("the number of directories"));
        }
        let directory = reader.directory(place)?;
        // TIFF 6.0, section 8: bit 0 is a reduced version of another image, bit 2 a transparency mask.
        let subfile = reader.first(&directory, tag::NEW_SUBFILE_TYPE)?.unwrap_or(0);
        if subfile & 0b101 == 0 {
            found.push(reader.image(&directory)?);
        }
        end = end.max(reader.data_end(&directory)?);
        place = directory.next;
    }
    if found.count.is_none() {
        return Err(Fault::Damaged { offset: 0, what: "no directory describes an image" });
    }
    if end > source.len() { Err(Fault::Truncated) } else { Ok(()) }
}

/// Resolution and unit of the first directory of the TIFF at `base`, as Exif has it.
pub(crate) fn resolution_of_exif<R: Read + Seek>(source: &mut Source<R>, base: u64) -> Found<Option<(f64, f64)>> {
    let (mut reader, place) = Reader::begin(source, base)?;
    let directory = reader.directory(place)?;
    reader.resolution(&directory)
}

impl<'a, R: Read + Seek> Reader<'a, R> {
    /// Reads the header at `base`; gives also the place of the first directory.
    fn begin(source: &'a mut Source<R>, base: u64) -> Found<(Self, u64)> {
        let damaged = |what| Fault::Damaged { offset: base, what };
        let header: [u8; 4] = source.array(base)?;
        let big_endian = header.starts_with(b"MM");
        let mut layout = Layout { big_endian, big: false, base };
        let version = layout.number(&header[2..]);
        layout.big = version == 43;
        if !(big_endian || header.starts_with(b"II")) || !(version == 42 || version == 43) {
            return Err(damaged("no TIFF header"));
        }
        let mut reader = Self { source, layout };
        let first = if layout.big {
            let sizes: [u8; 4] = reader.source.array(base + 4)?;
            if layout.number(&sizes[..2]) != 8 || layout.number(&sizes[2..]) != 0 {
                return Err(damaged("offsets of an unknown length"));
            }
            reader.number(base + 8, 8)?
        } else {
            reader.number(base + 4, 4)?
        };
        if first == 0 {
            // Writers leave the place empty until the first directory is written.
            return Err(Fault::Truncated);
        }
        Ok((reader, first))
    }

    fn number(&mut self, place: u64, bytes: u64) -> Found<u64> {
        let bytes = self.source.at(place, bytes)?;
        Ok(self.layout.number(&bytes))
    }

    fn place(&self, offset: u64) -> Found<u64> {
        self.layout.base.checked_add(offset).ok_or(Fault::Truncated)
    }

    fn directory(&mut self, offset: u64) -> Found<Directory> {
        let place = self.place(offset)?;
        let count_bytes = if self.layout.big { 8 } else { 2 };
        let count = self.number(place, count_bytes)?;
        if count == 0 || count > MAX_ENTRIES {
            return Err(Fault::Damaged { offset: place, what: "a directory with an impossible number of entries" });
        }
        let (entry_bytes, offset_bytes) = (self.layout.entry_bytes(), self.layout.offset_bytes());
        let begin = place + count_bytes;
        let bytes = self.source.at(begin, count * entry_bytes + offset_bytes)?;
        let mut directory = Directory { entries: Vec::with_capacity(count as usize), next: 0 };
        for (i, entry) in bytes.chunks_exact(entry_bytes as usize).take(count as usize).enumerate() {
            let (head, value) = entry.split_at(4);
            let (counted, value) = value.split_at(offset_bytes as usize);
            let mut entry = Entry {
                tag: self.layout.number(&head[..2]) as u16,
                kind: self.layout.number(&head[2..]) as u16,
                count: self.layout.number(counted),
                place: begin + (i as u64 + 1) * entry_bytes - offset_bytes,
            };
            if entry.count.checked_mul(entry.value_bytes()).is_none_or(|bytes| bytes > offset_bytes) {
                entry.place = self.place(self.layout.number(value))?;
            }
            directory.entries.push(entry);
        }
        directory.next = self.layout.number(&bytes[(count * entry_bytes) as usize..]);
        Ok(directory)
    }

    /// The first value of an integer field.
    fn first(&mut self, directory: &Directory, tag: u16) -> Found<Option<u64>> {
        let Some(entry) = directory.find(tag).filter(|entry| entry.count > 0) else { return Ok(None) };
        self.number(entry.place, entry.value_bytes()).map(Some)
    }

    fn rational(&mut self, directory: &Directory, tag: u16) -> Found<Option<f64>> {
        let Some(entry) = directory.find(tag).filter(|entry| entry.count > 0) else { return Ok(None) };
        let value = match entry.kind {
            5 | 10 => {
                let (numerator, denominator) = (self.number(entry.place, 4)?, self.number(entry.place + 4, 4)?);
                numerator as f64 / denominator as f64
            }
            11 => f64::from(f32::from_bits(self.number(entry.place, 4)? as u32)),
            12 => f64::from_bits(self.number(entry.place, 8)?),
            _ => self.number(entry.place, entry.value_bytes())? as f64,
        };
        Ok(Some(value).filter(|value| value.is_finite() && *value > 0.0))
    }

    fn resolution(&mut self, directory: &Directory) -> Found<Option<(f64, f64)>> {
        let across = self.rational(directory, tag::X_RESOLUTION)?;
        let down = self.rational(directory, tag::Y_RESOLUTION)?;
        let per_inch = match self.first(directory, tag::RESOLUTION_UNIT)?.unwrap_or(2) {
            2 => 1.0,
            3 => CM_PER_INCH,
            // 1: only the ratio of the sides is meant.
            _ => return Ok(None),
        };
        Ok(across.or(down).zip(down.or(across)).map(|(across, down)| (across * per_inch, down * per_inch)))
    }

    fn image(&mut self, directory: &Directory) -> Found<Image> {
        let side = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
        let width = side(self.first(directory, tag::WIDTH)?);
        let height = side(self.first(directory, tag::LENGTH)?);
        let (Some(width_px), Some(height_px)) = (width, height) else {
            let offset = directory.entries.first().map_or(0, |entry| entry.place);
            return Err(Fault::Damaged { offset, what: "an image without width or length" });
        };
        Ok(Image {
            width_px,
            height_px,
            ppi: self.resolution(directory)?,
            bits: self.first(directory, tag::BITS)?.unwrap_or(1) as u16,
            samples: self.first(directory, tag::SAMPLES)?.unwrap_or(1) as u16,
            compression: compression(self.first(directory, tag::COMPRESSION)?.unwrap_or(1)),
            icc: directory.find(tag::ICC_PROFILE).is_some_and(|entry| entry.count > 0),
        })
    }

    /// Where the last byte that the directory refers to ends: pixels and the values of every entry.
    fn data_end(&mut self, directory: &Directory) -> Found<u64> {
        let value_end = |entry: &Entry| entry.place.saturating_add(entry.count.saturating_mul(entry.value_bytes()));
        let mut end = directory.entries.iter().map(value_end).max().unwrap_or(0);
        for (offsets, counts) in [
            (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS),
            (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS),
            (tag::JPEG_OFFSET, tag::JPEG_BYTE_COUNT),
        ] {
            let (Some(offsets), Some(counts)) = (directory.find(offsets), directory.find(counts)) else { continue };
            let offsets = self.integers(offsets)?;
            let counts = self.integers(counts)?;
            for (offset, count) in offsets.iter().zip(&counts) {
                end = end.max(self.place(*offset)?.saturating_add(*count));
            }
        }
        Ok(end)
    }

    fn integers(&mut self, entry: Entry) -> Found<Vec<u64>> {
        if entry.count > MAX_STRIPS {
            return Err(Fault::TooLarge("the number of strips"));
        }
        let each = entry.value_bytes();
        let bytes = self.source.at(entry.place, entry.count * each)?;
        Ok(bytes.chunks_exact(each as usize).map(|bytes| self.layout.number(bytes)).collect())
    }
}

/// TIFF 6.0, section 3 and later, Adobe's technical notes, and libtiff's registered values.
fn compression(code: u64) -> String {
    let name = match code {
        1 => "none",
        2 => "ccitt-rle",
        3 => "ccitt-g3",
        4 => "ccitt-g4",
        5 => "lzw",
        6 => "jpeg-old",
        7 => "jpeg",
        8 | 32946 => "deflate",
        9 => "jbig",
        32773 => "packbits",
        34712 => "jpeg2000",
        34925 => "lzma",
        50000 => "zstd",
        50001 => "webp",
        other => return format!("tiff-{other}"),
    };
    name.to_owned()
}
