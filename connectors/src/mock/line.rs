//! A line that moves so many bytes in a second, for all that use it together.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lateness that is made up for, at most. A machine that slept for an hour need not hurry for an hour.
const MOST_LATE: Duration = Duration::from_millis(10);

pub(super) struct Line {
    seconds_per_byte: f64,
    /// How late the last transfer was told that it had ended: tokio's clock ticks only once a millisecond. The next one
    /// begins as much earlier, so that the rounding does not add up. The lock is fair: first come, first served.
    late: Mutex<Duration>,
}

impl Line {
    pub(super) fn new(seconds_per_byte: f64) -> Self {
        Self { seconds_per_byte, late: Mutex::default() }
    }

    /// Waits for its turn, then for as long as so many bytes take. Dropped, it leaves the line to the next.
    pub(super) async fn transfer(&self, bytes: usize) {
        let mut late = self.late.lock().await;
        let now = Instant::now();
        let begun = now.checked_sub(std::mem::take(&mut *late)).unwrap_or(now);
        let takes = Duration::try_from_secs_f64(bytes as f64 * self.seconds_per_byte).unwrap_or(Duration::MAX);
        // Longer than the clock goes is for ever, or as long as anyone waits.
        let Some(end) = begun.checked_add(takes) else { return std::future::pending().await };
        sleep_until(end).await;
        *late = Instant::now().saturating_duration_since(end).min(MOST_LATE);
    }
}
