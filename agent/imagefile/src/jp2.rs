//! JPEG 2000 (ISO/IEC 15444-1): the boxes of the file format (annex I) and the head of a codestream (annex A).

use std::io::{Read, Seek};

use crate::source::Source;
use crate::{Completeness, Fault, Found, Image, Inspection};

const INCHES_PER_METRE: f64 = 0.0254;
/// Boxes of a file or within one; files have a few tens.
const MAX_BOXES: usize = 4096;
const END_OF_CODESTREAM: &[u8] = &[0xff, 0xd9];

/// A box: its type, and where its content is.
struct Boxed {
    kind: [u8; 4],
    begin: u64,
    end: u64,
}

fn read_box<R: Read + Seek>(source: &mut Source<R>, offset: u64, limit: u64) -> Found<Boxed> {
    let head: [u8; 8] = source.array(offset)?;
    let [l3, l2, l1, l0, kind @ ..] = head;
    let mut begin = offset + 8;
    let length = match u64::from(u32::from_be_bytes([l3, l2, l1, l0])) {
        // To the end of the file.
        0 => limit - offset,
        1 => {
            begin += 8;
            u64::from_be_bytes(source.array(offset + 8)?)
        }
        length => length,
    };
    let end = offset.checked_add(length).filter(|end| *end >= begin);
    let end = end.ok_or(Fault::Damaged { offset, what: "a box of an impossible length" })?;
    Ok(Boxed { kind, begin, end })
}

/// Calls `each` for the boxes in `[offset, limit)`; a box that ends beyond is given too.
fn boxes<R: Read + Seek>(
    source: &mut Source<R>,
    mut offset: u64,
    limit: u64,
    each: &mut dyn FnMut(&mut Source<R>, &Boxed) -> Found<()>,
) -> Found<()> {
    let mut count = 0;
    while offset < limit {
        count += 1;
        if count > MAX_BOXES {
            return Err(Fault::TooLarge("the number of boxes"));
        }
        let found = read_box(source, offset, limit)?;
        each(source, &found)?;
        offset = found.end;
    }
    Ok(())
}

/// What the boxes of a file say that its codestream does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Colours {
    /// Grey, or red, green and blue.
    #[default]
    Light,
    /// Luma comes first (sYCC).
    Luma,
    /// Cyan, magenta, yellow, black.
    Ink,
    /// Numbers of colours in a palette.
    Palette,
}

/// Where the codestream of a file is, or of what is one itself, and what its samples are; nothing where a file has another
/// number of them than one.
pub(crate) fn codestream<R: Read + Seek>(source: &mut Source<R>) -> Found<Option<(std::ops::Range<u64>, Colours)>> {
    let length = source.len();
    if source.up_to(0, 2)? == [0xff, 0x4f] {
        return Ok(Some((0..length, Colours::default())));
    }
    let (mut streams, mut colours) = (Vec::new(), Colours::default());
    boxes(source, 0, length, &mut |source, outer| {
        match &outer.kind {
            b"jp2h" => boxes(source, outer.begin, outer.end, &mut |source, inner| {
                match &inner.kind {
                    b"pclr" => colours = Colours::Palette,
                    b"colr" if colours == Colours::default() => {
                        colours = colours_of(&source.up_to(inner.begin, 3 + 20)?);
                    }
                    _ => {}
                }
                Ok(())
            })?,
            b"jp2c" => streams.push(outer.begin..outer.end.min(length)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(if streams.len() == 1 { streams.pop().map(|stream| (stream, colours)) } else { None })
}

/// Annex I.5.3.3: method, precedence, approximation, then a number or an ICC profile, whose colours are at byte 16.
fn colours_of(colr: &[u8]) -> Colours {
    match colr {
        [1, _, _, 0, 0, 0, 18, ..] => Colours::Luma,
        [1, _, _, 0, 0, 0, 12, ..] => Colours::Ink,
        [2 | 3, _, _, profile @ ..] if profile.get(16..20) == Some(b"CMYK") => Colours::Ink,
        _ => Colours::Light,
    }
}

pub(crate) fn inspect_boxes<R: Read + Seek>(source: &mut Source<R>, found: &mut Inspection) -> Found<()> {
    let mut image = Image { compression: "jpeg2000".to_owned(), ..Image::default() };
    let mut codestream = None;
    let length = source.len();
    boxes(source, 0, length, &mut |source, outer| {
        match &outer.kind {
            b"jp2h" => boxes(source, outer.begin, outer.end, &mut |source, inner| header(source, inner, &mut image))?,
            b"jp2c" => codestream = codestream.or(Some((outer.begin, outer.end))),
            _ => {}
        }
        Ok(())
    })?;
    let Some((begin, end)) = codestream else { return Err(Fault::Truncated) };
    size(source, begin, &mut image)?;
    found.push(image);
    if end > length || source.at(end.saturating_sub(2), 2)? != END_OF_CODESTREAM {
        found.completeness = Completeness::Truncated;
    }
    Ok(())
}

pub(crate) fn inspect_codestream<R: Read + Seek>(source: &mut Source<R>, found: &mut Inspection) -> Found<()> {
    let mut image = Image { compression: "jpeg2000".to_owned(), ..Image::default() };
    size(source, 0, &mut image)?;
    found.push(image);
    if !source.ends_with(END_OF_CODESTREAM)? {
        found.completeness = Completeness::Truncated;
    }
    Ok(())
}

fn header<R: Read + Seek>(source: &mut Source<R>, inner: &Boxed, image: &mut Image) -> Found<()> {
    match &inner.kind {
        // Method 2 or 3: a restricted or any ICC profile.
        b"colr" => image.icc |= matches!(source.array(inner.begin)?, [2 | 3]),
        b"res " => boxes(source, inner.begin, inner.end, &mut |source, resolution| {
            // What was captured says more than what is proposed for display.
            if resolution.kind == *b"resc" || (resolution.kind == *b"resd" && image.ppi.is_none()) {
                image.ppi = pixels_per_inch(source.array(resolution.begin)?);
            }
            Ok(())
        })?,
        _ => {}
    }
    Ok(())
}

/// Annex I.5.3.7: numerators, denominators and exponents of pixels per metre, down before across.
fn pixels_per_inch(bytes: [u8; 10]) -> Option<(f64, f64)> {
    let [n1, n0, d1, d0, m1, m0, e1, e0, down_exponent, across_exponent] = bytes;
    let part = |n: [u8; 2], d: [u8; 2], exponent: u8| {
        let fraction = f64::from(u16::from_be_bytes(n)) / f64::from(u16::from_be_bytes(d));
        let per_metre = fraction * 10_f64.powi(i32::from(exponent.cast_signed()));
        Some(per_metre * INCHES_PER_METRE).filter(|ppi| ppi.is_finite() && *ppi > 0.0)
    };
    let down = part([n1, n0], [d1, d0], down_exponent)?;
    Some((part([m1, m0], [e1, e0], across_exponent)?, down))
}

/// Annex A.5.1: image and tile size, the marker that begins a codestream after SOC.
fn size<R: Read + Seek>(source: &mut Source<R>, offset: u64, image: &mut Image) -> Found<()> {
    let damaged = |what| Fault::Damaged { offset, what };
    let head: [u8; 42] = source.array(offset)?;
    if !head.starts_with(&[0xff, 0x4f, 0xff, 0x51]) {
        return Err(damaged("no codestream of JPEG 2000"));
    }
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| b.iter().fold(0_u32, |v, b| v << 8 | u32::from(*b)));
    let side = |whole: u32, start: u32| whole.checked_sub(start).filter(|side| *side > 0);
    // Grid size and offset of the image on it.
    let (width, height) = (side(word(8), word(16)), side(word(12), word(20)));
    let (Some(width_px), Some(height_px)) = (width, height) else { return Err(damaged("an image without an area")) };
    (image.width_px, image.height_px) = (width_px, height_px);
    image.samples = u16::from_be_bytes([head[40], head[41]]);
    let components = source.at(offset + 42, u64::from(image.samples) * 3)?;
    // The top bit says whether samples have a sign.
    image.bits = components.chunks_exact(3).map(|c| u16::from(c[0] & 0x7f) + 1).max().unwrap_or(0);
    Ok(())
}
