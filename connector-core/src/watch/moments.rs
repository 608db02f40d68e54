//! When it pays not to sleep.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::coop::unconstrained;

use super::{Before, Watching};

/// Polls `future` until it ends, or for so long, and does not sleep meanwhile: the processor is offered to other threads, and
/// then whoever waits for a socket tries again. For answers that come sooner than a thread is woken.
///
/// It may take longer, as long as other threads keep the processor that they were offered, or `future` keeps this thread: an
/// executor within it (not [`block_on`](super::block_on)) does as long as the answer takes. Whoever polls it later says anew whom
/// it wakes. It is not polled within a runtime, unless the caller is.
pub fn poll_for<F: Future + ?Sized>(at_most: Duration, future: Pin<&mut F>) -> Poll<F::Output> {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    // The budget of a task that this thread may be in is not given back meanwhile.
    let mut future = pin!(unconstrained(future));
    let _before = Before::set(Watching::WhoPolls(Vec::new()));
    let since = Instant::now();
    loop {
        if woken.0.swap(false, Ordering::AcqRel)
            && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
        {
            return Poll::Ready(output);
        }
        if since.elapsed() >= at_most {
            return Poll::Pending;
        }
        thread::yield_now();
    }
}

/// A future in [`poll_for`].
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Who asks sooner than this after the question before is one of several, or has more of them: they wait together.
const TOGETHER: Duration = Duration::from_micros(10);
/// How many questions in a row are not given a moment, at most, before it is tried again.
const SKIP_AT_MOST: u32 = 64;

/// Which questions are given a moment of their thread ([`poll_for`]), instead of being waited for at once: as long as it pays, and,
/// where [`asked`](Self::asked) is called, only those that come one by one. Each that takes longer doubles the number of those that
/// are waited for at once after it, up to 64; the first that does not ends that.
#[derive(Debug, Default)]
pub struct Moments {
    to_skip: u32,
    skipped_after_last: u32,
    last: Option<Instant>,
}

impl Moments {
    /// Whether the question that is asked `now` is given one.
    pub fn has(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.duration_since(last) < TOGETHER) {
            return false;
        }
        if self.to_skip > 0 {
            self.to_skip -= 1;
            return false;
        }
        true
    }

    /// Whether the moment that a question was given was enough.
    pub fn was(&mut self, enough: bool) {
        self.skipped_after_last = if enough { 0 } else { (self.skipped_after_last * 2).clamp(1, SKIP_AT_MOST) };
        self.to_skip = self.skipped_after_last;
    }

    /// A question has been asked, and answered or left to wait, with a moment or without.
    pub fn asked(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks `n` questions a millisecond apart; says which were given a moment.
    fn ask(moments: &mut Moments, now: &mut Instant, n: usize, enough: bool) -> Vec<usize> {
        let mut given = Vec::new();
        for i in 0..n {
            *now += Duration::from_millis(1);
            if moments.has(*now) {
                moments.was(enough);
                given.push(i);
            }
            moments.asked(*now);
        }
        given
    }

    #[test]
    fn a_server_that_takes_longer_is_given_fewer_and_fewer_until_one_was_enough() {
        let (mut moments, mut now) = (Moments::default(), Instant::now());
        assert_eq!(ask(&mut moments, &mut now, 3, true), [0, 1, 2]);
        assert_eq!(ask(&mut moments, &mut now, 260, false), [0, 2, 5, 10, 19, 36, 69, 134, 199]);
        // Four are left to skip.
        assert_eq!(ask(&mut moments, &mut now, 10, true), [4, 5, 6, 7, 8, 9]);
        assert_eq!(ask(&mut moments, &mut now, 4, false), [0, 2]);
    }

    #[test]
    fn questions_that_come_together_wait_together() {
        let (mut moments, now) = (Moments::default(), Instant::now());
        assert!(moments.has(now));
        moments.asked(now);
        assert!(!moments.has(now + TOGETHER / 2));
        moments.asked(now + TOGETHER / 2);
        assert!(!moments.has(now + TOGETHER));
        assert!(moments.has(now + TOGETHER * 3 / 2));
    }
}
