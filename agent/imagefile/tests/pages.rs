//! Pages A4 made by `ImageMagick` and libtiff in every way that scanners' software writes them: what is empty, what is the same
//! page again and what is another is told apart in each.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use veghe_imagefile::{Sight, inspect, look};

const PAGE: &str = "-size 1654x2339 -units PixelsPerInch -density 200";
const NOISE: &str = "-attenuate 0.3 +noise Gaussian";

fn run(dir: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", words[0]));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn convert(dir: &Path, line: &str) {
    run(dir, &format!("/usr/bin/convert {line}"));
}

/// A page of lines of words, drawn as boxes, so that no font decides; another seed has other words.
fn paint(dir: &Path, name: &str, seed: u32) {
    let mut random = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let mut words = String::new();
    for line in 0..50 {
        let (mut left, end) = (150, 900 + next(600));
        while left < end && next(9) > 0 {
            let right = left + 30 + next(140);
            write!(words, "rectangle {left},{} {right},{} ", 220 + line * 38, 236 + line * 38).expect("a string");
            left = right + 18;
        }
    }
    let made = Command::new("/usr/bin/convert")
        .args(PAGE.split(' '))
        .args(["xc:gray(228)", "-fill", "gray(60)", "-draw", &words])
        .args(NOISE.split(' '))
        .args(["-alpha", "off", "-depth", "8", name])
        .current_dir(dir)
        .status();
    assert!(made.expect("ImageMagick; tests/run installs it").success(), "{name}");
}

fn sights(dir: &Path, name: &str) -> Vec<Option<Sight>> {
    let file = File::open(dir.join(name)).expect("file");
    let found = inspect(&file, file.metadata().expect("metadata").len()).expect("an image");
    let mut ticks = 0;
    let sights = look(&file, &found, || ticks += 1);
    assert_eq!(ticks, sights.len(), "{name}");
    sights
}

fn sight(dir: &Path, name: &str) -> Sight {
    let sights = sights(dir, name);
    assert_eq!(sights.len(), 1, "{name}");
    sights[0].unwrap_or_else(|| panic!("{name} was not looked at"))
}

#[test]
fn a_page_is_the_same_in_every_format_and_compression() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.tif", 1);
    paint(dir, "other.tif", 2);
    let (page, other) = (sight(dir, "page.tif"), sight(dir, "other.tif"));
    assert!(!page.is_blank && !other.is_blank && !page.hash.is_alike(&other.hash));
    let same = [
        "page.tif -type TrueColor -compress LZW rgb-lzw.tif",
        "page.tif -type TrueColor -compress Zip rgb-zip.tif",
        "page.tif -type TrueColor -compress None rgb.tif",
        "page.tif -type TrueColor -compress JPEG rgb-jpeg.tif",
        "page.tif -type TrueColor -depth 16 -compress LZW rgb-16.tif",
        "page.tif -depth 16 grey-16.tif",
        "page.tif -type TrueColorAlpha rgba.tif",
        "page.tif -compress RLE packbits.tif",
        "page.tif -colorspace CMYK cmyk.tif",
        "page.tif -type TrueColor -interlace Plane planes.tif",
        "page.tif -threshold 50% -type Bilevel -compress Group4 fax.tif",
        "page.tif -threshold 50% -type Bilevel -compress None bilevel.tif",
        "page.tif -negate -define quantum:polarity=min-is-white min-is-white.tif",
        "page.tif -type TrueColor rgb.jpg",
        "page.tif -type TrueColor -sampling-factor 4:4:4 -interlace JPEG progressive.jpg",
        "page.tif grey.jpg",
        "page.tif -colorspace CMYK cmyk.jpg",
    ];
    let mut names: Vec<&str> = same.map(|line| line.rsplit(' ').next().expect("name")).to_vec();
    for line in same {
        convert(dir, line);
    }
    for (option, name) in
        [("-8", "big.tif"), ("-t -w 256 -l 256", "tiles.tif"), ("-r 7", "strips.tif"), ("-B", "mm.tif")]
    {
        run(dir, &format!("tiffcp {option} rgb.tif {name}"));
        names.push(name);
    }
    for name in names {
        let again = sight(dir, name);
        // A negative shows the same page, darker where the other is lighter.
        assert!(!again.is_blank, "{name}");
        if name != "min-is-white.tif" {
            assert!(
                page.hash.is_alike(&again.hash) && !other.hash.is_alike(&again.hash),
                "{name}: {again:?}, {page:?}"
            );
        }
    }
}

#[test]
fn another_scan_of_a_page_is_alike_and_another_page_is_not() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    for page in 1..=6 {
        paint(dir, &format!("{page}.jpg"), page);
    }
    let pages: Vec<Sight> = (1..=6).map(|page| sight(dir, &format!("{page}.jpg"))).collect();
    for (at, change) in [
        "-background gray(228) -rotate 0.4 -gravity center -extent 1654x2339 -roll +8-6 -modulate 106 -quality 75",
        "-background gray(228) -rotate -0.5 -gravity center -extent 1654x2339 -roll -14+12 -modulate 92 -quality 80",
        "-roll +5+3 -blur 0x1 -quality 60",
        "-resize 150% -quality 85",
    ]
    .iter()
    .enumerate()
    {
        convert(dir, &format!("{}.jpg {change} again.jpg", at + 1));
        let again = sight(dir, "again.jpg");
        let alike: Vec<usize> =
            (1..).zip(&pages).filter(|(_, page)| page.hash.is_alike(&again.hash)).map(|(number, _)| number).collect();
        assert_eq!(alike, [at + 1], "{change}");
    }
    let pairs = (0..6).flat_map(|a| (0..a).map(move |b| (a, b)));
    assert!(pairs.into_iter().all(|(a, b)| !pages[a].hash.is_alike(&pages[b].hash)));
}

#[test]
fn empty_pages_of_a_book_are_told() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.tif", 3);
    convert(dir, &format!("{PAGE} gradient:rgb(230,220,200)-rgb(200,190,170) -attenuate 0.5 +noise Gaussian old.tif"));
    convert(dir, &format!("{PAGE} xc:white -bordercolor black -border 20 white.tif"));
    convert(dir, "white.tif -type Bilevel -compress Group4 fax.tif");
    convert(dir, "( page.tif -flop -blur 0x4 +level 92%,100% ) old.tif -compose multiply -composite through.tif");
    run(dir, "tiffcp page.tif old.tif white.tif page.tif through.tif fax.tif book.tif");
    let blank: Vec<bool> = sights(dir, "book.tif").iter().map(|sight| sight.expect("looked at").is_blank).collect();
    assert_eq!(blank, [false, true, true, false, true, true]);
    // Thumbnails are no images.
    run(dir, "tiffset -s 254 1 old.tif");
    run(dir, "tiffcp page.tif old.tif page.tif thumbnails.tif");
    assert_eq!(sights(dir, "thumbnails.tif").len(), 2);
}

#[test]
fn what_is_not_decoded_is_not_looked_at() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.tif", 4);
    convert(dir, "page.tif -colors 16 -type Palette palette.tif");
    convert(dir, "page.tif page.jpg");
    run(dir, "img2pdf page.jpg -o page.pdf");
    convert(dir, "page.tif -resize 10x2000! strip.tif");
    assert_eq!(sights(dir, "palette.tif"), [None]);
    assert_eq!(sights(dir, "strip.tif"), [None]);
    assert_eq!(sights(dir, "page.pdf"), []);
    // A header says more than there is.
    convert(dir, "page.tif -type TrueColor whole.jpg");
    let whole = std::fs::read(dir.join("whole.jpg")).expect("file");
    let file = std::io::Cursor::new(&whole[..whole.len() / 2]);
    let found = inspect(file.clone(), (whole.len() / 2) as u64).expect("a JPEG");
    assert!(look(file, &found, || ()).len() <= 1);
}
