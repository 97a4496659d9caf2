//! What the images of a file show, seen from afar: whether a page is empty, and a hash by which pages that look alike are
//! found. JPEG, JPEG 2000, TIFF (uncompressed, `PackBits`, LZW, deflate, CCITT G4, JPEG), and pages of a PDF that show one
//! image, JPEG or JPEG 2000; other formats and depths are not looked at.
//!
//! An image becomes a small grey one ([`Grey`]): a JPEG is decoded in an eighth of its size or so, JPEG 2000 in one of the
//! resolutions that it has, a TIFF piece by piece. A
//! page is empty where hardly any part of it differs from what is around it: stains, shadows of the gutter and the
//! other side shining through differ slowly or little, ink does not. Pages are alike where the same ones of 256 parts are
//! darker than their neighbour (dHash), which light, noise and compression leave as they are.
//! Invariants: memory and work for an image are bounded by the constants below; a decoder that fails, or panics on what
//! nobody wrote, is an image that was not looked at.
//! What it deliberately does not do: know the other pages; decide what follows.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tiff::ColorType;
use tiff::decoder::{Decoder, Limits};
use tiff::tags::Tag;

use crate::source::Source;
use crate::{Format, Image, Inspection, inspect, jp2_pixels, pdf_pages};

/// The most pixels of an image that is looked at: an A0 plan at 600 ppi has 560 million, one at 400 ppi 250 million.
const MAX_PIXELS: u64 = 400_000_000;
/// The most bytes of a piece of an image, and of what a decoder keeps: a page A4 at 300 ppi in colour has 26 MB.
pub(crate) const MAX_PIECE_BYTES: usize = 64 << 20;
/// The most bytes of a file that are read for the images in it.
const MAX_READ_BYTES: u64 = 4 << 30;
/// Images of a file that are looked at; the others are not.
pub const MAX_LOOKED_AT: usize = 500;
/// The least columns or rows, whichever there are more of, of the small image, and the most.
pub(crate) const SMALL: (u32, u32) = (320, 2048);

/// The columns and rows of the differences in a hash.
const HASH_SIDE: usize = 16;
/// Bytes of a hash.
pub const HASH_BYTES: usize = HASH_SIDE * HASH_SIDE / 8;

/// Pages with fewer show too little to be told apart.
const LEAST_DIFFERENCES: u32 = 3;

/// What of each side, in percent, is no part of the page: scans have its edges and what lies beyond.
const MARGIN_PERCENT: usize = 6;
/// Columns and rows of the surroundings that a part of a page is compared with.
const AROUND: usize = 16;
/// How much darker or lighter than its surroundings ink is, of 255.
const INK: i32 = 24;
/// Of how many parts one may be ink on an empty page: specks of dust.
const PARTS_PER_SPECK: usize = 5000;
/// How far apart the surroundings of an empty page may be, of 255, the darkest and the lightest twentieth left out.
const EVEN: i32 = 80;

/// What an image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether it is an empty page.
    pub is_blank: bool,
    /// What it looks like.
    pub hash: Hash,
}

/// Which of 256 parts of an image are darker than their right neighbour (dHash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl Hash {
    /// Whether both are of the same page, as far as can be told from afar: at most a fifth of the differences that either
    /// has are not in both. Other pages A4 with text or a form, made by `ImageMagick`, have at least a third; a scan that is
    /// turned by more than half a degree, or moved by more than 2 mm, may be missed.
    pub fn is_alike(&self, other: &Self) -> bool {
        let count = |join: fn(u8, u8) -> u8| -> u32 {
            self.0.iter().zip(&other.0).map(|(a, b)| join(*a, *b).count_ones()).sum()
        };
        let (apart, either) = (count(|a, b| a ^ b), count(|a, b| a | b));
        either >= LEAST_DIFFERENCES && apart * 5 <= either
    }

    fn of(small: &Grey) -> Self {
        let mean = |column: usize, row: usize| {
            // Twice as wide and high as they are apart: what is moved a little is mostly in the same one.
            let span = |part: usize, parts: usize, side: usize| {
                (2 * part * side / parts).saturating_sub(side / parts) / 2
                    ..((2 * part + 3) * side / (2 * parts)).min(side)
            };
            let (columns, rows) = (span(column, HASH_SIDE + 1, small.width), span(row, HASH_SIDE, small.height));
            let count = (columns.len() * rows.len()).max(1) as u64;
            let sum = |row: usize| small.row(row, &columns).iter().map(|grey| u64::from(*grey)).sum::<u64>();
            // In 256ths.
            rows.map(sum).sum::<u64>() * 256 / count
        };
        let mut bits = [0; HASH_BYTES];
        for row in 0..HASH_SIDE {
            for column in 0..HASH_SIDE {
                // What is less than a grey apart is the noise of even paper.
                if mean(column, row) + 256 < mean(column + 1, row) {
                    let bit = row * HASH_SIDE + column;
                    bits[bit / 8] |= 1 << (bit % 8);
                }
            }
        }
        Self(bits)
    }
}

/// What the images of `file` show, in the order of `found.images`, of a PDF in that of its pages; `None` is one that was not
/// looked at. Calls `tick` before each image.
pub fn look(mut file: impl Read + Seek, found: &Inspection, mut tick: impl FnMut()) -> Vec<Option<Sight>> {
    if file.rewind().is_err() {
        return Vec::new();
    }
    // Decoders see what nobody wrote for them; the file is only read, so that nothing is left half-done.
    let seen = catch_unwind(AssertUnwindSafe(|| match found.format {
        Format::Jpeg => {
            let looked_at = found.images.first().map(|image| {
                tick();
                jpeg(file, image).map(|small| small.sight())
            });
            looked_at.into_iter().collect()
        }
        Format::Tiff | Format::BigTiff => tiff(file, found, tick),
        Format::Jp2 | Format::Jpeg2000Codestream => {
            tick();
            vec![read_whole(file).and_then(|bytes| alone(&bytes)).map(|small| small.sight())]
        }
        Format::Pdf => pdf(file, found, tick),
    }));
    seen.unwrap_or_default()
}

/// All of `file`, where that is no more than a piece of an image may be.
fn read_whole(file: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_PIECE_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MAX_PIECE_BYTES).then_some(bytes)
}

/// The image of a JPEG or JPEG 2000 file.
fn alone(bytes: &[u8]) -> Option<Grey> {
    let found = inspect(std::io::Cursor::new(bytes), bytes.len() as u64).ok()?;
    let image = found.images.first().filter(|image| is_bounded(image.width_px, image.height_px))?;
    match found.format {
        Format::Jpeg => jpeg(bytes, image),
        Format::Jp2 | Format::Jpeg2000Codestream => jp2_pixels::grey(bytes),
        Format::Tiff | Format::BigTiff | Format::Pdf => None,
    }
}

fn pdf(mut file: impl Read + Seek, found: &Inspection, mut tick: impl FnMut()) -> Vec<Option<Sight>> {
    let Some(length) = file.seek(SeekFrom::End(0)).ok().filter(|_| !found.encrypted) else { return Vec::new() };
    let limit = MAX_LOOKED_AT.min(found.count.unwrap_or(0) as usize);
    let mut seen = Vec::new();
    let mut source = Source::with_budget(file, length, MAX_READ_BYTES);
    pdf_pages::images(&mut source, limit, MAX_PIECE_BYTES as u64, |image| {
        tick();
        seen.push(image.and_then(|bytes| alone(&bytes)).map(|small| small.sight()));
    });
    seen
}

/// A small grey image.
pub(crate) struct Grey {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Grey {
    fn row(&self, row: usize, columns: &std::ops::Range<usize>) -> &[u8] {
        let from = row * self.width;
        self.values.get(from + columns.start..from + columns.end).unwrap_or_default()
    }

    fn sight(&self) -> Sight {
        Sight { is_blank: self.is_blank(), hash: Hash::of(self) }
    }

    fn is_blank(&self) -> bool {
        let inner = |side: usize| side * MARGIN_PERCENT / 100..side - side * MARGIN_PERCENT / 100;
        let (columns, rows) = (inner(self.width), inner(self.height));
        let (mut ink, mut means) = (0, Vec::new());
        for top in rows.clone().step_by(AROUND) {
            for left in columns.clone().step_by(AROUND) {
                let (right, bottom) = ((left + AROUND).min(columns.end), (top + AROUND).min(rows.end));
                let part = || (top..bottom).flat_map(|row| self.row(row, &(left..right)).iter().map(|g| i32::from(*g)));
                let mean = part().sum::<i32>() / ((right - left) * (bottom - top)).max(1) as i32;
                means.push(mean);
                ink += part().filter(|grey| (grey - mean).abs() > INK).count();
            }
        }
        means.sort_unstable();
        let at = |percent: usize| means.get(means.len() * percent / 100).copied().unwrap_or(0);
        ink * PARTS_PER_SPECK <= columns.len() * rows.len() && at(95) - at(5) <= EVEN
    }
}

/// Makes a small image of one that comes in pieces: each of its values is the mean of a square.
pub(crate) struct Shrinking {
    side: u32,
    width: usize,
    height: usize,
    sums: Vec<u32>,
}

impl Shrinking {
    /// Of an image of `width` by `height`; nothing where it is too small to show a page.
    fn new(width: u32, height: u32) -> Option<Self> {
        let longer = width.max(height);
        Self::of_squares(width, height, side_of(longer).max(longer.div_ceil(SMALL.1)))
    }

    /// Of an image that is nearly as small already.
    pub(crate) fn of_small(width: u32, height: u32) -> Option<Self> {
        Self::of_squares(width, height, width.max(height).div_ceil(SMALL.1).max(1))
    }

    fn of_squares(width: u32, height: u32, side: u32) -> Option<Self> {
        let (small_width, small_height) = ((width / side) as usize, (height / side) as usize);
        let is_page = small_width > HASH_SIDE && small_height > HASH_SIDE;
        is_page.then(|| Self {
            side,
            width: small_width,
            height: small_height,
            sums: vec![0; small_width * small_height],
        })
    }

    /// Adds a row of a piece: greys from `column` on.
    pub(crate) fn add(&mut self, row: u32, column: u32, greys: impl Iterator<Item = u8>) {
        let from = (row / self.side) as usize * self.width;
        let Some(sums) = self.sums.get_mut(from..from + self.width) else { return };
        let side = self.side as usize;
        let (mut place, mut left) = (column as usize / side, side - column as usize % side);
        let mut sum = 0;
        for grey in greys {
            sum += u32::from(grey);
            left -= 1;
            if left == 0 {
                if let Some(value) = sums.get_mut(place) {
                    *value += sum;
                }
                (sum, place, left) = (0, place + 1, side);
            }
        }
        if let Some(value) = sums.get_mut(place) {
            *value += sum;
        }
    }

    pub(crate) fn small(self) -> Grey {
        let count = self.side * self.side;
        let values = self.sums.iter().map(|sum| (sum / count) as u8).collect();
        Grey { width: self.width, height: self.height, values }
    }
}

/// The side of the squares of an image whose longer side is so long: 8, or less where little would be left.
pub(crate) fn side_of(longer: u32) -> u32 {
    [8, 4, 2].into_iter().find(|side| longer / side >= SMALL.0).unwrap_or(1)
}

fn is_bounded(width: u32, height: u32) -> bool {
    u64::from(width) * u64::from(height) <= MAX_PIXELS
}

/// ITU-R BT.601.
pub(crate) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    ((u32::from(red) * 77 + u32::from(green) * 150 + u32::from(blue) * 29) >> 8) as u8
}

/// 0 of each ink is white, as both decoders give it.
pub(crate) fn grey_of_ink(cyan: u8, magenta: u8, yellow: u8, black: u8) -> u8 {
    (255 - luma(cyan, magenta, yellow)).saturating_sub(black)
}

fn jpeg(file: impl Read, image: &Image) -> Option<Grey> {
    let is_kept_whole = image.compression != "jpeg";
    // A progressive image is kept in coefficients of two bytes until its last scan.
    let kept = u64::from(image.width_px) * u64::from(image.height_px) * 2 * u64::from(image.samples);
    if !is_bounded(image.width_px, image.height_px) || (is_kept_whole && kept > MAX_PIECE_BYTES as u64) {
        return None;
    }
    let side = side_of(image.width_px.max(image.height_px));
    let mut decoder = jpeg_decoder::Decoder::new(BufReader::with_capacity(64 << 10, file));
    decoder.set_max_decoding_buffer_size(MAX_PIECE_BYTES);
    let asked = |length: u32| u16::try_from(length / side).unwrap_or(u16::MAX);
    decoder.scale(asked(image.width_px), asked(image.height_px)).ok()?;
    let pixels = decoder.decode().ok()?;
    let info = decoder.info()?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let mut small = Shrinking::of_small(width, height)?;
    let bytes = info.pixel_format.pixel_bytes();
    for (row, line) in (0..).zip(pixels.chunks_exact(width as usize * bytes)) {
        let grey = |pixel: &[u8]| match *pixel {
            // Of two bytes the high one is the last.
            [grey] | [_, grey] => grey,
            [red, green, blue] => luma(red, green, blue),
            [cyan, magenta, yellow, black] => grey_of_ink(cyan, magenta, yellow, black),
            _ => 0,
        };
        small.add(row, 0, line.chunks_exact(bytes).map(grey));
    }
    Some(small.small())
}

fn tiff(file: impl Read + Seek, found: &Inspection, mut tick: impl FnMut()) -> Vec<Option<Sight>> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_PIECE_BYTES;
    limits.intermediate_buffer_size = MAX_PIECE_BYTES;
    let file = Bounded { file, left: MAX_READ_BYTES };
    let Ok(decoder) = Decoder::new(BufReader::with_capacity(64 << 10, file)) else { return Vec::new() };
    let mut decoder = decoder.with_limits(limits);
    let mut seen = Vec::new();
    // What the inspection found no image in has none, whatever this decoder makes of it.
    while seen.len() < found.images.len().min(MAX_LOOKED_AT) {
        // As the inspection counts: a thumbnail or a mask is no image.
        let subfile = decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType).ok().flatten().unwrap_or(0);
        if subfile & 0b101 == 0 {
            tick();
            seen.push(tiff_image(&mut decoder).map(|small| small.sight()));
        }
        if !decoder.more_images() || decoder.next_image().is_err() {
            break;
        }
    }
    seen
}

fn tiff_image<R: Read + Seek>(decoder: &mut Decoder<R>) -> Option<Grey> {
    let (width, height) = decoder.dimensions().ok()?;
    let color = decoder.colortype().ok()?;
    let mut small = Shrinking::new(width, height).filter(|_| is_bounded(width, height))?;
    let (piece_width, piece_height) = decoder.chunk_dimensions();
    if piece_width == 0 || piece_height == 0 {
        return None;
    }
    // Samples that are kept apart come one after the other: the first will do.
    let is_apart = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).ok().flatten() == Some(2);
    let (across, down) = (width.div_ceil(piece_width), height.div_ceil(piece_height));
    for piece in 0..across.checked_mul(down)? {
        let (left, top) = (piece % across * piece_width, piece / across * piece_height);
        let layout = decoder.image_chunk_buffer_layout(piece).ok()?;
        let stride = layout.row_stride?.get();
        if layout.len > MAX_PIECE_BYTES {
            return None;
        }
        let mut bytes = vec![0; layout.len];
        decoder.read_chunk_bytes(piece, &mut bytes).ok()?;
        let columns = piece_width.min(width - left);
        for (row, line) in (top..height).zip(bytes.chunks_exact(stride)) {
            add_line(&mut small, row, left, columns, line, color, is_apart)?;
        }
    }
    Some(small.small())
}

/// Adds a row of a piece of a TIFF image; nothing where its colours are none that are known.
fn add_line(
    small: &mut Shrinking,
    row: u32,
    left: u32,
    columns: u32,
    line: &[u8],
    color: ColorType,
    is_apart: bool,
) -> Option<()> {
    let columns = columns as usize;
    let samples = if is_apart { 1 } else { usize::from(color.num_samples()) };
    match (color, color.bit_depth()) {
        (ColorType::Gray(_), bits @ (1 | 2 | 4)) => {
            let bits = usize::from(bits);
            let scale = 255 / ((1_u8 << bits) - 1);
            let grey = |column: usize| {
                let (byte, within) = (column * bits / 8, column * bits % 8);
                let value = line.get(byte).copied().unwrap_or(0) << within >> (8 - bits);
                value * scale
            };
            small.add(row, left, (0..columns).map(grey));
        }
        (ColorType::Gray(_) | ColorType::GrayA(_) | ColorType::YCbCr(_), 8) => {
            small.add(row, left, line.iter().step_by(samples).copied().take(columns));
        }
        (ColorType::RGB(_) | ColorType::RGBA(_), 8) if !is_apart => {
            let grey = |pixel: &[u8]| match *pixel {
                [red, green, blue, ..] => luma(red, green, blue),
                _ => 0,
            };
            small.add(row, left, line.chunks_exact(samples).map(grey).take(columns));
        }
        (ColorType::CMYK(_), 8) if !is_apart => {
            let grey = |pixel: &[u8]| match *pixel {
                [cyan, magenta, yellow, black] => grey_of_ink(cyan, magenta, yellow, black),
                _ => 0,
            };
            small.add(row, left, line.chunks_exact(samples).map(grey).take(columns));
        }
        (ColorType::RGB(_) | ColorType::RGBA(_) | ColorType::CMYK(_), 8) => {
            small.add(row, left, line.iter().copied().take(columns));
        }
        (ColorType::Gray(_) | ColorType::GrayA(_) | ColorType::RGB(_) | ColorType::RGBA(_), 16) => {
            // Green is most of what is seen; the decoder gives numbers as this machine has them.
            let sample = usize::from(samples >= 3);
            let grey = |pixel: &[u8]| {
                let bytes = pixel.get(2 * sample..2 * sample + 2).and_then(|bytes| bytes.try_into().ok());
                (u16::from_ne_bytes(bytes.unwrap_or([0; 2])) >> 8) as u8
            };
            small.add(row, left, line.chunks_exact(2 * samples).map(grey).take(columns));
        }
        _ => return None,
    }
    Some(())
}

/// A file of which not more than so much is read, whatever refers to it however often.
struct Bounded<R> {
    file: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| std::io::Error::other("the file refers to more than is read of one"))?;
        Ok(read)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(paint: impl Fn(u32, u32) -> u8) -> Sight {
        let (width, height) = (620, 877);
        let mut small = Shrinking::new(width, height).expect("a page");
        for row in 0..height {
            small.add(row, 0, (0..width).map(|column| paint(column, row)));
        }
        small.small().sight()
    }

    /// Lines of words, their lengths by the seed.
    fn text(column: u32, row: u32, seed: u32) -> bool {
        let word =
            (row / 18 * 131 + column / 24).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 13;
        row % 18 < 8
            && !word.is_multiple_of(4)
            && (60..560).contains(&column)
            && (80..800).contains(&row)
            && !(column + row).is_multiple_of(3)
    }

    #[test]
    fn paper_with_a_shadow_a_stain_and_dust_is_empty_and_a_signature_is_not() {
        let paper = |column: u32, row: u32| {
            let gutter = 40_u32.saturating_sub(column / 3);
            let stain = if (column.abs_diff(300)).pow(2) + (row.abs_diff(400)).pow(2) < 90_000 { 9 } else { 0 };
            (225 - gutter - stain - (column * 7 + row * 13) % 5) as u8
        };
        assert!(page(paper).is_blank);
        let dust =
            |column: u32, row: u32| if column % 300 == 150 && row % 400 == 200 { 20 } else { paper(column, row) };
        assert!(page(dust).is_blank);
        let signed = |column: u32, row: u32| {
            let is_ink = (380..500).contains(&column) && row.abs_diff(700 + (column * 7 % 23)) < 3;
            if is_ink { 40 } else { paper(column, row) }
        };
        assert!(!page(signed).is_blank);
        assert!(!page(|column, row| if text(column, row, 1) { 60 } else { paper(column, row) }).is_blank);
        assert!(!page(|column, _| (column / 3) as u8).is_blank, "a photograph may be smooth");
        // White ink on black is ink, and a black page is empty.
        assert!(!page(|column, row| if text(column, row, 1) { 240 } else { 10 }).is_blank);
        assert!(page(|_, _| 10).is_blank);
    }

    #[test]
    fn light_and_a_shift_leave_a_page_alike_and_another_text_does_not() {
        let typed = |seed: u32, shift: u32, light: u8| {
            page(move |column, row| if text(column + shift, row + shift, seed) { 70 } else { 200 + light }).hash
        };
        let (first, again, other) = (typed(1, 0, 0), typed(1, 3, 30), typed(2, 0, 0));
        assert!(first.is_alike(&first) && first.is_alike(&again) && again.is_alike(&first));
        assert!(!first.is_alike(&other), "{first:?} {other:?}");
        let empty = page(|_, _| 220).hash;
        assert!(!empty.is_alike(&empty), "there is nothing to tell by");
    }

    #[test]
    fn pieces_give_the_means_of_squares() {
        let mut small = Shrinking::new(2480, 3508).expect("a page");
        assert_eq!((small.side, small.width, small.height), (8, 310, 438));
        for row in 0..3508 {
            // In two tiles, apart within a square.
            small.add(row, 0, (0..1237_u32).map(|column| (column / 8 % 256) as u8));
            small.add(row, 1237, (1237..2480_u32).map(|column| (column / 8 % 256) as u8));
        }
        let small = small.small();
        assert!(
            small
                .values
                .chunks(310)
                .all(|line| line.iter().enumerate().all(|(at, grey)| usize::from(*grey) == at % 256))
        );
        assert!(Shrinking::new(16, 3000).is_none(), "a strip is no page");
        let plan = Shrinking::new(20_000, 14_000).expect("a plan");
        assert!(plan.width <= 2048 && plan.height <= 2048);
    }
}
