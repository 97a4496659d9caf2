//! Lines of Prometheus' text format, of `OpenMetrics`, and of what `promtool tsdb dump` prints.
//!
//! Invariants: a line is understood whole or refused whole; nothing is allocated for a line whose series text is known
//! already. Sources: `model/textparse` of Prometheus, the specification of `OpenMetrics` 1.0. What it deliberately does
//! not do: join lines to families, or judge time stamps.

use std::borrow::Cow;

use veghe_model::{Labels, METRIC_NAME, is_label_name, is_metric_name};

/// The NaN that Prometheus stores for `NaN` (`model/value/value.go`, `NormalNaN`).
const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;
/// Labels of one series.
const MAX_LABELS: usize = 128;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// Nothing of interest: empty, a comment, help.
    Nothing,
    /// Only `OpenMetrics` has such a line.
    OnlyOpenMetrics,
    /// Only Prometheus' text format has such a line.
    OnlyText,
    /// `# EOF`: the end of an `OpenMetrics` text.
    End,
    /// A sample.
    Sample(Sample<'a>),
}

/// A sample as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// Name and labels as written: the same text is the same series.
    pub(super) series: &'a str,
    /// The value.
    pub(super) value: f64,
    /// When it was taken.
    pub(super) time: Option<Time>,
    /// Whether an exemplar follows.
    pub(super) has_exemplar: bool,
}

/// A time stamp as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Time {
    /// Of which unit a whole number is depends on the format.
    Whole(i64),
    /// Seconds with a fraction: only `OpenMetrics` has it.
    Seconds(f64),
}

/// Reads one line without its line feed.
///
/// # Errors
/// What is wrong with it, for a person.
pub(super) fn read(line: &[u8]) -> Result<Line<'_>, String> {
    let text =
        std::str::from_utf8(line).map_err(|error| format!("is not UTF-8 from byte {} on", error.valid_up_to()))?;
    let text = text.trim_matches([' ', '\t', '\r']);
    if text.is_empty() {
        return Ok(Line::Nothing);
    }
    if let Some(comment) = text.strip_prefix('#') {
        return Ok(read_comment(comment));
    }
    let end = series_end(text)?;
    let (series, rest) = text.split_at(end);
    let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
    let value = words.next().ok_or("has no value")?;
    let value = read_value(value).ok_or_else(|| refuse_value(value))?;
    let (mut time, mut has_exemplar) = (None, false);
    if let Some(word) = words.next() {
        if word == "#" {
            has_exemplar = true;
        } else {
            time = Some(read_time(word).ok_or_else(|| format!("{word:?} is no time stamp"))?);
            match words.next() {
                None => {}
                Some("#") => has_exemplar = true,
                Some(word) => return Err(format!("has {word:?} after its time stamp")),
            }
        }
    }
    Ok(Line::Sample(Sample { series: series.trim_end_matches([' ', '\t']), value, time, has_exemplar }))
}

fn read_comment(comment: &str) -> Line<'_> {
    let mut words = comment.split([' ', '\t']).filter(|word| !word.is_empty());
    match words.next() {
        Some("EOF") if words.next().is_none() => Line::End,
        Some("UNIT") => Line::OnlyOpenMetrics,
        Some("TYPE") => match words.nth(1) {
            Some("unknown" | "info" | "stateset" | "gaugehistogram") => Line::OnlyOpenMetrics,
            Some("untyped") => Line::OnlyText,
            _ => Line::Nothing,
        },
        _ => Line::Nothing,
    }
}

/// Where the value's part begins: behind the closing brace, or behind the name where there is none.
fn series_end(text: &str) -> Result<usize, String> {
    let bytes = text.as_bytes();
    let Some(name_end) = bytes.iter().position(|b| matches!(b, b'{' | b' ' | b'\t')) else {
        return Err("has no value".to_owned());
    };
    let brace = name_end + bytes[name_end..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    if bytes.get(brace) != Some(&b'{') {
        return Ok(name_end);
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate().skip(brace + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
    }
    Err(if quoted { "has a quote that does not end" } else { "has a brace that does not end" }.to_owned())
}

fn read_value(word: &str) -> Option<f64> {
    let value: f64 = word.parse().ok()?;
    Some(if value.is_nan() { f64::from_bits(NORMAL_NAN_BITS) } else { value })
}

fn refuse_value(word: &str) -> String {
    if word.starts_with('{') {
        "holds a native histogram; these are not stored here".to_owned()
    } else {
        format!("{word:?} is no value")
    }
}

fn read_time(word: &str) -> Option<Time> {
    if let Ok(whole) = word.parse::<i64>() {
        return Some(Time::Whole(whole));
    }
    word.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).map(Time::Seconds)
}

/// The labels in a series' text.
///
/// # Errors
/// What is wrong with it, for a person.
pub(super) fn labels(series: &str) -> Result<Labels, String> {
    let (name, braces) = match series.find('{') {
        Some(at) => (series.get(..at).unwrap_or(""), series.get(at + 1..).unwrap_or("")),
        None => (series, "}"),
    };
    let name = name.trim_end_matches([' ', '\t']);
    // `promtool tsdb dump` quotes as Go does and has its name in the braces.
    let quoting = if name.is_empty() { Quoting::Go } else { Quoting::Text };
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    if !name.is_empty() {
        if !is_metric_name(name) {
            return Err(format!("{name:?} is no name of a metric; other than letters, digits, _ and : need quotes"));
        }
        pairs.push((METRIC_NAME.into(), name.into()));
    }
    let mut cursor = Cursor { rest: braces };
    while !cursor.take('}') {
        let (label, was_quoted) =
            if cursor.next_is('"') { (cursor.quoted(quoting)?, true) } else { (cursor.word().into(), false) };
        if cursor.take('=') {
            if !was_quoted && !is_label_name(&label) {
                return Err(format!("{label:?} is no name of a label; other than letters, digits and _ need quotes"));
            }
            if label.is_empty() {
                return Err("has a label without a name".to_owned());
            }
            pairs.push((label, cursor.quoted(quoting)?));
        } else if was_quoted {
            // `{"a name with dots", label="value"}`
            pairs.push((METRIC_NAME.into(), label));
        } else {
            return Err(format!("has no = after the label {label:?}"));
        }
        if !cursor.take(',') && !cursor.next_is('}') {
            return Err("has no comma between two labels".to_owned());
        }
    }
    if pairs.len() > MAX_LABELS {
        return Err(format!("has {} labels, more than {MAX_LABELS}", pairs.len()));
    }
    pairs.sort();
    if let Some([twice, _]) = pairs.array_windows::<2>().find(|[a, b]| a.0 == b.0) {
        return Err(format!("has the label {:?} twice", twice.0));
    }
    let labels = Labels::from_pairs(pairs.iter().map(|(name, value)| (&**name, &**value)));
    if labels.metric_name().is_empty() { Err("has no name of a metric".to_owned()) } else { Ok(labels) }
}

/// How a quoted text is escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// `\\`, `\"` and `\n`; another backslash is itself.
    Text,
    /// Go's string literals.
    Go,
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn next_is(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
        self.rest.starts_with(wanted)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.next_is(wanted);
        if let Some(rest) = self.rest.strip_prefix(wanted) {
            self.rest = rest;
        }
        found
    }

    /// Up to what may follow a name.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(['=', ',', '}', ' ', '\t', '"']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn quoted(&mut self, quoting: Quoting) -> Result<Cow<'a, str>, String> {
        if !self.take('"') {
            return Err("has a label value without quotes".to_owned());
        }
        let plain = self.rest.find(['"', '\\']).ok_or("has a quote that does not end")?;
        let (text, rest) = self.rest.split_at(plain);
        if let Some(rest) = rest.strip_prefix('"') {
            self.rest = rest;
            return Ok(text.into());
        }
        // Go's \x gives bytes, which are text only together.
        let mut bytes = text.as_bytes().to_vec();
        let mut chars = rest.chars();
        loop {
            match chars.next().ok_or("has a quote that does not end")? {
                '"' => break,
                '\\' => unescape(&mut chars, quoting, &mut bytes)?,
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        self.rest = chars.as_str();
        String::from_utf8(bytes).map(Cow::Owned).map_err(|_bytes| "has a label value that is not UTF-8".to_owned())
    }
}

fn unescape(chars: &mut std::str::Chars<'_>, quoting: Quoting, bytes: &mut Vec<u8>) -> Result<(), String> {
    let escape = chars.next().ok_or("has a quote that does not end")?;
    let mut code = |digits: usize, radix: u32| {
        let rest = chars.as_str();
        let found = rest.get(..digits).and_then(|text| u32::from_str_radix(text, radix).ok());
        *chars = rest.get(digits..).unwrap_or("").chars();
        found.ok_or_else(|| format!("has the unknown escape \\{escape}"))
    };
    let character = match (escape, quoting) {
        ('\\' | '"', _) => escape,
        ('n', _) => '\n',
        ('a', Quoting::Go) => '\x07',
        ('b', Quoting::Go) => '\x08',
        ('f', Quoting::Go) => '\x0c',
        ('r', Quoting::Go) => '\r',
        ('t', Quoting::Go) => '\t',
        ('v', Quoting::Go) => '\x0b',
        ('x', Quoting::Go) => {
            bytes.push(code(2, 16)? as u8);
            return Ok(());
        }
        ('u', Quoting::Go) => char::from_u32(code(4, 16)?).ok_or("has an escape that is no character")?,
        ('U', Quoting::Go) => char::from_u32(code(8, 16)?).ok_or("has an escape that is no character")?,
        (_, Quoting::Go) => return Err(format!("has the unknown escape \\{escape}")),
        (_, Quoting::Text) => {
            bytes.push(b'\\');
            escape
        }
    };
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(line: &str) -> (String, f64, Option<Time>) {
        match read(line.as_bytes()) {
            Ok(Line::Sample(sample)) => (labels(sample.series).expect("labels").to_string(), sample.value, sample.time),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_sample_is_read() {
        let up = r#"up{a="1", b="x y}"}"#;
        let cases = [
            ("up 1", "up", 1.0, None),
            ("up\t+Inf  1000", "up", f64::INFINITY, Some(Time::Whole(1000))),
            ("up 1 -5", "up", 1.0, Some(Time::Whole(-5))),
            (r#"up{a="1",b="x y}"} 2e3 1.5"#, up, 2000.0, Some(Time::Seconds(1.5))),
            (r#"up { b = "x y}" , a = "1" , } 3 4"#, up, 3.0, Some(Time::Whole(4))),
            (r#"{__name__="up", a="1", b="x y}"} 3 4"#, up, 3.0, Some(Time::Whole(4))),
            (r#"{"up","a"="1",b="x y}"} 3 4"#, up, 3.0, Some(Time::Whole(4))),
            (r#"up{} 1 2 # {trace_id="KOO5S4vxi0o"} 0.67"#, "up", 1.0, Some(Time::Whole(2))),
            ("up 1\r", "up", 1.0, None),
        ];
        for (line, series, value, time) in cases {
            assert_eq!(sample(line), (series.to_owned(), value, time), "{line}");
        }
        assert_eq!(sample("up NaN").1.to_bits(), NORMAL_NAN_BITS);
        assert!(matches!(read(b"up 1 # {} 1"), Ok(Line::Sample(Sample { has_exemplar: true, time: None, .. }))));
    }

    #[test]
    fn escapes_are_those_of_the_format() {
        let value = |series: &str| labels(series).expect("labels").get("a").expect("label").to_owned();
        assert_eq!(value(r#"up{a="\\ \" \n \t ș"}"#), "\\ \" \n \\t ș");
        assert_eq!(value(r#"{__name__="up", a="\\ \" \n \t \u0219 \xc8\x99 \U0001f600"}"#), "\\ \" \n \t ș ș 😀");
    }

    #[test]
    fn comments_tell_the_format() {
        let line = |text: &'static str| read(text.as_bytes()).expect("line");
        assert_eq!(line("# EOF"), Line::End);
        assert_eq!(line("# UNIT a_seconds seconds"), Line::OnlyOpenMetrics);
        assert_eq!(line("# TYPE a unknown"), Line::OnlyOpenMetrics);
        assert_eq!(line("# TYPE a untyped"), Line::OnlyText);
        for nothing in ["", " ", "# TYPE a counter", "# HELP a EOF", "#EOFs", "# a comment"] {
            assert_eq!(line(nothing), Line::Nothing, "{nothing}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let told = |text: &[u8]| match read(text) {
            Ok(Line::Sample(sample)) => labels(sample.series).expect_err("wrong"),
            Ok(other) => panic!("{other:?}"),
            Err(problem) => problem,
        };
        let cases: [(&[u8], &str); 14] = [
            (b"up", "has no value"),
            (b"up{} ", "has no value"),
            (b"up x", "\"x\" is no value"),
            (b"up {count:3, sum:2} 5", "has no = after the label \"count:3\""),
            (b"{__name__=\"up\"} {count:3, sum:2} 5", "holds a native histogram"),
            (b"up 1 x", "\"x\" is no time stamp"),
            (b"up 1 2 3", "has \"3\" after its time stamp"),
            (b"up{a=\"1} 1", "has a quote that does not end"),
            (b"up{a=\"1\" 1", "has a brace that does not end"),
            (b"up{a=1} 1", "has a label value without quotes"),
            (b"up{a=\"1\",a=\"2\"} 1", "has the label \"a\" twice"),
            (b"{a=\"1\"} 1", "has no name of a metric"),
            (b"9up 1", "\"9up\" is no name of a metric"),
            (b"up{a=\"\xff\"} 1", "is not UTF-8 from byte 6 on"),
        ];
        for (text, problem) in cases {
            let told = told(text);
            assert!(told.starts_with(problem), "{}: {told}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..60), text in "[a{}=\",\\\\ #1xu.é]{0,40}") {
            for line in [&*line, text.as_bytes()] {
                if let Ok(Line::Sample(sample)) = read(line) {
                    drop(labels(sample.series));
                }
            }
        }

        #[test]
        fn labels_survive_the_text(pairs in prop::collection::btree_map("[a-z]{1,3}", "[a-z\"\\\\\n ș}]{1,5}", 0..4)) {
            let mut text = "up{".to_owned();
            for (name, value) in &pairs {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                text += &[name, "=\"", &value, "\","].concat();
            }
            text += "} 1 2";
            let Ok(Line::Sample(sample)) = read(text.as_bytes()) else { panic!("{text}") };
            let read = labels(sample.series).expect("labels");
            prop_assert_eq!(read.without_name(), Labels::from_pairs(pairs.iter().map(|(n, v)| (&**n, &**v))));
        }
    }
}
