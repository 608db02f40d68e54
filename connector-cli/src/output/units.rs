//! Formats of numbers and times.

use std::fmt;
use std::time::Duration;

/// A time with three significant digits: `12.3 µs`.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos() as f64;
        let (value, unit) = match ns {
            ns if ns < 1e3 => return f.pad(&format!("{ns:.0} ns")),
            ns if ns < 1e6 => (ns / 1e3, "µs"),
            ns if ns < 1e9 => (ns / 1e6, "ms"),
            ns => (ns / 1e9, "s"),
        };
        f.pad(&format!("{} {unit}", three_digits(value)))
    }
}

/// A time in its largest whole unit: `59s`, `12m`, `5h`, `30d`.
pub(crate) struct Age(pub(crate) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            s @ 0..60 => write!(f, "{s}s"),
            s @ 60..3600 => write!(f, "{}m", s / 60),
            s @ 3600..86_400 => write!(f, "{}h", s / 3600),
            s => write!(f, "{}d", s / 86_400),
        }
    }
}

/// GiB per second.
pub(crate) fn gib_per_s(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 30) / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A number with three significant digits: `1.52`, `15.2`, `152`.
pub(crate) fn three_digits(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A number of things: `1 chunk`, `2 chunks`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_and_a_unit() {
        for (ns, shown) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (45_600_000, "45.6 ms"),
            (789_000_000, "789 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(Time(Duration::from_nanos(ns)).to_string(), shown);
        }
    }

    #[test]
    fn an_age_has_one_unit() {
        for (secs, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (86_399, "23h"), (200_000, "2d")] {
            assert_eq!(Age(Duration::from_secs(secs)).to_string(), shown);
        }
    }

    #[test]
    fn rates_count_bytes_in_gib() {
        assert_eq!(three_digits(gib_per_s(3 << 29, Duration::from_secs(1))), "1.50");
        assert_eq!(gib_per_s(0, Duration::ZERO), 0.0);
    }
}
