//! What an image file says of itself: how many images it holds, how large, how fine, how deep, how compressed, and
//! whether all of it is there. TIFF and `BigTIFF`, JPEG, JPEG 2000 (JP2 and bare codestreams) and PDF.
//!
//! Invariants: an inspection reads only headers and directories, by seeking, never pixels; all that is read, decompressed
//! and followed is bounded, so that no file, however damaged or hostile, takes more than [`MAX_READ_BYTES`] of reading. Pixels
//! are looked at only by [`look`].
//! What it deliberately does not do: know folders or names, decide whether a quality is good enough.

mod jp2;
mod jp2_pixels;
mod jpeg;
mod pdf;
mod pdf_object;
mod pdf_pages;
mod sight;
mod source;
mod tiff;

use std::io::{Read, Seek};

pub use sight::{HASH_BYTES, Hash, MAX_LOOKED_AT, Sight, look};
use source::Source;

/// The most that an inspection reads of a file.
pub const MAX_READ_BYTES: u64 = 64 << 20;
/// The most images that an inspection lists; the count goes on.
pub const MAX_IMAGES: usize = 10_000;

/// The kind of a file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TIFF 6.0, either byte order.
    Tiff,
    /// TIFF with 64-bit offsets.
    BigTiff,
    /// JPEG (ITU-T T.81), with JFIF or Exif or neither.
    Jpeg,
    /// JPEG 2000 (ISO/IEC 15444-1) in its file format.
    Jp2,
    /// A bare JPEG 2000 codestream.
    Jpeg2000Codestream,
    /// PDF (ISO 32000).
    Pdf,
}

impl Format {
    /// Its usual name, lower case: `tiff`, `bigtiff`, `jpeg`, `jp2`, `j2k`, `pdf`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiff => "tiff",
            Self::BigTiff => "bigtiff",
            Self::Jpeg => "jpeg",
            Self::Jp2 => "jp2",
            Self::Jpeg2000Codestream => "j2k",
            Self::Pdf => "pdf",
        }
    }
}

/// One image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Columns, before any rotation for display.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// Pixels per inch across and down, where the file tells; of a PDF as placed on the page.
    pub ppi: Option<(f64, f64)>,
    /// Bits of a sample; the most where samples differ.
    pub bits: u16,
    /// Samples of a pixel: 1 grey, 3 colour, 4 with alpha or CMYK.
    pub samples: u16,
    /// For example `none`, `ccitt-g4`, `lzw`, `jpeg`, `jpeg-progressive`, `jpeg2000`.
    pub compression: String,
    /// Whether there is an ICC profile.
    pub icc: bool,
}

/// Whether all of a file is there, as far as its structure tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Its end is where its structure says.
    Complete,
    /// It ends before something that it refers to, or without its end mark: cut, or still being written.
    Truncated,
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// What kind it is.
    pub format: Format,
    /// Images: pages of a TIFF without thumbnails and masks, of a PDF its pages. None where it can't be told: a truncated
    /// TIFF or PDF, an encrypted PDF that hides its directory.
    pub count: Option<u32>,
    /// The images in order, at most [`MAX_IMAGES`]; of a PDF the first image of the first page, where it has one.
    pub images: Vec<Image>,
    /// Whether all of it is there.
    pub completeness: Completeness,
    /// Whether a PDF wants a password or restricts what may be done with it.
    pub encrypted: bool,
    /// The part of PDF/A (ISO 19005) that a PDF claims.
    pub pdfa_part: Option<u8>,
}

impl Inspection {
    fn of(format: Format) -> Self {
        Self {
            format,
            count: None,
            images: Vec::new(),
            completeness: Completeness::Complete,
            encrypted: false,
            pdfa_part: None,
        }
    }

    fn push(&mut self, image: Image) {
        self.count = Some(self.count.unwrap_or(0).saturating_add(1));
        if self.images.len() < MAX_IMAGES {
            self.images.push(image);
        }
    }
}

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It can't be read.
    #[error("cannot read image file")]
    Read(#[source] std::io::Error),
    /// It is none of the formats of [`Format`].
    #[error("not a TIFF, JPEG, JPEG 2000 or PDF file")]
    UnknownFormat,
    /// It contradicts its format.
    #[error("{what} at byte {offset}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Its directories are larger than any scanner writes.
    #[error("{what} is beyond what is read of a file")]
    TooLarge {
        /// What is.
        what: &'static str,
    },
}

/// Reads what `file` of `length` bytes says of itself; `length` is that of the moment when it is looked at, so that a
/// file that grows meanwhile is judged as a whole.
///
/// # Errors
/// [`InspectError`]; a file that is merely cut short is no error but [`Completeness::Truncated`].
pub fn inspect(file: impl Read + Seek, length: u64) -> Result<Inspection, InspectError> {
    let mut source = Source::new(file, length);
    let start = source.up_to(0, 1024).map_err(fault)?;
    let format = format_of(&start).ok_or(InspectError::UnknownFormat)?;
    let mut found = Inspection::of(format);
    let read = match format {
        Format::Tiff | Format::BigTiff => tiff::inspect(&mut source, &mut found),
        Format::Jpeg => jpeg::inspect(&mut source, &mut found),
        Format::Jp2 => jp2::inspect_boxes(&mut source, &mut found),
        Format::Jpeg2000Codestream => jp2::inspect_codestream(&mut source, &mut found),
        Format::Pdf => pdf::inspect(&mut source, &mut found),
    };
    match read {
        Ok(()) => {}
        Err(Fault::Truncated) => {
            found.completeness = Completeness::Truncated;
            found.count = None;
        }
        Err(other) => return Err(fault(other)),
    }
    Ok(found)
}

fn format_of(start: &[u8]) -> Option<Format> {
    match start {
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(Format::Tiff),
        [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..] => Some(Format::BigTiff),
        [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', 0x0d, 0x0a, 0x87, 0x0a, ..] => Some(Format::Jp2),
        [0xff, 0x4f, 0xff, 0x51, ..] => Some(Format::Jpeg2000Codestream),
        // ISO 32000-1, appendix H: readers look for the header within the first 1024 bytes.
        start if start.windows(5).any(|w| w == b"%PDF-") => Some(Format::Pdf),
        _ => None,
    }
}

/// What stops a reader of one format.
#[derive(Debug)]
enum Fault {
    /// The file ends before something that it refers to.
    Truncated,
    Damaged {
        offset: u64,
        what: &'static str,
    },
    TooLarge(&'static str),
    Read(std::io::Error),
}

type Found<T> = Result<T, Fault>;

fn fault(fault: Fault) -> InspectError {
    match fault {
        Fault::Truncated => InspectError::Damaged { offset: 0, what: "the file ends too early" },
        Fault::Damaged { offset, what } => InspectError::Damaged { offset, what },
        Fault::TooLarge(what) => InspectError::TooLarge { what },
        Fault::Read(error) => InspectError::Read(error),
    }
}
