//! Pages A4 made by `ImageMagick` and libtiff in every way that scanners' software writes them: what is empty, what is the same
//! page again and what is another is told apart in each.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use veghe_imagefile::{Sight, inspect, look};

mod painter;

const PAGE: &str = "-size 1654x2339 -units PixelsPerInch -density 200";

fn run(dir: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", words[0]));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn convert(dir: &Path, line: &str) {
    run(dir, &format!("/usr/bin/convert {line}"));
}

/// A page at 200 ppi; 0 has no words.
fn paint(dir: &Path, name: &str, seed: u32) {
    painter::paint(&dir.join(name), 200, seed);
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
    for line in [
        "opj_compress -i rgb.tif -o lossless.jp2",
        "opj_compress -i page.tif -o grey.jp2",
        "opj_compress -i rgb.tif -o lossy.jp2 -r 20 -I",
        "opj_compress -i rgb-16.tif -o deep.jp2",
        "opj_compress -i rgb.tif -o stream.j2k",
        "opj_compress -i rgb.tif -o tiles.jp2 -t 512,512 -p RPCL",
        "opj_compress -i rgb.tif -o parts.jp2 -TP R -SOP -EPH",
        "opj_compress -i rgb.tif -o precincts.jp2 -c [256,256],[128,128] -b 32,32",
        "opj_compress -i rgb.tif -o layers.jp2 -r 40,20,10",
        "opj_compress -i rgb.tif -o levels.jp2 -n 2",
        "img2pdf rgb.jpg -o jpeg.pdf",
        "img2pdf lossy.jp2 -o jp2.pdf",
        "qpdf --object-streams=generate jpeg.pdf objects.pdf",
        "gs -q -dBATCH -dNOPAUSE -sDEVICE=pdfwrite -dPassThroughJPEGImages=true -sOutputFile=gs.pdf jpeg.pdf",
    ] {
        run(dir, line);
        names.extend(line.split(' ').rfind(|word| {
            [".jp2", ".j2k", ".pdf"].iter().any(|end| word.ends_with(end)) && !line.contains(&format!("{word} -o"))
        }));
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
fn each_page_of_a_pdf_is_looked_at_by_itself() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.jpg", 5);
    paint(dir, "empty.tif", 0);
    convert(dir, "empty.tif empty.jpg");
    run(dir, "opj_compress -i empty.tif -o empty.jp2 -r 10 -I");
    convert(dir, "empty.tif -threshold 50% -type Bilevel -compress Group4 fax.tif");
    run(dir, "img2pdf page.jpg empty.jpg empty.jp2 fax.tif page.jpg -o book.pdf");
    let blank: Vec<Option<bool>> =
        sights(dir, "book.pdf").iter().map(|sight| sight.as_ref().map(|sight| sight.is_blank)).collect();
    assert_eq!(blank, [Some(false), Some(true), Some(true), None, Some(false)]);
    // As many as a volume has, in a tree of pages that qpdf makes of several files.
    let pages = vec!["page.jpg empty.jpg"; 20].join(" ");
    run(dir, &format!("img2pdf {pages} -o part.pdf"));
    run(dir, "qpdf --empty --pages part.pdf part.pdf book.pdf -- volume.pdf");
    let sights = sights(dir, "volume.pdf");
    assert_eq!(sights.iter().flatten().filter(|sight| sight.is_blank).count(), 42);
    assert_eq!(sights.iter().flatten().filter(|sight| !sight.is_blank).count(), 42);
    assert_eq!(sights.len(), 85);
}

/// A PDF of one page with what `content` draws: `/I` an image, `/F` a form with `form` in it, `/H` letters.
fn draw(dir: &Path, name: &str, content: &str, form: &str) {
    let image = std::fs::read(dir.join("page.jpg")).expect("file");
    let mut pdf = b"%PDF-1.7\n".to_vec();
    let mut places = Vec::new();
    let stream = |head: &str, data: &[u8]| {
        let head = format!("<< {head} /Length {} >>\nstream\n", data.len());
        [head.as_bytes(), data, b"\nendstream"].concat()
    };
    let objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] /MediaBox [0 0 595 842] /Resources << /Font << /H 7 0 R >> /XObject << /I 4 0 R /F 5 0 R >> >> >>".to_vec(),
        b"<< /Type /Page /Parent 2 0 R /Contents 6 0 R >>".to_vec(),
        stream("/Type /XObject /Subtype /Image /Width 1654 /Height 2338 /BitsPerComponent 8 /ColorSpace /DeviceGray /Filter [/DCTDecode]", &image),
        stream("/Type /XObject /Subtype /Form /BBox [0 0 595 842]", form.as_bytes()),
        stream("", content.as_bytes()),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_vec(),
    ];
    for (number, object) in (1..).zip(objects) {
        places.push(pdf.len());
        pdf.extend([format!("{number} 0 obj\n").as_bytes(), &object, b"\nendobj\n"].concat());
    }
    let start = pdf.len();
    let entries: Vec<String> = places.iter().map(|place| format!("{place:010} 00000 n \n")).collect();
    let entries = entries.concat();
    let end = format!(
        "xref\n0 8\n0000000000 65535 f \n{entries}trailer\n<< /Size 8 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    );
    pdf.extend(end.as_bytes());
    std::fs::write(dir.join(name), pdf).expect("file");
}

#[test]
fn a_page_of_a_pdf_is_looked_at_where_an_image_is_all_that_it_shows() {
    const IMAGE: &str = "q 595 0 0 842 0 0 cm /I Do Q";
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.jpg", 7);
    let page = |content: &str, form: &str| {
        draw(dir, "page.pdf", content, form);
        run(dir, "qpdf --check page.pdf");
        sights(dir, "page.pdf")
    };
    let recognized = "BT 3 Tr /H 12 Tf (dosar) Tj ET";
    let shown = "BT /H 12 Tf (dosar) Tj ET";
    for (content, form) in
        [(IMAGE.to_owned(), ""), (format!("{IMAGE} {recognized}"), ""), (format!("{IMAGE} /F Do"), recognized)]
    {
        assert!(matches!(page(&content, form)[..], [Some(sight)] if !sight.is_blank), "{content} {form}");
    }
    for (content, form) in [
        (format!("{IMAGE} {shown}"), ""),
        (format!("q {recognized} Q {IMAGE} {shown}"), ""),
        (format!("{IMAGE} /F Do"), shown),
        (format!("{IMAGE} {IMAGE}"), ""),
        (format!("{IMAGE} q BI /W 1 /H 1 /BPC 1 /CS /G ID x EI Q"), ""),
        (String::new(), ""),
    ] {
        assert_eq!(page(&content, form), [None], "{content} {form}");
    }
    run(dir, "img2pdf page.jpg -o plain.pdf");
    run(dir, "qpdf --encrypt user owner 256 -- plain.pdf locked.pdf");
    assert_eq!(sights(dir, "locked.pdf"), []);
}

#[test]
fn what_is_not_decoded_is_not_looked_at() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path();
    paint(dir, "page.tif", 4);
    convert(dir, "page.tif -colors 16 -type Palette palette.tif");
    convert(dir, "page.tif -resize 10x2000! strip.tif");
    assert_eq!(sights(dir, "palette.tif"), [None]);
    assert_eq!(sights(dir, "strip.tif"), [None]);
    // All of it at once would take more than is kept of an image.
    painter::paint(&dir.join("large.tif"), 300, 4);
    run(dir, "opj_compress -i large.tif -o large.jp2 -n 1");
    assert_eq!(sights(dir, "large.jp2"), [None]);
    // A header says more than there is.
    convert(dir, "page.tif -type TrueColor whole.jpg");
    let whole = std::fs::read(dir.join("whole.jpg")).expect("file");
    let file = std::io::Cursor::new(&whole[..whole.len() / 2]);
    let found = inspect(file.clone(), (whole.len() / 2) as u64).expect("a JPEG");
    assert!(look(file, &found, || ()).len() <= 1);
}
