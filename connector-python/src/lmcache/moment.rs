//! A question may keep the thread that asks for a moment, without Python's lock, as long as that pays.
//!
//! Even to wake one thread may take longer than a server on the same machine takes to answer.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, Instant};

use connectors::watch::{Moments, poll_for};

use crate::runtime::lock;

/// How long a question may keep its thread, about. A server that has to be woken on another processor takes 45 to 58 µs; LMCache's own
/// connector takes 70 µs of its loop's thread for a question (of Python, where ours takes 11, the server's answer included).
const MOMENT: Duration = Duration::from_micros(60);

/// Polls a question for a moment, if one is given. Detached from Python, within the runtime.
pub(super) fn poll<F: Future + ?Sized>(moments: &Mutex<Moments>, question: Pin<&mut F>) -> Poll<F::Output> {
    let since = Instant::now();
    if !lock(moments).has(since) {
        return Poll::Pending;
    }
    let polled = poll_for(MOMENT, question);
    // A thread that was offered the processor may have kept it.
    lock(moments).was(polled.is_ready() && since.elapsed() < 2 * MOMENT);
    polled
}
