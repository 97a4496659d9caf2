//! Files made by the tools that scanners' software is made of (`ImageMagick`, libtiff, `OpenJPEG`, img2pdf,
//! Ghostscript, qpdf),
//! and what `exiftool`, `tiffinfo`, `pdfinfo` and `pdfimages` say of them: file by file, the inspection says the same.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use veghe_imagefile::{Completeness, Inspection, inspect};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("directory"))
    }

    /// Runs a command line in the folder; gives what it printed.
    fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = Command::new(words[0])
            .args(&words[1..])
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", words[0]));
        // qpdf ends with 3 where it has warnings.
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn inspect(&self, name: &str) -> Inspection {
        look_at(&self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Tag and value as exiftool prints them, of the whole file.
    fn exiftool(&self, name: &str) -> BTreeMap<String, String> {
        let text = self.run(&format!("exiftool -n -s {name}"));
        let mut tags = BTreeMap::new();
        for (tag, value) in text.lines().filter_map(|line| line.split_once(':')) {
            tags.entry(tag.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
        }
        tags
    }
}

fn look_at(path: &Path) -> Result<Inspection, veghe_imagefile::InspectError> {
    let file = File::open(path).expect("file");
    let length = file.metadata().expect("metadata").len();
    inspect(file, length)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= b.abs() * 0.005
}

const IMAGEMAGICK: &str = "/usr/bin/convert";

#[test]
fn tiff_files_are_as_exiftool_and_tiffinfo_say() {
    let folder = Folder::new();
    let page = format!("{IMAGEMAGICK} -size 248x350 plasma:red-blue -depth 8 -units PixelsPerInch -density 300");
    folder.run(&format!("{page} plain.tif"));
    folder.run(&format!("{page} -depth 16 deep.tif"));
    folder.run(&format!("{page} -colorspace Gray -type Grayscale grey.tif"));
    folder.run(&format!("{page} -compress JPEG jpeg.tif"));
    folder.run(&format!("{page} -threshold 50% -type Bilevel -compress Group4 fax.tif"));
    folder.run(&format!("{page} -units PixelsPerCentimeter -density 118.11 cm.tif"));
    folder.run(&format!("{page} -profile /usr/share/color/icc/ghostscript/srgb.icc icc.tif"));
    folder.run(&format!("{IMAGEMAGICK} plain.tif grey.tif deep.tif -compress Zip pages.tif"));
    for (option, name) in
        [("-B", "big-endian"), ("-8", "bigtiff"), ("-t", "tiles"), ("-c lzw:2", "lzw"), ("-c packbits", "packbits")]
    {
        folder.run(&format!("tiffcp {option} plain.tif {name}.tif"));
    }
    folder.run("tiffcp -8 -B -t pages.tif bigtiff-pages.tif");
    let mut seen = 0;
    for entry in fs::read_dir(folder.0.path()).expect("folder") {
        let name = entry.expect("entry").file_name().into_string().expect("name");
        let found = folder.inspect(&name);
        assert_eq!(found.completeness, Completeness::Complete, "{name}");
        let directories = folder.run(&format!("tiffinfo {name}")).matches("TIFF Directory").count();
        assert_eq!(found.count, Some(directories as u32), "{name}");
        assert_eq!(found.images.len(), directories, "{name}");
        let (tags, image) = (folder.exiftool(&name), &found.images[0]);
        let told = |tag: &str| tags.get(tag).unwrap_or_else(|| panic!("{name}: exiftool tells no {tag}")).as_str();
        assert_eq!(image.width_px.to_string(), told("ImageWidth"), "{name}");
        assert_eq!(image.height_px.to_string(), told("ImageHeight"), "{name}");
        assert_eq!(image.bits.to_string(), told("BitsPerSample").split(' ').next().expect("bits"), "{name}");
        assert_eq!(image.samples.to_string(), told("SamplesPerPixel"), "{name}");
        assert_eq!(image.icc, tags.contains_key("ProfileVersion"), "{name}");
        let per_inch = if told("ResolutionUnit") == "3" { 2.54 } else { 1.0 };
        let (across, down) = image.ppi.expect("resolution");
        assert!(near(across, told("XResolution").parse::<f64>().expect("number") * per_inch), "{name}: {across}");
        assert!(near(down, told("YResolution").parse::<f64>().expect("number") * per_inch), "{name}: {down}");
        let compression = match told("Compression") {
            "1" => "none",
            "4" => "ccitt-g4",
            "5" => "lzw",
            "7" => "jpeg",
            "8" => "deflate",
            "32773" => "packbits",
            other => panic!("{name}: compression {other}"),
        };
        assert_eq!(image.compression, compression, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn thumbnails_are_no_images() {
    let folder = Folder::new();
    folder.run(&format!("{IMAGEMAGICK} -size 248x350 plasma: -depth 8 page.tif"));
    folder.run(&format!("{IMAGEMAGICK} page.tif -resize 10% thumbnail.tif"));
    folder.run("tiffset -s 254 1 thumbnail.tif");
    folder.run("tiffcp page.tif thumbnail.tif page.tif thumbnail.tif book.tif");
    assert_eq!(folder.run("tiffinfo book.tif").matches("TIFF Directory").count(), 4);
    let found = folder.inspect("book.tif");
    assert_eq!((found.count, found.images.len()), (Some(2), 2));
    assert!(found.images.iter().all(|image| image.width_px == 248));
}

#[test]
fn jpeg_files_are_as_exiftool_says() {
    let folder = Folder::new();
    let page = format!("{IMAGEMAGICK} -size 248x350 plasma:red-blue -units PixelsPerInch -density 400");
    folder.run(&format!("{page} plain.jpg"));
    folder.run(&format!("{page} -interlace JPEG progressive.jpg"));
    folder.run(&format!("{page} -colorspace Gray grey.jpg"));
    folder.run(&format!("{page} -colorspace CMYK cmyk.jpg"));
    folder.run(&format!("{page} -units PixelsPerCentimeter -density 118 cm.jpg"));
    folder.run(&format!("{page} -profile /usr/share/color/icc/ghostscript/srgb.icc icc.jpg"));
    folder.run(&format!("{page} exif.jpg"));
    folder.run("exiftool -q -overwrite_original -JFIF:all= -EXIF:XResolution=600 -EXIF:YResolution=600 -EXIF:ResolutionUnit=inches exif.jpg");
    folder.run(&format!("{IMAGEMAGICK} -size 248x350 plasma: -units Undefined -density 0 nothing.jpg"));
    let mut seen = 0;
    for entry in fs::read_dir(folder.0.path()).expect("folder") {
        let name = entry.expect("entry").file_name().into_string().expect("name");
        let (found, tags) = (folder.inspect(&name), folder.exiftool(&name));
        let image = &found.images[0];
        let told = |tag: &str| tags.get(tag).unwrap_or_else(|| panic!("{name}: exiftool tells no {tag}")).as_str();
        assert_eq!((found.count, found.completeness), (Some(1), Completeness::Complete), "{name}");
        assert_eq!(image.width_px.to_string(), told("ImageWidth"), "{name}");
        assert_eq!(image.height_px.to_string(), told("ImageHeight"), "{name}");
        assert_eq!(image.bits.to_string(), told("BitsPerSample"), "{name}");
        assert_eq!(image.samples.to_string(), told("ColorComponents"), "{name}");
        assert_eq!(
            image.compression,
            if told("EncodingProcess") == "2" { "jpeg-progressive" } else { "jpeg" },
            "{name}"
        );
        assert_eq!(image.icc, tags.contains_key("ProfileVersion"), "{name}");
        let per_inch = match tags.get("ResolutionUnit").map(String::as_str) {
            Some("1" | "2") if name.starts_with("exif") => Some(1.0),
            Some("1") => Some(1.0),
            Some("2") => Some(2.54),
            _ => None,
        };
        match (per_inch, image.ppi) {
            (Some(per_inch), Some((across, _))) => {
                assert!(
                    near(across, told("XResolution").parse::<f64>().expect("number") * per_inch),
                    "{name}: {across}"
                );
            }
            (told, found) => assert_eq!((told, found), (None, None), "{name}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn jpeg_2000_files_are_as_exiftool_says() {
    let folder = Folder::new();
    for (name, options) in [("colour", "-depth 8"), ("grey", "-colorspace Gray -depth 8"), ("deep", "-depth 16")] {
        folder.run(&format!("{IMAGEMAGICK} -size 248x350 plasma: {options} {name}.tif"));
        folder.run(&format!("opj_compress -i {name}.tif -o {name}.jp2"));
        folder.run(&format!("opj_compress -i {name}.tif -o {name}.j2k"));
        let tags = folder.exiftool(&format!("{name}.jp2"));
        for kind in ["jp2", "j2k"] {
            let found = folder.inspect(&format!("{name}.{kind}"));
            assert_eq!((found.count, found.completeness, found.format.name()), (Some(1), Completeness::Complete, kind));
            let image = &found.images[0];
            assert_eq!(image.width_px.to_string(), tags["ImageWidth"], "{name}");
            assert_eq!(image.height_px.to_string(), tags["ImageHeight"], "{name}");
            assert_eq!(image.samples.to_string(), tags["NumberOfComponents"], "{name}");
            assert_eq!(image.bits, if name == "deep" { 16 } else { 8 }, "{name}");
        }
        cut_everywhere(&folder, &format!("{name}.jp2"));
    }
}

#[test]
fn pdf_files_are_as_pdfinfo_and_pdfimages_say() {
    let folder = Folder::new();
    folder.run(&format!("{IMAGEMAGICK} -size 248x350 plasma: -units PixelsPerInch -density 300 page.jpg"));
    folder.run(&format!("{IMAGEMAGICK} -size 500x700 plasma: -threshold 50% -type Bilevel -compress Group4 fax.tif"));
    folder.run("img2pdf page.jpg page.jpg page.jpg -o three.pdf");
    folder.run("img2pdf --pagesize A4 page.jpg -o placed.pdf");
    folder.run("img2pdf fax.tif -o fax.pdf");
    folder.run("qpdf --object-streams=generate three.pdf streams.pdf");
    folder.run("qpdf --linearize three.pdf linear.pdf");
    folder.run("qpdf --object-streams=disable --encrypt secret owner 256 -- three.pdf locked.pdf");
    folder.run("qpdf --object-streams=generate --encrypt secret owner 256 -- three.pdf locked-streams.pdf");
    folder.run("gs -q -dNOPAUSE -dBATCH -sDEVICE=pdfwrite -sOutputFile=written.pdf three.pdf fax.pdf");
    folder.run("gs -q -dNOPAUSE -dBATCH -dPDFA=2 -sColorConversionStrategy=RGB -dPDFACompatibilityPolicy=1 -sDEVICE=pdfwrite -sOutputFile=archive.pdf three.pdf");
    for name in ["three", "placed", "fax", "streams", "linear", "locked", "written", "archive"]
        .map(|name| format!("{name}.pdf"))
    {
        let password = if name.starts_with("locked") { "-upw secret" } else { "" };
        let told = folder.run(&format!("pdfinfo {password} {name}"));
        let field = |label: &str| told.lines().find_map(|line| line.strip_prefix(label)).map_or("", str::trim);
        let found = folder.inspect(&name);
        assert_eq!(found.count.map(|count| count.to_string()).as_deref(), Some(field("Pages:")), "{name}");
        assert_eq!(found.encrypted, field("Encrypted:").starts_with("yes"), "{name}");
        assert_eq!(found.completeness, Completeness::Complete, "{name}");
        assert_eq!(found.pdfa_part, if name == "archive.pdf" { Some(2) } else { None }, "{name}");
        let listed = folder.run(&format!("pdfimages {password} -list {name}"));
        let first: Vec<&str> = listed.lines().nth(2).expect("an image").split_whitespace().collect();
        let Some(image) = found.images.first() else {
            assert!(found.encrypted, "{name} has an image");
            continue;
        };
        assert_eq!([image.width_px.to_string(), image.height_px.to_string()], first[3..5], "{name}");
        assert_eq!([image.samples.to_string(), image.bits.to_string()], first[6..8], "{name}");
        let (across, down) = image.ppi.expect("resolution");
        for (found, told) in [(across, first[12]), (down, first[13])] {
            assert!((found - told.parse::<f64>().expect("number")).abs() <= 1.0, "{name}: {found} for {told}");
        }
    }
    let found = folder.inspect("locked-streams.pdf");
    assert_eq!((found.count, found.encrypted), (None, true), "its directory is encrypted too");
    cut_everywhere(&folder, "three.pdf");
    cut_everywhere(&folder, "streams.pdf");
}

/// A file that is cut is never called complete, wherever the cut is.
fn cut_everywhere(folder: &Folder, name: &str) {
    let whole = fs::read(folder.path(name)).expect("file");
    let end = whole.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).expect("bytes") + 1;
    // Every place near the ends, and some between.
    let places = (0..end.min(600)).chain((600..end).step_by(997)).chain(end.saturating_sub(600)..end);
    for place in places {
        let cut = &whole[..place];
        let called_complete = inspect(std::io::Cursor::new(cut), cut.len() as u64)
            .is_ok_and(|found| found.completeness == Completeness::Complete);
        assert!(!called_complete, "{name} cut at {place} of {end}");
    }
}

#[test]
fn a_file_that_is_cut_is_never_complete() {
    let folder = Folder::new();
    folder.run(&format!("{IMAGEMAGICK} -size 64x80 plasma: -depth 8 page.tif"));
    folder.run(&format!("{IMAGEMAGICK} page.tif page.tif page.tif -compress Zip pages.tif"));
    folder.run("tiffcp -8 -t pages.tif big.tif");
    folder.run(&format!("{IMAGEMAGICK} page.tif page.jpg"));
    for name in ["pages.tif", "big.tif", "page.jpg"] {
        cut_everywhere(&folder, name);
    }
}

#[test]
fn a_huge_file_costs_no_more_than_its_directory() {
    let folder = Folder::new();
    folder.run(&format!("{IMAGEMAGICK} -size 64x80 plasma: -depth 8 page.tif"));
    // Its directory at the end of two sparse gigabytes, as a scanner of large maps writes it.
    let page = fs::read(folder.path("page.tif")).expect("file");
    let mut file = OpenOptions::new().write(true).create_new(true).open(folder.path("map.tif")).expect("file");
    let place = 2_u32 << 30;
    file.write_all(b"II*\0").expect("header");
    file.write_all(&place.to_le_bytes()).expect("offset");
    file.seek(SeekFrom::Start(place.into())).expect("sparse");
    let first = u32::from_le_bytes(page[4..8].try_into().expect("offset")) as usize;
    // The entries' offsets point into the sparse part, which reads as zeros.
    file.write_all(&page[first..]).expect("directory");
    drop(file);
    let found = folder.inspect("map.tif");
    assert_eq!((found.images[0].width_px, found.images[0].height_px), (64, 80));
    assert_eq!(found.completeness, Completeness::Complete);
}
