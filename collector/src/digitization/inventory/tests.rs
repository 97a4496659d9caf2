//! Inventories as people send them.

use std::io::Write as _;

use super::*;

/// The rows of the reference; all invented.
const SAMPLE: &str = "cod_unitate;fond;inventar;nr_crt;tip;titlu;ani_extremi;termen_pastrare;nr_file;latime_mm;format;legatura;stare;acces;cutie;locatie;prioritate;lot;pagini_estimate
CJT-URB-1987-0142;CJ Timiș;Urbanism 1985-1990;142;dosar;Autorizații de construire, zona Lugoj;1987-1987;permanent;236;31;A4;cusut;bună;intern;C-018;D1/R04/P2;1;L-0031;290
CJT-HCJ-1994-0007;CJ Timiș;Hotărâri 1992-2000;7;registru;Registrul hotărârilor, vol. II;1994-1995;permanent;188;46;A3;legat;cotor slăbit;public;;D1/R01/P1;1;L-0002;376
CJT-DRJ-2003-0311;CJ Timiș;Drumuri județene;311;biblioraft;Documentație tehnică, reabilitare drum județean;2003-2004;30 ani;412;75;mixt A4/A1;biblioraft;bună;intern;C-077;D2/R11/P3;2;L-0064;520
";

fn read(text: &str) -> Reading {
    read_csv(text.as_bytes(), &Mapping::default())
}

fn problems(text: &str) -> Vec<String> {
    read(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_sample_is_read_and_written_out_as_it_was() {
    let reading = read(SAMPLE);
    assert_eq!((reading.problem_count, reading.units.len(), reading.warnings.len()), (0, 3, 0));
    let unit = &reading.units[0];
    assert_eq!((unit.leaves, unit.width_mm, unit.pages, unit.priority), (236, 31, Some(290), 1));
    assert_eq!(unit.stratum(), ("Urbanism 1985-1990", "cusut"));
    assert_eq!(to_csv(&reading.units), SAMPLE);
}

#[test]
fn a_byte_order_mark_other_separators_and_decimal_commas_are_read() {
    let marked = format!("\u{feff}{}", SAMPLE.replace('\n', "\r\n"));
    assert_eq!(read(&marked).units, read(SAMPLE).units);
    let reading = read("cod_unitate;nr_file;latime_mm\nA;100;31,5\nB;100;30.4\n");
    let widths: Vec<u32> = reading.units.iter().map(|unit| unit.width_mm).collect();
    assert_eq!(widths, [32, 30]);
    assert_eq!(read("cod_unitate,nr_file,latime_mm\nA,100,\"31,5\"\n").units[0].width_mm, 32);
    assert_eq!(read("cod_unitate\tnr_file\tlatime_mm\nA\t100\t31\n").units.len(), 1);
}

#[test]
fn columns_of_another_program_are_mapped_and_accents_do_not_matter() {
    let text = "Cota;Nr. file;Lățime (mm);Legătura\nA;100;31;cusut\n";
    let mapping = Mapping::parse(["cod_unitate=cota", "latime_mm=Lățime (mm)"]).expect("mapping");
    let reading = read_csv(text.as_bytes(), &mapping);
    assert_eq!(reading.problems, []);
    assert_eq!((reading.units[0].code.as_str(), reading.units[0].binding.as_str()), ("A", "cusut"));
    assert!(matches!(Mapping::parse(["x"]), Err(MappingError::Form(_))));
    assert!(matches!(Mapping::parse(["x=y"]), Err(MappingError::Column(_))));
}

#[test]
fn every_problem_is_told_in_one_run_with_row_column_and_remedy() {
    let text = "cod_unitate;nr_file;latime_mm;prioritate\n;100;31;1\nA;x;0;300\nA;100;;2\nB;100;31;1\nB;100;31;1;9\nC;1;2000;1\n";
    insta::assert_snapshot!(problems(text).join("\n"), @r"
    row 2, cod_unitate: is empty; every unit needs it
    row 3, nr_file: `x` is not a number; write for example `31` or `31,5`
    row 3, latime_mm: `0` is not within 1 to 1000
    row 3, prioritate: `300` is not within 1 to 255
    row 4, latime_mm: is empty; every unit needs it
    row 4, cod_unitate: `A` is in row 3 already; each unit has a code of its own
    row 6: has 5 cells, the header 4; quote texts that have the separator in them
    row 7, latime_mm: `2000` is not within 1 to 1000
    ");
    insta::assert_snapshot!(problems("cod;nr_file\nA;1\n").join("\n"), @r"
    row 1, cod_unitate: has no such column; add it, or name yours with `--map cod_unitate=YOURS`
    row 1, latime_mm: has no such column; add it, or name yours with `--map latime_mm=YOURS`
    ");
    assert_eq!(problems(""), ["is empty; its first row must name the columns"]);
    assert_eq!(problems("cod_unitate;nr_file;latime_mm\n\n;;\n"), ["has no unit below its header"]);
    let latin2 = read_csv(&b"cod_unitate;nr_file;latime_mm;titlu\nA;1;2;Timi\xba\nB;1;2;x\n"[..], &Mapping::default());
    assert_eq!(latin2.problems[0].to_string(), "row 2: is not UTF-8; save the file as `CSV UTF-8`");
}

#[test]
fn what_is_odd_is_a_warning() {
    let reading = read("cod_unitate;tip;nr_file;latime_mm\nA;dosar;301;35\nB;registru;400;35\nC;dosar;100;5\n");
    let warnings: Vec<String> = reading.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(reading.problem_count, 0);
    insta::assert_snapshot!(warnings.join("\n"), @r"
    row 2, nr_file: a dosar of 301 leaves; more than 300 are to be split into volumes
    row 3, latime_mm: 11.4 leaves a millimetre, outside of 2 to 11; measure width and leaves again
    row 4, latime_mm: 20.0 leaves a millimetre, outside of 2 to 11; measure width and leaves again
    ");
}

#[test]
fn a_diff_says_what_comes_goes_and_changes() {
    let old = read("cod_unitate;nr_file;latime_mm;cutie\nA;100;31;C-1\nB;100;31;C-1\nC;100;31;C-1\n").units;
    let new = read("cod_unitate;nr_file;latime_mm;cutie\nA;100;31;C-1\nB;120;31;C-2\nD;50;20;C-3\n").units;
    let diff = compare(&old, &new);
    assert_eq!((diff.added, diff.removed), (vec!["D".to_owned()], vec!["C".to_owned()]));
    assert_eq!((diff.changed_units, diff.unchanged_units), (1, 1));
    let changes: Vec<_> = diff.changes.iter().map(|c| (c.column.as_str(), c.old.as_str(), c.new.as_str())).collect();
    assert_eq!(changes, [("nr_file", "100", "120"), ("cutie", "C-1", "C-2")]);
    assert_eq!((diff.old_totals, diff.new_totals), ((3, 93, 300), (3, 82, 270)));
    assert!(compare(&old, &old).is_empty());
}

/// A workbook as an office program writes it, as far as it matters: one sheet, inline and shared strings, numbers.
fn workbook() -> Vec<u8> {
    let parts = [
        (
            "[Content_Types].xml",
            r#"<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>"#,
        ),
        (
            "_rels/.rels",
            r#"<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>"#,
        ),
        (
            "xl/_rels/workbook.xml.rels",
            r#"<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings" Target="sharedStrings.xml"/></Relationships>"#,
        ),
        (
            "xl/workbook.xml",
            r#"<?xml version="1.0"?><workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="Inventar" sheetId="1" r:id="rId1"/></sheets></workbook>"#,
        ),
        (
            "xl/sharedStrings.xml",
            r#"<?xml version="1.0"?><sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>cod_unitate</t></si><si><t>Autorizații, zona Lugoj</t></si></sst>"#,
        ),
        (
            "xl/worksheets/sheet1.xml",
            r#"<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>titlu</t></is></c><c r="C1" t="inlineStr"><is><t>nr_file</t></is></c><c r="D1" t="inlineStr"><is><t>Lățime mm</t></is></c></row><row r="2"><c r="A2" t="inlineStr"><is><t>CJT-1</t></is></c><c r="B2" t="s"><v>1</v></c><c r="C2"><v>236</v></c><c r="D2"><v>31.5</v></c></row><row r="4"><c r="A4"><v>17</v></c><c r="C4" t="inlineStr"><is><t>many</t></is></c><c r="D4"><v>31</v></c></row></sheetData></worksheet>"#,
        ),
    ];
    stored_zip(&parts)
}

/// A ZIP archive whose members are stored as they are.
fn stored_zip(parts: &[(&str, &str)]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    };
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in parts {
        let offset = file.len() as u32;
        let sizes = [crc(text.as_bytes()), text.len() as u32, text.len() as u32].map(u32::to_le_bytes).concat();
        let name_size = (name.len() as u16).to_le_bytes();
        file.extend([b"PK\x03\x04".as_slice(), &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0], &sizes, &name_size, &[0, 0]].concat());
        file.extend(name.bytes().chain(text.bytes()));
        directory.extend(
            [b"PK\x01\x02".as_slice(), &[20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0], &sizes, &name_size, &[0; 12]].concat(),
        );
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (start, count) = (file.len() as u32, (parts.len() as u16).to_le_bytes());
    file.extend(&directory);
    file.extend([b"PK\x05\x06".as_slice(), &[0; 4], &count, &count].concat());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

#[test]
fn a_workbook_is_read_like_a_text() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("inventar.xlsx");
    std::fs::File::create(&path).and_then(|mut file| file.write_all(&workbook())).expect("file");
    let reading = read_file(&path, &Mapping::default()).expect("workbook");
    assert_eq!(reading.units.len(), 1, "{reading:?}");
    let unit = &reading.units[0];
    assert_eq!((unit.code.as_str(), unit.title.as_str()), ("CJT-1", "Autorizații, zona Lugoj"));
    assert_eq!((unit.leaves, unit.width_mm), (236, 32));
    let problems: Vec<String> = reading.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["row 4, nr_file: `many` is not a number; write for example `31` or `31,5`"]);
    std::fs::write(&path, b"PK\x03\x04 and nothing").expect("file");
    assert!(matches!(read_file(&path, &Mapping::default()), Err(FileError::Workbook { .. })));
    assert!(matches!(read_file(dir.path().join("none").as_path(), &Mapping::default()), Err(FileError::Read { .. })));
}

proptest::proptest! {
    #[test]
    fn a_damaged_inventory_is_read_or_its_problems_are_told(
        hits in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..12),
        cut in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let mut text = SAMPLE.as_bytes().to_vec();
        for (at, byte) in hits {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text.truncate(cut.index(text.len()) + 1);
        let reading = read_csv(&text[..], &Mapping::default());
        // A quotation mark may join rows, a line end part them.
        proptest::prop_assert!(reading.units.len() <= SAMPLE.lines().count() + 12);
        for problem in &reading.problems {
            proptest::prop_assert!(!problem.message.is_empty());
        }
    }
}
