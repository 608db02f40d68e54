//! Sizes in bytes, with units.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, at least 1. `KiB`, `MiB`, `K` and `M` are powers of 1024, `KB` and `MB` are powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) usize);

const BINARY: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || "write `64KiB`, `4MiB`, `1GiB` or a number of bytes over 0".to_owned();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let bytes = number.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0);
        bytes.map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    /// `4 MiB`, `13.7 MiB`, `36 KiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = (self.0.max(1).ilog2() / 10).min(BINARY.len() as u32 - 1);
        let value = self.0 as f64 / f64::from(1 << 10).powi(power as i32);
        let unit = BINARY[power as usize];
        if value.fract() == 0.0 { write!(f, "{value} {unit}") } else { write!(f, "{value:.1} {unit}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_their_units() {
        for (text, bytes) in [
            ("1000", 1000),
            ("64KiB", 64 << 10),
            ("64 kib", 64 << 10),
            ("4M", 4 << 20),
            ("4MiB", 4 << 20),
            ("4MB", 4_000_000),
            ("1GiB", 1 << 30),
            ("7b", 7),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn an_invalid_size_is_an_error_with_an_example() {
        for text in ["", "0", "0MiB", "-1", "4.5MiB", "MiB", "4 parsecs", "99999999999999999999", "99999999999G"] {
            let e = text.parse::<ByteSize>().expect_err(text);
            assert!(e.contains("write `64KiB`"), "{e}");
        }
    }

    #[test]
    fn sizes_are_printed_in_the_largest_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (36_864, "36 KiB"),
            (4 << 20, "4 MiB"),
            (9_437_184 + 524_288, "9.5 MiB"),
            (3 << 40, "3 TiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
    }
}
