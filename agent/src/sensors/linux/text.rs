//! Pieces of the text files that the kernel writes: lines, fields, numbers. No allocation.

/// Where a parser stopped, and what it had hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) line: usize,
    pub(crate) expected: &'static str,
}

/// The lines of `bytes` with their numbers from 1, without the line ends; a last empty one is left out.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = (!bytes.is_empty()).then(|| bytes.split(|&byte| byte == b'\n'));
    lines.into_iter().flatten().enumerate().map(|(index, line)| (index + 1, line))
}

/// The parts of `line` between spaces and tabs.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ' || byte == b'\t').filter(|field| !field.is_empty())
}

/// `digits` as a number; `None` if anything else is there or it does not fit.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// `digits` as a hexadecimal number without prefix; `None` if anything else is there or it does not fit.
pub(crate) fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | u64::from(char::from(digit).to_digit(16)?)))
}

/// A decimal number, or a hexadecimal one after `0x`.
pub(crate) fn any_number(digits: &[u8]) -> Option<u64> {
    digits.strip_prefix(b"0x").map_or_else(|| number(digits), hex)
}

/// A number that [`any_number`] takes, with or without a minus before it, that fits in 63 bits.
pub(crate) fn signed(digits: &[u8]) -> Option<i64> {
    match digits.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(any_number(digits)?),
        None => i64::try_from(any_number(digits)?).ok(),
    }
}

/// `digits` as a decimal fraction.
pub(crate) fn decimal(digits: &[u8]) -> Option<f64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `bytes` as text; what is not UTF-8 becomes the replacement character, as label values must be UTF-8.
pub(crate) fn label(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The digits of `number`, in `buffer`.
pub(crate) fn digits(mut number: u64, buffer: &mut [u8; 20]) -> &str {
    let mut begin = buffer.len();
    for place in buffer.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        begin -= 1;
        if number == 0 {
            break;
        }
    }
    buffer.get(begin..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
}

/// A name put together from parts, in one buffer that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Composed(String);

impl Composed {
    /// `prefix`, `middle` (whatever can't be in a metric's name becomes `_`), `suffix`, as one name.
    pub(crate) fn name(&mut self, prefix: &str, middle: &[u8], suffix: &str) -> &str {
        self.0.clear();
        self.0.push_str(prefix);
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        self.0.extend(middle.iter().map(|&byte| if in_name(byte) { char::from(byte) } else { '_' }));
        self.0.push_str(suffix);
        &self.0
    }

    /// `prefix`, `first`, `_` and `second` as one name, of which only the last two are changed if need be.
    pub(crate) fn pair(&mut self, prefix: &str, first: &[u8], second: &[u8]) -> &str {
        self.name(prefix, first, "_");
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        self.0.extend(second.iter().map(|&byte| if in_name(byte) { char::from(byte) } else { '_' }));
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"18446744073709551616", b"-1", b"+1", b"1 ", b"0x1", b"\xff"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn hexadecimal_and_negative_numbers_are_read() {
        assert_eq!((hex(b"F0000769"), hex(b"g"), hex(b"")), (Some(0xF000_0769), None, None));
        assert_eq!((hex(b"ffffffffffffffff"), hex(b"10000000000000000")), (Some(u64::MAX), None));
        assert_eq!((any_number(b"0x20"), any_number(b"20"), any_number(b"0x")), (Some(32), Some(20), None));
        assert_eq!((signed(b"-44000"), signed(b"7"), signed(b"--1")), (Some(-44_000), Some(7), None));
        let mut buffer = [0; 20];
        assert_eq!((digits(0, &mut [0; 20]), digits(u64::MAX, &mut buffer)), ("0", "18446744073709551615"));
        assert_eq!((signed(b"-9223372036854775808"), signed(b"9223372036854775808")), (Some(i64::MIN), None));
    }

    #[test]
    fn lines_are_numbered_from_one_and_a_last_line_end_ends_no_line() {
        let all = |bytes| lines(bytes).collect::<Vec<_>>();
        assert_eq!(all(b"a\n\nb\n"), [(1, &b"a"[..]), (2, b""), (3, b"b")]);
        assert_eq!(all(b"a"), [(1, &b"a"[..])]);
        assert!(all(b"").is_empty());
    }
}
