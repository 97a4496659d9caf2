//! The objects of PDF (ISO 32000-1, 7.2 and 7.3) as text: numbers, names, references, arrays, dictionaries.
//!
//! Invariants: nesting and length are bounded; what can't be read is an error, never a guess.

use std::collections::BTreeMap;

use crate::{Fault, Found};

const MAX_DEPTH: usize = 64;

/// The number of an indirect object; generations play no part in finding it.
pub(crate) type ObjectNumber = u32;

/// A value. Strings are kept only where they may be names of something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Object {
    Null,
    Boolean,
    Number(f64),
    Name(Vec<u8>),
    String,
    Array(Vec<Object>),
    Dictionary(Dictionary),
    Reference(ObjectNumber),
    /// A bare word, such as `obj`, `stream`, `endobj` or an operator of a content stream.
    Word(Vec<u8>),
}

impl Object {
    pub(crate) fn number(&self) -> Option<f64> {
        if let Self::Number(value) = self { Some(*value) } else { None }
    }

    /// A number that counts something.
    pub(crate) fn unsigned(&self) -> Option<u64> {
        self.number().filter(|value| *value >= 0.0 && *value < 9e15 && value.fract() == 0.0).map(|value| value as u64)
    }

    pub(crate) fn name(&self) -> Option<&[u8]> {
        if let Self::Name(name) = self { Some(name) } else { None }
    }
}

/// Keys without their slash.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Dictionary(pub(crate) BTreeMap<Vec<u8>, Object>);

impl Dictionary {
    pub(crate) fn get(&self, key: &str) -> Option<&Object> {
        self.0.get(key.as_bytes())
    }
}

/// Reads objects one after another.
pub(crate) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` begin in the file, for messages.
    base: u64,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(bytes: &'a [u8], base: u64) -> Self {
        Self { bytes, at: 0, base }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn damaged<T>(&self, what: &'static str) -> Found<T> {
        Err(Fault::Damaged { offset: self.base + self.at as u64, what })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                0 | 9 | 10 | 12 | 13 | 32 => self.at += 1,
                b'%' => {
                    while self.peek().is_some_and(|byte| byte != b'\n' && byte != b'\r') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    fn starts_with(&self, text: &[u8]) -> bool {
        self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text))
    }

    fn regular(&mut self) -> &'a [u8] {
        let begin = self.at;
        let delimits = |byte: u8| {
            matches!(
                byte,
                0 | 9 | 10 | 12 | 13 | 32 | b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%'
            )
        };
        while self.peek().is_some_and(|byte| !delimits(byte)) {
            self.at += 1;
        }
        &self.bytes[begin..self.at]
    }

    /// The next object; none at the end.
    pub(crate) fn next(&mut self) -> Found<Option<Object>> {
        self.object(0)
    }

    fn object(&mut self, depth: usize) -> Found<Option<Object>> {
        if depth > MAX_DEPTH {
            return self.damaged("objects are nested too deeply");
        }
        self.skip_space();
        let Some(byte) = self.peek() else { return Ok(None) };
        match byte {
            b'/' => {
                self.at += 1;
                Ok(Some(Object::Name(unescaped(self.regular()))))
            }
            b'(' => self.literal_string().map(Some),
            b'<' if self.starts_with(b"<<") => {
                self.at += 2;
                self.dictionary(depth).map(Some)
            }
            b'<' => {
                while self.peek().is_some_and(|byte| byte != b'>') {
                    self.at += 1;
                }
                self.at += 1;
                Ok(Some(Object::String))
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    self.skip_space();
                    if self.peek() == Some(b']') {
                        self.at += 1;
                        return Ok(Some(Object::Array(items)));
                    }
                    match self.object(depth + 1)? {
                        Some(item) => items.push(item),
                        None => return self.damaged("an array does not end"),
                    }
                }
            }
            b'+' | b'-' | b'.' | b'0'..=b'9' => Ok(Some(self.number_or_reference())),
            b')' | b'>' | b']' | b'{' | b'}' => {
                self.at += 1;
                Ok(Some(Object::Word(vec![byte])))
            }
            _ => Ok(Some(match self.regular() {
                b"null" => Object::Null,
                b"true" | b"false" => Object::Boolean,
                word => Object::Word(word.to_vec()),
            })),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Found<Object> {
        let mut dictionary = Dictionary::default();
        loop {
            self.skip_space();
            if self.starts_with(b">>") {
                self.at += 2;
                return Ok(Object::Dictionary(dictionary));
            }
            let Some(Object::Name(key)) = self.object(depth + 1)? else {
                return self.damaged("a dictionary has no name where a key is due");
            };
            match self.object(depth + 1)? {
                Some(value) => dictionary.0.insert(key, value),
                None => return self.damaged("a dictionary does not end"),
            };
        }
    }

    fn literal_string(&mut self) -> Found<Object> {
        let mut open = 0;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'(' => open += 1,
                b')' if open == 1 => return Ok(Object::String),
                b')' => open -= 1,
                _ => {}
            }
        }
        self.damaged("a string does not end")
    }

    fn number_or_reference(&mut self) -> Object {
        let text = self.regular();
        let Some(value) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) else {
            // Content streams of careless writers have numbers such as `1.-2`; here they count nothing.
            return Object::Word(text.to_vec());
        };
        let after = self.at;
        if let (Ok(number), true) = (u32::try_from(value as u64), value >= 0.0 && value.fract() == 0.0) {
            self.skip_space();
            let generation = self.regular();
            self.skip_space();
            let mark = self.regular();
            if mark == b"R" && !generation.is_empty() && generation.iter().all(u8::is_ascii_digit) {
                return Object::Reference(number);
            }
            self.at = after;
        }
        Object::Number(value)
    }
}

/// `#20` in a name is the byte of that number.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.get(at) {
        if let (b'#', Some(high), Some(low)) = (byte, digit(name.get(at + 1)), digit(name.get(at + 2))) {
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn objects_are_read_as_the_standard_writes_them() {
        let text = b"<< /Type/Page /Count 12 /Kids [ 3 0 R 4 0 R ] /A#20B (a\\)(b)) /F -.5 /N null >> endobj";
        let mut lexer = Lexer::new(text, 0);
        let Some(Object::Dictionary(page)) = lexer.next().expect("object") else { panic!("dictionary") };
        assert_eq!(page.get("Type").and_then(Object::name), Some(&b"Page"[..]));
        assert_eq!(page.get("Count").and_then(Object::unsigned), Some(12));
        assert_eq!(page.get("Kids"), Some(&Object::Array(vec![Object::Reference(3), Object::Reference(4)])));
        assert_eq!(page.get("A B"), Some(&Object::String));
        assert_eq!(page.get("F").and_then(Object::number), Some(-0.5));
        assert_eq!(lexer.next().expect("word"), Some(Object::Word(b"endobj".to_vec())));
        assert_eq!(lexer.next().expect("end"), None);
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(Lexer::new(&b"[".repeat(100_000), 0).next().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut lexer = Lexer::new(&bytes, 0);
            let mut before = 0;
            while let Ok(Some(_)) = lexer.next() {
                prop_assert!(lexer.position() > before);
                before = lexer.position();
            }
        }
    }
}
