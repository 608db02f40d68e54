//! The figures of a measurement.

use std::time::Duration;

use connectors::{Error, ErrorKind};
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::output::gib_per_s;

/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// Longer latencies count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// All figures of one store.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) put: Figures,
    pub(super) get: Figures,
    pub(super) exists: Figures,
    pub(super) verified_bytes: usize,
}

impl Measured {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { put: Figures::new()?, get: Figures::new()?, exists: Figures::new()?, verified_bytes: 0 })
    }
}

/// The figures of one kind of operation.
#[derive(Debug)]
pub(super) struct Figures {
    rounds: Vec<Clocked>,
    /// Nanoseconds per call. A call has as many chunks as the plan's batch.
    latency: Histogram<u64>,
}

/// The work done while the clock ran, and its cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocked {
    /// Chunks that were put, got or asked for.
    pub(super) operations: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
    /// CPU time of all threads of this process. `None` where the system does not report it.
    pub(super) cpu: Option<Duration>,
}

impl Figures {
    fn new() -> Result<Self, Error> {
        let latency = Histogram::new_with_max(LATENCY_MAX.as_nanos() as u64, LATENCY_DIGITS)
            .map_err(|e| Error::new(ErrorKind::Other, format!("cannot count latencies: {e}")))?;
        Ok(Self { rounds: Vec::new(), latency })
    }

    pub(super) fn begin_round(&mut self) {
        self.rounds.push(Clocked::NOTHING);
    }

    /// Adds to the current round.
    pub(super) fn count(&mut self, clocked: Clocked, latencies: &[Duration]) {
        if let Some(round) = self.rounds.last_mut() {
            *round = round.and(clocked);
        }
        for latency in latencies {
            self.latency.saturating_record(latency.as_nanos() as u64);
        }
    }

    /// The sum of all rounds.
    pub(super) fn total(&self) -> Clocked {
        self.rounds.iter().fold(Clocked::NOTHING, |sum, &round| sum.and(round))
    }

    /// The latency that this share (0 to 1) of the calls did not exceed.
    pub(super) fn latency(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }
}

impl Clocked {
    const NOTHING: Self = Self { operations: 0, bytes: 0, time: Duration::ZERO, cpu: Some(Duration::ZERO) };

    fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            bytes: self.bytes + other.bytes,
            time: self.time + other.time,
            cpu: self.cpu.zip(other.cpu).map(|(a, b)| a + b),
        }
    }

    /// `None` for an operation that moves no bytes.
    pub(super) fn gib_per_s(self) -> Option<f64> {
        (self.bytes > 0).then(|| gib_per_s(self.bytes, self.time))
    }

    pub(super) fn per_s(self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU seconds; `None` for an operation that moves no bytes.
    pub(super) fn cpu_s_per_gib(self) -> Option<f64> {
        let gib = self.bytes as f64 / f64::from(1 << 30);
        (self.bytes > 0).then_some(self.cpu?.as_secs_f64() / gib)
    }

    pub(super) fn cpu_each(self) -> Option<Duration> {
        Some(self.cpu?.div_f64(self.operations.max(1) as f64))
    }
}

/// One store's rate divided by another's, over the rounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Ratio {
    /// Compares the two stores round by round, because other load on the machine slows both stores in the same round.
    /// `None` without a round.
    pub(super) fn of(a: &Figures, b: &Figures) -> Option<Self> {
        let each = a.rounds.iter().zip(&b.rounds).map(|(a, b)| a.per_s() / b.per_s().max(f64::MIN_POSITIVE));
        let mut ratios: Vec<f64> = each.collect();
        ratios.sort_by(f64::total_cmp);
        let (&min, &max) = (ratios.first()?, ratios.last()?);
        let upper = ratios.len() / 2;
        let lower = (ratios.len() - 1) / 2;
        Some(Self { median: f64::midpoint(ratios[lower], ratios[upper]), min, max })
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            operations: usize,
            seconds: f64,
            per_s: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            gib_per_s: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cpu_s: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cpu_s_per_gib: Option<f64>,
            p50_us: f64,
            p99_us: f64,
            p999_us: f64,
        }
        let us = |share| self.latency(share).as_nanos() as f64 / 1e3;
        let total = self.total();
        Shown {
            operations: total.operations,
            seconds: total.time.as_secs_f64(),
            per_s: total.per_s(),
            gib_per_s: total.gib_per_s(),
            cpu_s: total.cpu.map(|cpu| cpu.as_secs_f64()),
            cpu_s_per_gib: total.cpu_s_per_gib(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round for each of these times. A round has ten operations and 1 GiB.
    fn figures(seconds: &[u64]) -> Figures {
        let mut figures = Figures::new().unwrap();
        for &seconds in seconds {
            figures.begin_round();
            let time = Duration::from_secs(seconds);
            let clocked = Clocked { operations: 5, bytes: 1 << 29, time: time / 2, cpu: Some(time / 4) };
            figures.count(clocked, &[time / 10]);
            figures.count(clocked, &[time / 10]);
        }
        figures
    }

    #[test]
    fn a_ratio_compares_rates_round_by_round() {
        let ratio = Ratio::of(&figures(&[1, 2, 10, 3]), &figures(&[2, 2, 5, 9])).unwrap();
        assert_eq!(ratio, Ratio { median: 1.5, min: 0.5, max: 3.0 });
        let ratio = Ratio::of(&figures(&[1, 1, 1]), &figures(&[1, 5, 2])).unwrap();
        assert_eq!(ratio.median, 2.0);
        assert_eq!(Ratio::of(&figures(&[]), &figures(&[])), None);
    }

    #[test]
    fn rounds_add_up() {
        let figures = figures(&[2, 6]);
        let total = figures.total();
        assert_eq!((total.operations, total.time, total.per_s()), (20, Duration::from_secs(8), 2.5));
        assert_eq!((total.gib_per_s(), total.cpu_s_per_gib()), (Some(0.25), Some(2.0)));
        assert_eq!(total.cpu_each(), Some(Duration::from_millis(200)));
        assert!(figures.latency(0.999) >= Duration::from_millis(599));
    }

    #[test]
    fn one_part_of_unknown_cpu_time_makes_the_total_unknown() {
        let mut figures = figures(&[1]);
        figures.count(Clocked { cpu: None, ..Clocked::NOTHING }, &[]);
        assert_eq!((figures.total().cpu, figures.total().cpu_s_per_gib()), (None, None));
    }
}
