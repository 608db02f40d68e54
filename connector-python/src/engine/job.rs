//! One submit: its keys, its memory, and its result, which is delivered exactly once.

use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use connectors::{Error, ErrorKind, Result};

use super::keys::Keys;
use super::queue::Queue;
use crate::span::Span;

/// The three kinds of submits. Each has its own completions and its own eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Store,
    Load,
    Lookup,
}

/// The result of a submit.
pub(crate) struct Completion<H> {
    pub(crate) tag: i64,
    /// For each key 1 (stored, loaded, found) or 0.
    pub(crate) yes: Vec<u8>,
    pub(crate) error: Option<String>,
    /// From the submit to the result.
    pub(crate) seconds: f64,
    /// Bytes that were moved.
    pub(crate) bytes: u64,
    /// Bytes of the transfer's memory.
    pub(crate) memory: u64,
    /// Keeps the memory alive.
    pub(crate) held: Option<H>,
}

/// Where a completion goes.
pub(crate) enum AnswerTo<H> {
    /// To the completions of its kind, which the engine drains.
    Drain,
    /// To a thread that waits.
    Thread(Sender<Completion<H>>),
}

/// A submit of a store or load.
pub(crate) struct Transfer<H> {
    pub(crate) tag: i64,
    pub(crate) keys: Keys,
    /// `pieces` spans for each key, one key after the other.
    pub(crate) spans: Vec<Span>,
    pub(crate) pieces: usize,
    pub(crate) held: H,
    pub(crate) answer_to: AnswerTo<H>,
}

/// A transfer in the queue or under way. Its completion is delivered when the last holder drops it. The holders are the queue,
/// each part under way, and each piece of memory that the store has on loan. So nothing touches the memory after the completion.
/// This also holds after an error, a panic, a dropped future, and a read from a disk that outlives its future.
pub(super) struct Job<H: Send + 'static> {
    pub(super) kind: Kind,
    /// Unique in its queue.
    pub(super) number: u64,
    pub(super) keys: Keys,
    pub(super) spans: Vec<Span>,
    pub(super) pieces: usize,
    /// Of all spans.
    pub(super) bytes: u64,
    tag: i64,
    submitted: Instant,
    outcome: Mutex<Outcome>,
    /// Taken by the drop.
    rest: Mutex<Option<(H, AnswerTo<H>)>>,
    queue: Arc<Queue<H>>,
}

/// The answers for a job's keys.
struct Outcome {
    /// For each key 1, 0, or [`NO_ANSWER`].
    yes: Vec<u8>,
    failed: usize,
    first_error: Option<String>,
    moved: u64,
    stale: u64,
}

const NO_ANSWER: u8 = 2;

/// The answer for one key.
pub(super) enum Answer {
    /// Stored or loaded: this number of bytes.
    Moved(usize),
    /// Not in the store.
    Miss,
    /// In the store with another length.
    Stale,
}

impl<H: Send + 'static> Job<H> {
    pub(super) fn new(queue: Arc<Queue<H>>, kind: Kind, number: u64, transfer: Transfer<H>) -> Self {
        let Transfer { tag, keys, spans, pieces, held, answer_to } = transfer;
        let bytes = spans.iter().map(|span| span.len() as u64).sum();
        let outcome = Outcome::new(keys.len());
        Self {
            kind,
            number,
            keys,
            spans,
            pieces,
            bytes,
            tag,
            submitted: Instant::now(),
            outcome: Mutex::new(outcome),
            rest: Mutex::new(Some((held, answer_to))),
            queue,
        }
    }

    /// The spans of one key.
    pub(super) fn spans_of(&self, key: usize) -> &[Span] {
        &self.spans[key * self.pieces..(key + 1) * self.pieces]
    }

    /// The length of one key's value.
    pub(super) fn len_of(&self, key: usize) -> usize {
        self.spans_of(key).iter().map(Span::len).sum()
    }

    /// Records the answer for one key.
    pub(super) fn answer(&self, key: usize, answer: Result<Answer>) {
        self.outcome().put(key, answer);
    }

    /// Fails those of the keys that have no answer yet.
    pub(super) fn fail(&self, places: Range<usize>, error: &Error) {
        self.outcome().fail(places, error);
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Outcome> {
        // No statement between lock and unlock can panic.
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Send + 'static> Drop for Job<H> {
    fn drop(&mut self) {
        let outcome = self.outcome.get_mut().unwrap_or_else(PoisonError::into_inner);
        outcome.fail(0..outcome.yes.len(), &cut_off());
        let Some((held, answer_to)) = self.rest.get_mut().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let completion = Completion {
            tag: self.tag,
            error: outcome.error(),
            yes: std::mem::take(&mut outcome.yes),
            seconds: self.submitted.elapsed().as_secs_f64(),
            bytes: outcome.moved,
            memory: self.bytes,
            held: Some(held),
        };
        self.queue.end_transfer(self.kind, self.number, outcome.stale, completion, answer_to);
    }
}

impl Outcome {
    fn new(keys: usize) -> Self {
        Self { yes: vec![NO_ANSWER; keys], failed: 0, first_error: None, moved: 0, stale: 0 }
    }

    fn put(&mut self, key: usize, answer: Result<Answer>) {
        self.yes[key] = 0;
        match answer {
            Ok(Answer::Moved(bytes)) => {
                self.yes[key] = 1;
                self.moved += bytes as u64;
            }
            Ok(Answer::Miss) => {}
            Ok(Answer::Stale) => self.stale += 1,
            Err(e) => self.note(&e),
        }
    }

    fn fail(&mut self, places: Range<usize>, error: &Error) {
        for key in places {
            if self.yes[key] == NO_ANSWER {
                self.yes[key] = 0;
                self.note(error);
            }
        }
    }

    fn note(&mut self, error: &Error) {
        self.failed += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn error(&mut self) -> Option<String> {
        let first = self.first_error.take()?;
        let keys = self.yes.len();
        Some(if self.failed > 1 { format!("{} of {keys} keys failed, first: {first}", self.failed) } else { first })
    }
}

/// The error of a call that ended without an answer.
pub(crate) fn cut_off() -> Error {
    match connectors::runtime::handle() {
        Err(exits) => exits,
        Ok(_) => Error::new(ErrorKind::Closed, "the call was cut off: its client was closed"),
    }
}
