//! From Python's arguments to a submit, and from completions to Python. The methods of the client share this file.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Result};
use futures::StreamExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::job::{AnswerTo, Completion, Kind, Transfer, cut_off};
use super::keys::Keys;
use super::memory::{self, Held};
use super::queue::Queue;
use super::{Drained, EngineClient};
use crate::blocking::{no_answer, receive, until};
use crate::errors::{OrRaise, invalid};
use crate::lock;

/// Keys that `clear` removes at once.
const CLEAR_AT_ONCE: usize = 1000;
/// Added to a lookup's deadline, so that the answer of the runtime's timer comes first.
const TIMER_SLACK: Duration = Duration::from_millis(50);

impl EngineClient {
    pub(super) fn queue(&self, py: Python<'_>) -> PyResult<&Arc<Queue<Held>>> {
        self.queue.get().or_raise(py)
    }

    pub(super) fn connector(&self, py: Python<'_>) -> PyResult<Connector> {
        self.store.connector().or_raise(py).cloned()
    }

    /// The keys of a submit, copied.
    pub(super) fn keys(&self, objects: &Bound<'_, PyAny>, salt: &str) -> PyResult<Keys> {
        let py = objects.py();
        let mut keys = Keys::new(&self.names, salt).or_raise(py)?;
        for (i, key) in objects.try_iter()?.enumerate() {
            let key = key?;
            if let Ok(bytes) = key.cast::<PyBytes>() {
                keys.push_bytes(bytes.as_bytes()).or_raise(py)?;
            } else if let Ok(text) = key.cast::<PyString>() {
                keys.set_text().or_raise(py)?;
                // A text with an unpaired surrogate is not a key. The worker's parser refuses the replacement.
                keys.push_text(text.to_str().unwrap_or("\u{fffd}"));
            } else {
                let class = key.get_type().name()?;
                return Err(invalid(py, format!("keys[{i}] is of the type {class}; give bytes or str")));
            }
        }
        Ok(keys)
    }

    /// Queues a transfer, and gives its number.
    #[expect(clippy::too_many_arguments, reason = "the parts of one submit")]
    pub(super) fn submit(
        &self,
        py: Python<'_>,
        kind: Kind,
        tag: i64,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
        answer_to: AnswerTo<Held>,
    ) -> PyResult<u64> {
        let queue = self.queue(py)?;
        let keys = self.keys(keys, salt)?;
        let rows = lock(&self.rows).clone();
        // A closed client has no rows any more, and completes every submit as failed.
        let (spans, pieces, held) = match queue.is_closed() {
            true => (Vec::new(), 0, Held::none()),
            false => memory::read(py, kind, keys.len(), memory, rows)?,
        };
        Ok(queue.submit(kind, Transfer { tag, keys, spans, pieces, held, answer_to }))
    }

    pub(super) fn drain<'py>(&self, py: Python<'py>, kind: Kind) -> PyResult<Vec<Drained<'py>>> {
        let drained = |done: Completion<Held>| {
            if let Some(held) = done.held {
                held.release(py);
            }
            (done.tag, PyBytes::new(py, &done.yes), done.error, done.seconds, done.bytes)
        };
        Ok(self.queue(py)?.drain(kind).into_iter().map(drained).collect())
    }

    /// Makes a transfer and waits for it. An error means that keys were not moved; the log has it.
    pub(super) fn transfer(
        &self,
        py: Python<'_>,
        kind: Kind,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<bool>> {
        let (send, completions) = channel();
        let number = self.submit(py, kind, 0, keys, salt, memory, AnswerTo::Thread(send))?;
        let queue = self.queue(py)?;
        let (done, interrupted) = py.detach(move || match receive(&completions) {
            Ok(done) => (done, None),
            Err(e) => {
                // The memory is the caller's again only after the completion.
                queue.cancel(number, &cut_off());
                (completions.recv().ok(), Some(e))
            }
        });
        let done = done.ok_or_else(no_answer)?;
        if let Some(held) = done.held {
            held.release(py);
        }
        if let Some(interrupted) = interrupted {
            return Err(interrupted);
        }
        if let Some(error) = done.error {
            tracing::debug!(engine = self.engine, "{error}");
        }
        Ok(done.yes.into_iter().map(|yes| yes == 1).collect())
    }

    /// One byte for each key, in time.
    pub(super) fn ask(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, salt: &str, run: bool) -> PyResult<Vec<u8>> {
        let keys = self.keys(keys, salt)?;
        let (queue, asked) = (self.queue(py)?, keys.len());
        py.detach(|| {
            let (send, completions) = channel();
            let deadline = Instant::now() + queue.limits.lookup_timeout + TIMER_SLACK;
            queue.lookup(0, keys, run, AnswerTo::Thread(send));
            let answer = until(Some(deadline), |longest| match completions.recv_timeout(longest) {
                Ok(done) => Some(Some(done.yes)),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(None),
            })?;
            Ok(answer.flatten().unwrap_or_else(|| vec![0; asked]))
        })
    }
}

/// Removes all keys whose text starts with the prefix, and gives their number.
pub(super) async fn clear(connector: &Connector, prefix: &str) -> Result<usize> {
    let mut removed = 0;
    let mut listing = connector.list(prefix).chunks(CLEAR_AT_ONCE);
    while let Some(keys) = listing.next().await {
        let keys = keys.into_iter().collect::<Result<Vec<CacheKey>>>()?;
        for answer in connector.batched_remove(&keys).await {
            removed += usize::from(answer?);
        }
    }
    Ok(removed)
}
