//! Pages that tests of several crates look at, made by `ImageMagick`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// A page A4 of lines of words, drawn as boxes, so that no font decides; another seed has other words, 0 has none.
///
/// # Panics
/// Where `ImageMagick` fails.
pub(crate) fn paint(path: &Path, ppi: u32, seed: u32) {
    let mut random = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let px = |hundredths: u32| hundredths * ppi / 100;
    let mut words = String::new();
    for line in 0..if seed == 0 { 0 } else { 40 } {
        let (mut left, end, top) = (80, 400 + next(330), 110 + line * 24);
        while left < end && next(9) > 0 {
            let right = left + 15 + next(70);
            write!(words, "rectangle {},{} {},{} ", px(left), px(top), px(right), px(top + 9)).expect("a string");
            left = right + 9;
        }
    }
    let made = Command::new("/usr/bin/convert")
        .args(["-size", &format!("{}x{}", px(827), px(1169)), "-units", "PixelsPerInch", "-density", &ppi.to_string()])
        .args(["xc:gray(228)", "-fill", "gray(60)", "-draw", &(words + "point 0,0")])
        .args(["-attenuate", "0.3", "+noise", "Gaussian", "-alpha", "off", "-depth", "8"])
        .arg(path)
        .status();
    assert!(made.expect("ImageMagick; tests/run installs it").success(), "{}", path.display());
}
