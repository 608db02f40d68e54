//! A bandwidth that all transfers share.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The largest delay that the next transfer makes up for. After a suspend of an hour, transfers must not be fast for an
/// hour.
const MAX_LATE: Duration = Duration::from_millis(10);

pub(super) struct Bandwidth {
    seconds_per_byte: f64,
    /// The time between the end of the last transfer and its wake-up: tokio's clock ticks once a millisecond. The next
    /// transfer starts earlier by this time, so that rounding does not add up. The lock is fair: transfers keep their
    /// order.
    late: Mutex<Duration>,
}

impl Bandwidth {
    pub(super) fn new(seconds_per_byte: f64) -> Self {
        Self { seconds_per_byte, late: Mutex::default() }
    }

    /// Waits for earlier transfers, and then for the time that `bytes` take. If the future is dropped, the next
    /// transfer starts.
    pub(super) async fn transfer(&self, bytes: usize) {
        let mut late = self.late.lock().await;
        let now = Instant::now();
        let start = now.checked_sub(std::mem::take(&mut *late)).unwrap_or(now);
        let takes = Duration::try_from_secs_f64(bytes as f64 * self.seconds_per_byte).unwrap_or(Duration::MAX);
        // A transfer that ends after the clock's range never ends.
        let Some(end) = start.checked_add(takes) else { return std::future::pending().await };
        sleep_until(end).await;
        *late = Instant::now().saturating_duration_since(end).min(MAX_LATE);
    }
}
