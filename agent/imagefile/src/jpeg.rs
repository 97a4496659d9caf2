//! JPEG (ITU-T T.81): segments up to the first scan, and the mark at the end.

use std::io::{Read, Seek};

use crate::source::Source;
use crate::{Completeness, Fault, Found, Image, Inspection, tiff};

const CM_PER_INCH: f64 = 2.54;
/// Segments and fill bytes before the first scan; files have a few tens.
const MAX_SEGMENTS: usize = 4096;
const END_OF_IMAGE: &[u8] = &[0xff, 0xd9];

pub(crate) fn inspect<R: Read + Seek>(source: &mut Source<R>, found: &mut Inspection) -> Found<()> {
    let mut image = Image::default();
    let (mut jfif, mut exif) = (None, None);
    let mut offset = 2;
    let mut segments = 0;
    loop {
        segments += 1;
        if segments > MAX_SEGMENTS {
            return Err(Fault::TooLarge("the number of segments"));
        }
        let [lead, mut marker]: [u8; 2] = source.array(offset)?;
        if lead != 0xff {
            return Err(Fault::Damaged { offset, what: "a segment without marker" });
        }
        // Fill bytes may stand before a marker; each costs a read.
        while marker == 0xff {
            offset += 1;
            segments += 1;
            if segments > MAX_SEGMENTS {
                return Err(Fault::TooLarge("the number of segments"));
            }
            [_, marker] = source.array(offset)?;
        }
        offset += 2;
        if matches!(marker, 0x01 | 0xd0..=0xd7) {
            continue;
        }
        if marker == 0xd9 {
            return Err(Fault::Damaged { offset: offset - 2, what: "the image ends without a frame" });
        }
        let length = u64::from(u16::from_be_bytes(source.array(offset)?));
        if length < 2 {
            return Err(Fault::Damaged { offset, what: "a segment of an impossible length" });
        }
        let (body, body_length) = (offset + 2, length - 2);
        match marker {
            // Start of frame; C4, C8 and CC are tables and an extension.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                frame(&source.at(body, body_length)?, marker, &mut image);
            }
            0xe0 => jfif = jfif.or(density(&source.at(body, body_length.min(16))?)),
            0xe1 if body_length > 6 && source.at(body, 6)? == *b"Exif\0\0" => {
                // A damaged Exif block does not make the image unreadable.
                exif = exif.or(match tiff::resolution_of_exif(source, body + 6) {
                    Ok(resolution) => resolution,
                    Err(Fault::Read(error)) => return Err(Fault::Read(error)),
                    Err(_) => None,
                });
            }
            0xe2 => image.icc |= source.at(body, body_length.min(12))?.starts_with(b"ICC_PROFILE\0"),
            0xda => break,
            _ => {}
        }
        offset += length;
    }
    if image.width_px == 0 {
        return Err(Fault::Damaged { offset, what: "the first scan comes before its frame" });
    }
    image.ppi = jfif.or(exif);
    found.push(image);
    if !source.ends_with(END_OF_IMAGE)? {
        found.completeness = Completeness::Truncated;
    }
    Ok(())
}

fn frame(body: &[u8], marker: u8, image: &mut Image) {
    let &[bits, h1, h0, w1, w0, samples, ..] = body else { return };
    image.bits = bits.into();
    image.height_px = u16::from_be_bytes([h1, h0]).into();
    image.width_px = u16::from_be_bytes([w1, w0]).into();
    image.samples = samples.into();
    let kind = match marker {
        0xc2 | 0xc6 | 0xca | 0xce => "jpeg-progressive",
        0xc3 | 0xc7 | 0xcb | 0xcf => "jpeg-lossless",
        _ => "jpeg",
    };
    kind.clone_into(&mut image.compression);
}

/// Of a JFIF header; unit 0 tells only the ratio of the sides.
fn density(body: &[u8]) -> Option<(f64, f64)> {
    let &[b'J', b'F', b'I', b'F', 0, _, _, unit, x1, x0, y1, y0, ..] = body else { return None };
    let per_inch = match unit {
        1 => 1.0,
        2 => CM_PER_INCH,
        _ => return None,
    };
    let (across, down) = (u16::from_be_bytes([x1, x0]), u16::from_be_bytes([y1, y0]));
    (across > 0 && down > 0).then(|| (f64::from(across) * per_inch, f64::from(down) * per_inch))
}
