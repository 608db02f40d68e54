//! Reads that wait for bytes, and waits that time out.

use std::future::{Future, poll_fn};
use std::io::{self, IoSliceMut};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::Connection;
use crate::resp_wire::errors::{hung_up, unavailable};
use crate::resp_wire::transport::Ready;

impl Connection {
    /// Waits for bytes. The first go to `to`, the rest to the reader's buffer. Returns how many went to `to`.
    pub(super) async fn fill(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut deadline = None;
        loop {
            let buffer = self.reader.spare();
            let wanted = to.len();
            let tried = if to.is_empty() {
                self.transport.try_read(&mut [IoSliceMut::new(buffer)])
            } else {
                self.transport.try_read(&mut [IoSliceMut::new(to), IoSliceMut::new(buffer)])
            };
            match tried {
                Ok(0) => {
                    self.failed = true;
                    return Err(self.write_failure.take().unwrap_or_else(|| hung_up(&self.address)));
                }
                Ok(n) => {
                    if let Some(asked) = self.asked.take() {
                        self.round_trip = self.round_trip.min(asked.elapsed());
                    }
                    self.received += n as u64;
                    self.spent.moved += n as u64;
                    self.reads_before = self.progress.reads.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                    self.reader.filled(n.saturating_sub(wanted));
                    return Ok(n.min(wanted));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Bytes that came may be less than a TLS record. A wait for the mark would move the deadline again.
                    let at_least = if deadline.is_none() { wanted.max(1) } else { 1 };
                    self.wait(Ready::Read { at_least }, &mut deadline).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.io_failed(e, "read from")),
            }
        }
    }

    /// Waits until the transport is ready. The first wait sets the deadline, and a try without progress keeps it.
    pub(super) async fn wait(&mut self, mut ready: Ready, deadline: &mut Option<Instant>) -> Result<()> {
        let start = Instant::now();
        let deadline = deadline.get_or_insert_with(|| start + self.io_timeout.min(self.spent.left(self.io_timeout)));
        loop {
            match poll_fn(|cx| self.poll_wait(ready, *deadline, cx)).await {
                Ok(true) => {
                    // A longer wait means that the caller did not poll the call in time.
                    let end = Instant::now();
                    if end < *deadline {
                        self.spent.waited += end - start;
                    }
                    return Ok(());
                }
                // Bytes are there, but fewer than the mark.
                Ok(false) if matches!(ready, Ready::Read { at_least: 2.. }) && self.transport.has_input() => {
                    ready = Ready::Read { at_least: 1 };
                    *deadline = Instant::now() + self.io_timeout;
                }
                Ok(false) => {
                    self.failed = true;
                    self.is_stalled_alone = self.progress.reads.load(Ordering::Relaxed) != self.reads_before;
                    return Err(self.timed_out(ready, *deadline - start));
                }
                Err(e) => return Err(self.io_failed(e, "wait for")),
            }
        }
    }

    /// Ready with `false` at the deadline.
    fn poll_wait(&mut self, ready: Ready, deadline: Instant, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Poll::Ready(answer) = self.transport.poll_ready(ready, cx) {
            return Poll::Ready(answer.map(|()| true));
        }
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(Ok(false));
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    #[cold]
    fn timed_out(&self, ready: Ready, waited: Duration) -> Error {
        let (address, ms) = (&self.address, self.io_timeout.as_millis());
        let did = if ready == Ready::Write { "took no byte" } else { "sent no byte" };
        let why = if waited * 2 > self.io_timeout {
            format!("the server at {address} {did} for {ms} ms")
        } else {
            let (moved, ms) = (self.spent.moved, (self.spent.waited + waited).as_millis());
            format!("the server at {address} is too slow: a call moved {moved} bytes in {ms} ms")
        };
        Error::new(ErrorKind::Timeout, why)
            .temporary(true)
            .with_hint("is it overloaded or stopped? `io_timeout_ms` says how long to wait")
    }

    /// The connection broke, whatever the system's error is. Even a timeout means that, because it comes from the
    /// socket's options.
    pub(super) fn io_failed(&mut self, e: io::Error, what: &str) -> Error {
        self.failed = true;
        unavailable(Error::io(e, format_args!("{what} the server at {}", self.address)))
    }
}
