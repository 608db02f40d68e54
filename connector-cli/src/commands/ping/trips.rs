//! The round trips of a run of pings.

use std::fmt;
use std::time::{Duration, Instant};

use connectors::{Connector, Error};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::Time;

#[derive(Default)]
pub(super) struct Trips {
    times: Vec<Duration>,
    lost: u64,
    first_error: Option<Error>,
    first: Option<Duration>,
}

impl Trips {
    /// Sends one ping. An interrupt ends it, and it does not count.
    pub(super) async fn add(
        &mut self,
        store: &Connector,
        interrupt: &Interrupt,
    ) -> Result<Result<Duration, Error>, Failure> {
        let start = Instant::now();
        let answer = interrupt.stops(store.ping()).await?;
        let trip = start.elapsed();
        if self.sent() == 0 {
            self.first = Some(trip);
        }
        match &answer {
            Ok(()) => self.times.push(trip),
            Err(e) => {
                self.lost += 1;
                self.first_error.get_or_insert_with(|| e.clone());
            }
        }
        Ok(answer.map(|()| trip))
    }

    pub(super) fn sent(&self) -> u64 {
        self.times.len() as u64 + self.lost
    }

    pub(super) fn first_error(&self) -> Option<&Error> {
        self.first_error.as_ref()
    }

    /// The first error, if no ping had an answer.
    pub(super) fn only_errors(&self) -> Option<&Error> {
        self.first_error.as_ref().filter(|_| self.times.is_empty())
    }

    /// The time of the first ping, with or without an answer.
    pub(super) fn first_seconds(&self) -> Option<f64> {
        self.first.map(|trip| trip.as_secs_f64())
    }

    /// Least, mean, 99th percentile and most.
    fn figures(&self) -> Option<[Duration; 4]> {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let mean = sorted.iter().sum::<Duration>().div_f64(sorted.len() as f64);
        let p99 = sorted[(sorted.len() * 99).div_ceil(100).saturating_sub(1)];
        Some([least, mean, p99, most])
    }

    pub(super) fn as_json(&self) -> Value {
        let seconds = self.figures().map(|all| all.map(|time| time.as_secs_f64()));
        let of = |at: usize| seconds.map(|all| all[at]);
        json!({
            "sent": self.sent(), "lost": self.lost,
            "min_seconds": of(0), "avg_seconds": of(1), "p99_seconds": of(2), "max_seconds": of(3),
        })
    }
}

impl fmt::Display for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.lost as f64 * 100.0 / self.sent().max(1) as f64;
        write!(f, "{} sent, {} answered, {} lost ({percent:.0} %)", self.sent(), self.times.len(), self.lost)?;
        if let Some(figures) = self.figures() {
            let [least, mean, p99, most] = figures.map(Time);
            write!(f, "\nmin {least}, avg {mean}, p99 {p99}, max {most}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connectors::ErrorKind;

    #[test]
    fn the_summary_has_the_figures_of_the_answered_pings() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let mut trips = Trips { times, lost: 50, ..Trips::default() };
        assert_eq!(
            trips.to_string(),
            "250 sent, 200 answered, 50 lost (20 %)\nmin 1.00 ms, avg 100 ms, p99 198 ms, max 200 ms"
        );
        assert_eq!(trips.as_json()["p99_seconds"], 0.198);
        trips.first_error = Some(Error::new(ErrorKind::Timeout, "lost"));
        assert!(trips.only_errors().is_none());
        trips.times.clear();
        assert!(trips.only_errors().is_some());
        assert_eq!(trips.to_string(), "50 sent, 0 answered, 50 lost (100 %)");
    }
}
