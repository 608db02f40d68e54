//! The hash inside a key: an integer or bytes, as hex text.

use std::fmt;

use super::{bad_field, bad_key};
use crate::{Error, Result};

/// A chunk's hash: an integer in lower-case hex without padding (with `-` if negative), or bytes in hex with their
/// zeros.
///
/// A hash has at most 256 bits. A bytes hash has at least two bytes, because `0f` could also be a misspelt integer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkHash(Box<str>);

impl ChunkHash {
    /// The largest number of hex digits: 256 bits.
    const MAX_HEX_DIGITS: usize = 64;

    /// A hash of 2 to 32 bytes. LMCache writes two hex digits for each byte.
    ///
    /// # Errors
    /// `InvalidKey` for another number of bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if !(2..=Self::MAX_HEX_DIGITS / 2).contains(&bytes.len()) {
            return Err(bad_key("", format_args!("a bytes hash has 2 to 32 bytes, not {}", bytes.len())));
        }
        Ok(Self(to_hex(bytes).into()))
    }

    /// The text, as in a key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn parse(key: &str, value: &str) -> Result<Self> {
        check(key, value).map(|()| Self(value.into()))
    }
}

impl From<u64> for ChunkHash {
    fn from(value: u64) -> Self {
        Self(format!("{value:x}").into())
    }
}

impl From<i64> for ChunkHash {
    fn from(value: i64) -> Self {
        let sign = if value < 0 { "-" } else { "" };
        Self(format!("{sign}{:x}", value.unsigned_abs()).into())
    }
}

impl std::str::FromStr for ChunkHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, text)
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the text is a hash as LMCache writes it.
pub(super) fn is_hash(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let negative = digits.len() != value.len();
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // Only a bytes hash may have a leading zero: it has an even number of digits, and no sign.
    let padded = digits.starts_with('0') && (negative || digits.len() > 1);
    let bytes_hash = !negative && digits.len() >= 4 && digits.len().is_multiple_of(2);
    is_hex && (1..=ChunkHash::MAX_HEX_DIGITS).contains(&digits.len()) && (!padded || bytes_hash)
}

/// Checks field 4 of an engine or layer key.
pub(super) fn check(key: &str, value: &str) -> Result<()> {
    if is_hash(value) {
        return Ok(());
    }
    let bad = |want: &str| Err(bad_field(key, 4, "chunk hash", value, want));
    let lower = value.trim().to_ascii_lowercase();
    let (sign, digits) = match lower.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", lower.trim_start_matches('+').trim_start_matches("0x")),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return bad("write hex digits");
    }
    if digits.len() > ChunkHash::MAX_HEX_DIGITS {
        return bad(&format!("write at most {} hex digits, not {}", ChunkHash::MAX_HEX_DIGITS, digits.len()));
    }
    let spelled = format!("{sign}{digits}");
    if is_hash(&spelled) {
        return bad(&format!("write `{spelled}`"));
    }
    match digits.trim_start_matches('0') {
        "" => bad("write `0`"),
        stripped => bad(&format!("write `{sign}{stripped}`")),
    }
}

/// `abs(int(hex, 16)) mod n`, for hex of any length.
pub(super) fn hex_modulo(hex: &str, n: usize) -> usize {
    let n = n as u128;
    let digits = hex.strip_prefix('-').unwrap_or(hex);
    digits.chars().filter_map(|c| c.to_digit(16)).fold(0u128, |acc, d| (acc * 16 + u128::from(d)) % n) as usize
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_bytes_are_spelled_as_in_python() {
        assert_eq!(ChunkHash::from(-0x4dc3_i64).as_str(), "-4dc3");
        assert_eq!(ChunkHash::from(i64::MIN).as_str(), "-8000000000000000");
        assert_eq!(ChunkHash::from(0_u64).as_str(), "0");
        assert_eq!(ChunkHash::from_bytes(&[0, 0xff, 0x10]).unwrap().as_str(), "00ff10");
    }

    #[test]
    fn a_wrong_spelling_is_an_error_with_the_right_one() {
        for (bad, right) in [
            ("FF", "`ff`"),
            ("01", "`1`"),
            ("+1", "`1`"),
            (" ff", "`ff`"),
            ("0xff", "`ff`"),
            ("-0", "`0`"),
            ("-01", "`-1`"),
            ("00", "`0`"),
            ("001", "`1`"),
        ] {
            let message = bad.parse::<ChunkHash>().unwrap_err().to_string();
            assert!(message.ends_with(&format!("write {right}")), "{bad}: {message}");
        }
        assert!("f".repeat(65).parse::<ChunkHash>().is_err());
        assert!("f".repeat(64).parse::<ChunkHash>().is_ok());
    }

    #[test]
    fn modulo_works_beyond_128_bits() {
        assert_eq!(hex_modulo("-ff", 10), 5);
        // 16^64 - 1 is divisible by 3, 5 and 17.
        for n in [1, 3, 5, 17] {
            assert_eq!(hex_modulo(&"f".repeat(64), n), 0);
        }
    }
}
