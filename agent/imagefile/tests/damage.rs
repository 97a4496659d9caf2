//! Bytes that no writer wrote: they are refused or read, without panic and within the bounds of reading.

use std::io::{Cursor, Read, Seek, SeekFrom};

use proptest::prelude::*;
use veghe_imagefile::{MAX_READ_BYTES, inspect};

/// Counts what is read.
struct Counting<'a> {
    inner: Cursor<&'a [u8]>,
    read: &'a mut u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        *self.read += n as u64;
        Ok(n)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

fn feed(bytes: &[u8]) {
    let mut read = 0;
    drop(inspect(Counting { inner: Cursor::new(bytes), read: &mut read }, bytes.len() as u64));
    assert!(read <= MAX_READ_BYTES, "{read} bytes read");
}

/// Small whole files of each format, written by hand.
fn seeds() -> Vec<Vec<u8>> {
    let mut tiff = b"II*\0\x08\0\0\0\x04\0".to_vec();
    for (tag, value) in [(256_u16, 8_u32), (257, 1), (273, 8), (279, 8)] {
        tiff.extend(tag.to_le_bytes());
        tiff.extend([4, 0, 1, 0, 0, 0]);
        tiff.extend(value.to_le_bytes());
    }
    tiff.extend([0; 4]);
    let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\x01\x01\x2c\x01\x2c\0\0\xff\xc0\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0\xff\xda\0\x02\0\xff\xd9";
    let mut jp2 = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x2djp2h\0\0\0\x1ares \0\0\0\x12resc".to_vec();
    // 11811 pixels per metre are 300 per inch.
    jp2.extend([0x2e, 0x23, 0, 1, 0x2e, 0x23, 0, 1, 0, 0]);
    jp2.extend(b"\0\0\0\x0bcolr\x02\0\0\0\0\0\0jp2c\xff\x4f\xff\x51\0\x29\0\0\0\0\0\x10\0\0\0\x10");
    jp2.extend([0; 24]);
    jp2.extend(b"\0\x01\x07\x01\x01\xff\xd9");
    let pdf = b"%PDF-1.4\n1 0 obj<</Pages 2 0 R>>endobj\n2 0 obj<</Count 3/Kids[]>>endobj\nxref\n0 3\n\
        0000000000 65535 f \n0000000009 00000 n \n0000000039 00000 n \ntrailer<</Root 1 0 R>>\nstartxref\n72\n%%EOF";
    vec![tiff, jpeg.to_vec(), jp2, pdf.to_vec()]
}

#[test]
fn small_files_written_by_hand_are_read() {
    let found: Vec<_> = seeds()
        .iter()
        .map(|bytes| inspect(Cursor::new(bytes), bytes.len() as u64).expect("reads"))
        .map(|found| (found.format.name(), found.count, found.images.first().and_then(|image| image.ppi)))
        .map(|(name, count, ppi)| (name, count, ppi.map(|(across, _)| across.round() as u32)))
        .collect();
    let expected =
        [("tiff", Some(1), None), ("jpeg", Some(1), Some(300)), ("jp2", Some(1), Some(300)), ("pdf", Some(3), None)];
    assert_eq!(found, expected);
}

#[test]
fn a_chain_of_directories_that_returns_is_told() {
    let mut tiff = seeds().remove(0);
    let end = tiff.len();
    tiff[end - 4] = 8;
    let error = inspect(Cursor::new(&tiff), end as u64).expect_err("endless");
    assert_eq!(error.to_string(), "the chain of directories returns to one before at byte 8");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn damaged_files_are_refused_or_read(
        which in any::<prop::sample::Index>(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        more in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = which.get(&seeds()).clone();
        for (at, byte) in hits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        feed(&bytes);
    }

    #[test]
    fn any_bytes_after_a_known_start_are_refused_or_read(
        which in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = which.get(&seeds())[..12].to_vec();
        bytes.extend(more);
        feed(&bytes);
    }
}
