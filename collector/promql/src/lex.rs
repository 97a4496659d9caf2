//! Splits a query into tokens, with Prometheus' rules for numbers, durations, strings and names.
//!
//! What it deliberately does not do: tell keywords from names; the parser knows where a keyword may be a name.

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, keyword or function; `:` may be in it.
    Word(String),
    Number(f64),
    /// Milliseconds; as a number it counts in seconds.
    Duration(i64),
    String(String),
    /// A string that is not UTF-8.
    Bytes(Vec<u8>),
    /// Operators and punctuation.
    Sign(&'static str),
    /// What can't be read, and why; nothing follows it.
    Wrong(String),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Longer signs first.
const SIGNS: [&str; 27] = [
    "==", "=~", "!=", "!~", "<=", ">=", "</", ">/", "+", "-", "*", "/", "%", "^", "=", "<", ">", "(", ")", "{", "}",
    "[", "]", ",", "@", ":", "!",
];

/// What may stand in brackets beside numbers and durations.
const DURATION_WORDS: [&str; 6] = ["step", "range", "min_of", "max_of", "min", "max"];

const AGGREGATORS: [&str; 14] = [
    "sum",
    "avg",
    "count",
    "min",
    "max",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "quantile",
    "count_values",
    "limitk",
    "limit_ratio",
];

const KEYWORDS: [&str; 13] = [
    "bool",
    "by",
    "group_left",
    "group_right",
    "ignoring",
    "offset",
    "on",
    "without",
    "anchored",
    "smoothed",
    "fill",
    "fill_left",
    "fill_right",
];

impl Lexeme {
    /// The token as Prometheus' messages name it.
    pub(crate) fn description(&self, text: &str) -> String {
        let here = text.get(self.start..self.end).unwrap_or("");
        let lower = here.to_ascii_lowercase();
        let is_one_of = |words: &[&str]| words.contains(&lower.as_str());
        match &self.token {
            Token::End => "end of input".to_owned(),
            Token::Wrong(error) => error.clone(),
            Token::Word(_) if is_one_of(&["inf", "nan"]) => format!("number {here:?}"),
            Token::Word(_) if is_one_of(&AGGREGATORS) => format!("<aggr:{here}>"),
            Token::Word(_) if is_one_of(&["and", "or", "unless", "atan2"]) => format!("<op:{here}>"),
            Token::Word(_) if is_one_of(&KEYWORDS) => format!("<{here}>"),
            Token::Word(_) if is_one_of(&["start", "end", "step", "range"]) => format!("{here:?}"),
            Token::Word(_) if here.contains(':') => format!("metric identifier {here:?}"),
            Token::Word(_) => format!("identifier {here:?}"),
            Token::Number(_) => format!("number {}", shortened(here)),
            Token::Duration(_) => format!("duration {}", shortened(here)),
            Token::String(_) | Token::Bytes(_) => format!("string {}", shortened(here)),
            Token::Sign("(" | ")" | "{" | "}" | "[" | "]" | "," | ":" | "=") => format!("{here:?}"),
            Token::Sign(_) => format!("<op:{here}>"),
        }
    }
}

/// In quotes, and no more than ten characters of it.
fn shortened(text: &str) -> String {
    if text.len() <= 10 {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(10).collect::<String>())
}

/// What stands open at a place of the text.
#[derive(Default)]
struct Open {
    parentheses: usize,
    bracket: bool,
    braces: bool,
}

/// The tokens of `text`, the last of which is [`Token::End`], or [`Token::Wrong`] where it can't be read further.
pub(crate) fn lex(text: &str) -> Vec<Lexeme> {
    let mut lexemes = Vec::new();
    let mut at = 0;
    let mut open = Open::default();
    let wrong = |at: usize, error: &str| Lexeme { token: Token::Wrong(error.to_owned()), start: at, end: at };
    while let Some(rest) = text.get(at..) {
        let Some(c) = rest.chars().next() else { break };
        if matches!(c, ' ' | '\t' | '\n' | '\r') {
            at += 1;
            continue;
        }
        if c == '#' {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let next = next_token(at, rest, c, &open).and_then(|(token, length)| {
            if let Token::Sign(sign) = token {
                open.follow(sign, c).map_err(|error| (at, error))?;
            }
            Ok((token, length))
        });
        match next {
            Ok((token, length)) => {
                lexemes.push(Lexeme { token, start: at, end: at + length });
                at += length;
            }
            Err((at, error)) => {
                lexemes.push(wrong(at, &error));
                return lexemes;
            }
        }
    }
    let end = text.len();
    let unclosed = match open {
        Open { braces: true, .. } => Some("unexpected end of input inside braces"),
        Open { parentheses: 1.., .. } => Some("unclosed left parenthesis"),
        Open { bracket: true, .. } => Some("unclosed left bracket"),
        Open { .. } => None,
    };
    lexemes.push(match unclosed {
        Some(error) if !lexemes.is_empty() => wrong(end, error),
        _ => Lexeme { token: Token::End, start: end, end },
    });
    lexemes
}

impl Open {
    fn follow(&mut self, sign: &str, c: char) -> Result<(), String> {
        match sign {
            "(" => self.parentheses += 1,
            ")" => {
                self.parentheses =
                    self.parentheses.checked_sub(1).ok_or_else(|| format!("unexpected right parenthesis {c:?}"))?;
            }
            "[" if self.bracket => return Err(format!("unexpected left bracket {c:?}")),
            "[" => self.bracket = true,
            "]" if !self.bracket => return Err(format!("unexpected right bracket {c:?}")),
            "]" => self.bracket = false,
            "{" if self.braces => return Err(format!("unexpected left brace {c:?}")),
            "{" => self.braces = true,
            "}" if !self.braces => return Err(format!("unexpected character: {c:?}")),
            "}" => self.braces = false,
            _ => {}
        }
        Ok(())
    }
}

/// A token and its length in bytes, or place and cause of why there is none.
type Lexed = Result<(Token, usize), (usize, String)>;

fn next_token(at: usize, rest: &str, c: char, open: &Open) -> Lexed {
    let digit_after_dot = c == '.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if c.is_ascii_digit() || digit_after_dot {
        return number_or_duration(at, rest);
    }
    // Inside brackets a colon separates range and step; elsewhere it begins the name of a recording rule.
    let in_bracket = open.bracket && !open.braces;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == ':' && !in_bracket);
    if c.is_ascii_alphabetic() || c == '_' || (c == ':' && !in_bracket) {
        let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let word: String = rest.chars().take(length).collect();
        if in_bracket && !DURATION_WORDS.iter().any(|w| w.eq_ignore_ascii_case(&word)) {
            return Err((at, format!("unexpected character: {c:?}, expected ':'")));
        }
        return Ok((Token::Word(word), length));
    }
    if matches!(c, '"' | '\'' | '`') {
        return string(at, rest, c);
    }
    match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        Some(&"!") => {
            let after = rest.chars().nth(1).map_or_else(|| "'\\ufffd'".to_owned(), |c| format!("{c:?}"));
            Err((at, format!("unexpected character after '!': {after}")))
        }
        Some(&"!~") if !open.braces => Err((at, "unexpected character after '!': '~'".to_owned())),
        Some(&"=~") if !open.braces => Err((at, "unexpected character after '=': '~'".to_owned())),
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
        None if open.braces => Err((at, format!("unexpected character inside braces: {c:?}"))),
        None => Err((at, format!("unexpected character: {c:?}"))),
    }
}

fn number_or_duration(at: usize, rest: &str) -> Lexed {
    let bytes = rest.as_bytes();
    let hex = bytes.len() > 2 && bytes[0] == b'0' && (bytes[1] | 0x20) == b'x';
    let mut length = 0;
    while let Some(&b) = bytes.get(length) {
        let exponent_sign = !hex && matches!(b, b'+' | b'-') && length > 0 && (bytes[length - 1] | 0x20) == b'e';
        if !(b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || exponent_sign) {
            break;
        }
        length += 1;
    }
    let word: String = rest.chars().take(length).collect();
    if let Some(value) = parse_number(&word) {
        return Ok((Token::Number(value), length));
    }
    let units = word.trim_start_matches(|c: char| c.is_ascii_digit());
    if units.starts_with(['y', 'w', 'd', 'h', 'm', 's']) {
        return match parse_duration_ms(&word) {
            Ok(ms) => Ok((Token::Duration(ms), length)),
            Err(message) => Err((at, message)),
        };
    }
    Err((at, format!("bad number or duration syntax: {word:?}")))
}

/// A number as Go's `ParseInt(base 0)` and `ParseFloat` read it: decimal, hexadecimal, octal with a leading zero.
fn parse_number(word: &str) -> Option<f64> {
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok().map(|v| v as f64);
    }
    if word.len() > 1 && word.starts_with('0') && word.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return i64::from_str_radix(word, 8).ok().map(|v| v as f64);
    }
    if !word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    word.parse().ok()
}

/// Milliseconds of a duration such as `1h30m`: every unit at most once, from the largest to the smallest.
pub(crate) fn parse_duration_ms(word: &str) -> Result<i64, String> {
    let invalid = || format!("not a valid duration string: {word:?}");
    let overflow = || "duration out of range".to_owned();
    let units: [(&str, i64); 7] = [
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut next = 0;
    let mut total = 0_i64;
    let mut rest = word;
    if rest.is_empty() {
        return Err("empty duration string".to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let position = units.iter().position(|(u, _)| *u == unit).ok_or_else(invalid)?;
        if number.is_empty() || position < next {
            return Err(invalid());
        }
        let value: i64 = number.parse().ok().ok_or_else(overflow)?;
        total = value.checked_mul(units[position].1).and_then(|ms| total.checked_add(ms)).ok_or_else(overflow)?;
        next = position + 1;
        rest = after;
    }
    // Go holds durations as nanoseconds in 64 bits, so about 292 years is the most that Prometheus takes.
    if total > i64::MAX / 1_000_000 { Err(overflow()) } else { Ok(total) }
}

fn string(at: usize, rest: &str, quote: char) -> Lexed {
    let mut bytes = Vec::new();
    let mut chars = rest.char_indices().skip(1);
    let unterminated = || {
        let what = if quote == '`' { "unterminated raw string" } else { "unterminated quoted string" };
        (at, what.to_owned())
    };
    let wrong = |i: usize| (at + i, "invalid escape sequence in string".to_owned());
    loop {
        let (i, c) = chars.next().ok_or_else(unterminated)?;
        if c == quote {
            // An escape may name any byte.
            let token = String::from_utf8(std::mem::take(&mut bytes))
                .map_or_else(|error| Token::Bytes(error.into_bytes()), Token::String);
            return Ok((token, i + 1));
        }
        if quote == '`' || (c != '\\' && c != '\n') {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        if c == '\n' {
            return Err(unterminated());
        }
        let (i, escape) = chars.next().ok_or_else(unterminated)?;
        let mut number = |first: Option<char>, digits: usize, radix: u32| -> Result<u32, (usize, String)> {
            let mut number = first.and_then(|c| c.to_digit(radix)).unwrap_or(0);
            for _ in 0..digits {
                let digit = chars.next().and_then(|(_, c)| c.to_digit(radix)).ok_or_else(|| wrong(i))?;
                number = number.checked_mul(radix).and_then(|n| n.checked_add(digit)).ok_or_else(|| wrong(i))?;
            }
            Ok(number)
        };
        match escape {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            c if c == quote => bytes.push(c as u8),
            'x' => bytes.push(number(None, 2, 16)? as u8),
            c @ '0'..='7' => {
                bytes.push(u8::try_from(number(Some(c), 2, 8)?).ok().ok_or_else(|| wrong(i))?);
            }
            'u' | 'U' => {
                let c = char::from_u32(number(None, if escape == 'u' { 4 } else { 8 }, 16)?).ok_or_else(|| wrong(i))?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(wrong(i)),
        }
    }
}
