//! The pixels of JPEG 2000, decoded in the least of its resolutions that shows a page: each is half the one before it, and
//! the finer ones are left alone.
//!
//! Invariant: what the decoder keeps is reckoned before it begins, from the headers of the codestream and of each of its tile
//! parts (ISO/IEC 15444-1, annex A), and bounded; what is written in a way that can't be reckoned is not decoded.

use std::io::Cursor;

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use crate::jp2::{Colours, codestream};
use crate::sight::{Grey, MAX_PIECE_BYTES, SMALL, Shrinking, grey_of_ink, luma, side_of};
use crate::source::Source;

/// Four colours and what is transparent.
const MAX_COMPONENTS: u64 = 5;
/// A plan A0 at 600 ppi has some 600 tiles of 1024 by 1024.
const MAX_TILES: u64 = 4096;
/// The least blocks that are usual, 32 by 32, of 400 million pixels in three colours are 1.2 million.
const MAX_BLOCKS: u64 = 2_000_000;
/// What the decoder keeps for a block, without what it keeps for each layer of it; for a precinct; for a component of a tile.
const BLOCK_BYTES: u64 = 160;
const LAYER_BYTES: u64 = 32;
const PRECINCT_BYTES: u64 = 160;
const TILE_BYTES: u64 = 2048;
/// What it keeps for a pixel beside four bytes of each component: its coefficient, and two of the transform.
const PIXEL_BYTES: u64 = 12;

/// The image in `bytes`, a file or a codestream, made small.
pub(crate) fn grey(bytes: &[u8]) -> Option<Grey> {
    let mut source = Source::new(Cursor::new(bytes), bytes.len() as u64);
    let (place, colours) = codestream(&mut source).ok()??;
    if colours == Colours::Palette {
        return None;
    }
    let stream = bytes.get(usize::try_from(place.start).ok()?..usize::try_from(place.end).ok()?)?;
    let layout = Layout::read(stream).filter(Layout::is_bounded)?;
    let longer = layout.width.max(layout.height);
    let mut side = side_of(longer);
    while longer / side > SMALL.1 {
        side *= 2;
    }
    let target_resolution = Some((layout.width / side, layout.height / side)).filter(|(w, h)| *w > 0 && *h > 0);
    let settings = DecodeSettings { target_resolution: Some(target_resolution?), ..DecodeSettings::default() };
    let image = Image::new(stream, &settings).ok()?;
    let (width, height) = (image.width(), image.height());
    let pixels = u64::from(width) * u64::from(height);
    if pixels * (PIXEL_BYTES + 4 * layout.components) > MAX_PIECE_BYTES as u64 {
        return None;
    }
    let mut small = Shrinking::of_small(width, height)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).ok()?;
    let planes: Vec<(&[f32], f32)> = decoded
        .components()
        .iter()
        // Of its depth in bits to 255.
        .map(|one| (one.samples(), 255.0 / (2.0_f32.powi(i32::from(one.bit_depth())) - 1.0)))
        .collect();
    let byte = |plane: &(&[f32], f32), at: usize| (plane.0.get(at).copied().unwrap_or(0.0) * plane.1) as u8;
    let grey_at = |at: usize| match &planes[..] {
        [red, green, blue] | [red, green, blue, _] if colours == Colours::Light => {
            luma(byte(red, at), byte(green, at), byte(blue, at))
        }
        [cyan, magenta, yellow, black, ..] if colours == Colours::Ink => {
            grey_of_ink(byte(cyan, at), byte(magenta, at), byte(yellow, at), byte(black, at))
        }
        [first, ..] => byte(first, at),
        [] => 0,
    };
    for row in 0..height {
        let from = row as usize * width as usize;
        small.add(row, 0, (from..from + width as usize).map(grey_at));
    }
    Some(small.small())
}

/// What the headers of a codestream say of how it is cut up.
#[derive(Debug, PartialEq)]
struct Layout {
    width: u32,
    height: u32,
    /// Of the largest tile, no larger than the image.
    tile: (u64, u64),
    tiles: u64,
    components: u64,
    layers: u64,
    levels: u32,
    /// The exponents of the sides of blocks.
    block: (u32, u32),
    /// Those of precincts, by resolution, from the coarsest.
    precincts: Vec<(u32, u32)>,
}

impl Layout {
    fn read(stream: &[u8]) -> Option<Self> {
        let mut reader = Marks { stream, at: 2 };
        let (mut size, mut style) = (None, None);
        let first_tile = loop {
            let (at, mark, body) = reader.next()?;
            match mark {
                0x51 => size = Some(body),
                0x52 => style = Some(body),
                // Styles of components by themselves.
                0x53 => return None,
                0x90 => break at,
                _ => {}
            }
        };
        tile_parts(stream, first_tile)?;
        Self::of(size?, style?)
    }

    fn of(size: &[u8], style: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(size.get(at..at + 4)?.try_into().ok()?));
        let ends = (number(2)?, number(6)?);
        let (width, height) = (ends.0.checked_sub(number(10)?)?, ends.1.checked_sub(number(14)?)?);
        let (tile_width, tile_height) = (number(18)?, number(22)?);
        let tiles_of = |end: u32, offset: u32, side: u32| {
            (side > 0).then(|| Some(u64::from(end.checked_sub(offset)?.div_ceil(side))))?
        };
        let tiles = tiles_of(ends.0, number(26)?, tile_width)? * tiles_of(ends.1, number(30)?, tile_height)?;
        let components = u64::from(u16::from_be_bytes(size.get(34..36)?.try_into().ok()?));
        let [has_precincts, _, layers @ .., _, levels, block_width, block_height, _, _] = *style.first_chunk::<10>()?;
        let (levels, exponent) = (u32::from(levels), |byte: u8| u32::from(byte & 15) + 2);
        let mut precincts = vec![(15, 15); levels as usize + 1];
        if has_precincts & 1 == 1 {
            let told = style.get(10..11 + levels as usize)?;
            precincts = told.iter().map(|byte| (u32::from(byte & 15), u32::from(byte >> 4))).collect();
        }
        let is_modest = (1..=MAX_COMPONENTS).contains(&components) && (1..=MAX_TILES).contains(&tiles) && levels <= 32;
        is_modest.then_some(Self {
            width,
            height,
            tile: (u64::from(tile_width.min(width)), u64::from(tile_height.min(height))),
            tiles,
            components,
            layers: u64::from(u16::from_be_bytes(layers)),
            levels,
            block: (exponent(block_width), exponent(block_height)),
            precincts,
        })
    }

    /// Whether there are not too many blocks, precincts and tiles to keep and to go through.
    fn is_bounded(&self) -> bool {
        let (mut blocks, mut precincts) = (0_u64, 0_u64);
        // Parts of a side that may begin anywhere.
        let parts = |side: u64, exponent: u32| (side >> exponent) + 2;
        for (resolution, (across, down)) in (0_u32..).zip(&self.precincts) {
            // The coarsest is one band, a finer one has three of half its size.
            let (bands, halved) = if resolution == 0 { (1, self.levels) } else { (3, self.levels + 1 - resolution) };
            let half = u32::from(resolution > 0);
            let side = |side: u64| (side >> halved.min(63)) + 1;
            let (across, down) = (across.saturating_sub(half), down.saturating_sub(half));
            let (width, height) = (side(self.tile.0), side(self.tile.1));
            // Sides have 32 bits, a product of two of them 64: two counts of the same tile are more than fits.
            let count = |across: u32, down: u32| parts(width, across).saturating_mul(parts(height, down));
            precincts = precincts.saturating_add(count(across, down).saturating_mul(bands));
            // A block ends where its precinct does.
            let count = count(self.block.0.min(across), self.block.1.min(down));
            blocks = blocks.saturating_add(count.saturating_mul(bands));
        }
        let (blocks, precincts) = (blocks.saturating_mul(self.components), precincts.saturating_mul(self.components));
        let of_blocks = blocks.saturating_mul(BLOCK_BYTES + self.layers * LAYER_BYTES);
        let of_parts =
            precincts.saturating_mul(PRECINCT_BYTES).saturating_add(self.tiles * self.components * TILE_BYTES);
        let kept = of_blocks.saturating_add(of_parts);
        kept <= MAX_PIECE_BYTES as u64 && blocks.saturating_mul(self.tiles) <= MAX_BLOCKS
    }
}

/// Reads markers and their segments.
struct Marks<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Marks<'a> {
    /// Where the next one is, its second byte, and what follows its length.
    fn next(&mut self) -> Option<(usize, u8, &'a [u8])> {
        let at = self.at;
        let [0xff, mark, high, low] = *self.stream.get(at..)?.first_chunk::<4>()? else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        self.at = at + 2 + length;
        Some((at, mark, self.stream.get(at + 4..self.at)?))
    }
}

/// Whether each tile part, the first `at`, follows the one before it and has no style of its own.
fn tile_parts(stream: &[u8], mut at: usize) -> Option<()> {
    loop {
        let mut reader = Marks { stream, at };
        let (_, 0x90, body) = reader.next()? else { return None };
        let length = u32::from_be_bytes(body.get(2..6)?.try_into().ok()?) as usize;
        // SOD has no length.
        while stream.get(reader.at..reader.at + 2)? != [0xff, 0x93] {
            let (_, mark, _) = reader.next()?;
            if matches!(mark, 0x52 | 0x53 | 0x90) {
                return None;
            }
        }
        // To the end.
        if length == 0 {
            return Some(());
        }
        let end = at.checked_add(length).filter(|end| *end >= reader.at + 2 && *end <= stream.len())?;
        match stream.get(end..)? {
            [] | [0xff, 0xd9, ..] => return Some(()),
            _ => at = end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            width: 2480,
            height: 3508,
            tile: (2480, 3508),
            tiles: 1,
            components: 3,
            layers: 1,
            levels: 5,
            block: (6, 6),
            precincts: vec![(15, 15); 6],
        }
    }

    #[test]
    fn a_page_is_modest_and_blocks_of_a_pixel_are_not() {
        assert!(layout().is_bounded());
        assert!(Layout { width: 28_000, height: 14_000, tile: (1024, 1024), tiles: 28 * 14, ..layout() }.is_bounded());
        assert!(Layout { block: (5, 5), layers: 10, ..layout() }.is_bounded());
        for much in [
            Layout { block: (2, 2), ..layout() },
            Layout { precincts: vec![(0, 0); 6], ..layout() },
            Layout { layers: 65_535, ..layout() },
            Layout { tiles: 4096, ..layout() },
            Layout { tile: (u64::from(u32::MAX), u64::from(u32::MAX)), ..layout() },
            Layout { tile: (u64::from(u32::MAX), u64::from(u32::MAX)), precincts: vec![(0, 0); 6], ..layout() },
        ] {
            assert!(!much.is_bounded(), "{much:?}");
        }
    }
}
