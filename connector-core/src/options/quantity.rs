//! A number with a unit, for the error of an option that takes a bare number.

const BYTES: [(&str, f64); 9] = [
    ("b", 1.0),
    ("k", 1024.0),
    ("m", 1_048_576.0),
    ("g", 1_073_741_824.0),
    ("t", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
];

const SECONDS: [(&str, f64); 6] = [("ms", 1e-3), ("s", 1.0), ("sec", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0)];

/// The number of `unit` that a text such as `1GiB` or `5s` means.
pub(super) fn in_unit(text: &str, unit: &str) -> Option<String> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let number: f64 = text[..end].parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    let suffix = text[end..].trim().to_ascii_lowercase();
    let (factors, per_unit) = match unit {
        "bytes" => (&BYTES[..], 1.0),
        "ms" => (&SECONDS[..], 1e-3),
        "seconds" => (&SECONDS[..], 1.0),
        _ => return None,
    };
    // `GiB` is 2^30 as `G` is, and `GB` is 10^9.
    let name = suffix.strip_suffix("ib").unwrap_or(&suffix);
    let (_, factor) = factors.iter().find(|(known, _)| *known == name)?;
    Some((number * factor / per_unit).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_time_is_converted() {
        for (text, unit, number) in [
            ("1GiB", "bytes", "1073741824"),
            ("1.5 KiB", "bytes", "1536"),
            ("200MB", "bytes", "200000000"),
            ("2g", "bytes", "2147483648"),
            ("7B", "bytes", "7"),
            ("5s", "ms", "5000"),
            ("500ms", "ms", "500"),
            ("500ms", "seconds", "0.5"),
            ("2 min", "seconds", "120"),
            ("1h", "ms", "3600000"),
        ] {
            assert_eq!(in_unit(text, unit).as_deref(), Some(number), "{text} in {unit}");
        }
        for (text, unit) in
            [("lots", "bytes"), ("5", "ms"), ("-1s", "ms"), ("5s", "bytes"), ("1GiB", "GB"), ("é", "ms")]
        {
            assert_eq!(in_unit(text, unit), None, "{text} in {unit}");
        }
    }
}
