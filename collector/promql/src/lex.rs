//! Splits a query into tokens, with Prometheus' rules for numbers, durations, strings and names.
//!
//! What it deliberately does not do: tell keywords from names; the parser knows where a keyword may be a name.

use crate::ParseError;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, keyword or function; `:` may be in it.
    Word(String),
    Number(f64),
    /// Milliseconds; as a number it counts in seconds.
    Duration(i64),
    String(String),
    /// Operators and punctuation.
    Sign(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Longer signs first.
const SIGNS: [&str; 25] = [
    "==", "=~", "!=", "!~", "<=", ">=", "+", "-", "*", "/", "%", "^", "=", "<", ">", "(", ")", "{", "}", "[", "]", ",",
    "@", ":", "!",
];

/// The tokens of `text`, the last of which is [`Token::End`].
pub(crate) fn lex(text: &str) -> Result<Vec<Lexeme>, ParseError> {
    let mut lexemes = Vec::new();
    let mut at = 0;
    let mut in_brackets = 0_usize;
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
        let (token, length) = next_token(text, at, rest, c, in_brackets > 0)?;
        match token {
            Token::Sign("[") => in_brackets += 1,
            Token::Sign("]") => in_brackets = in_brackets.saturating_sub(1),
            _ => {}
        }
        lexemes.push(Lexeme { token, start: at, end: at + length });
        at += length;
    }
    lexemes.push(Lexeme { token: Token::End, start: text.len(), end: text.len() });
    Ok(lexemes)
}

fn next_token(text: &str, at: usize, rest: &str, c: char, in_brackets: bool) -> Result<(Token, usize), ParseError> {
    let digit_after_dot = c == '.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if c.is_ascii_digit() || digit_after_dot {
        return number_or_duration(text, at, rest);
    }
    // Inside brackets a colon separates range and step; elsewhere it begins the name of a recording rule.
    if c.is_ascii_alphabetic() || c == '_' || (c == ':' && !in_brackets) {
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (c == ':' && !in_brackets)))
            .unwrap_or(rest.len());
        return Ok((Token::Word(rest.chars().take(length).collect()), length));
    }
    if matches!(c, '"' | '\'' | '`') {
        return string(text, at, rest, c);
    }
    match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        Some(&"!") | None => Err(ParseError::new(text, at, format!("unexpected character: {c:?}"))),
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
    }
}

fn number_or_duration(text: &str, at: usize, rest: &str) -> Result<(Token, usize), ParseError> {
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
            Err(message) => Err(ParseError::new(text, at, message)),
        };
    }
    Err(ParseError::new(text, at, format!("bad number or duration syntax: {word:?}")))
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

fn string(text: &str, at: usize, rest: &str, quote: char) -> Result<(Token, usize), ParseError> {
    let mut value = String::new();
    let mut bytes = Vec::new();
    let mut chars = rest.char_indices().skip(1);
    let unterminated = || {
        let what = if quote == '`' { "unterminated raw string" } else { "unterminated quoted string" };
        ParseError::new(text, at, what.to_owned())
    };
    let wrong = |i: usize| ParseError::new(text, at + i, "invalid escape sequence in string".to_owned());
    loop {
        let (i, c) = chars.next().ok_or_else(unterminated)?;
        if c == quote {
            let value_bytes = std::mem::take(&mut bytes);
            // An escape may name any byte; a label's value is text, so what is no UTF-8 is refused here.
            value.push_str(
                &String::from_utf8(value_bytes)
                    .ok()
                    .ok_or_else(|| ParseError::new(text, at, "invalid UTF-8 in string".to_owned()))?,
            );
            return Ok((Token::String(value), i + 1));
        }
        if quote == '`' || (c != '\\' && c != '\n') {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        if c == '\n' {
            return Err(unterminated());
        }
        let (i, escape) = chars.next().ok_or_else(unterminated)?;
        let mut number = |first: Option<char>, digits: usize, radix: u32| -> Result<u32, ParseError> {
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
