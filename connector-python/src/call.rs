//! One call, and the moment at which it is over.

use std::sync::Mutex;

use crate::runtime::lock;

type Deliver<T> = Box<dyn FnOnce(Option<T>) + Send>;

/// One call into a store. What it gave is delivered when the last holder drops it: the task that makes the call is one,
/// and each piece of memory that it was lent is another.
///
/// So there is exactly one delivery, and nothing touches the memory after it, however the call ends: with an answer, an
/// error, a panic, a future that was dropped, a blocking read that goes on behind it, or a runtime that shuts down.
pub(crate) struct Call<T> {
    outcome: Mutex<Option<T>>,
    /// A lock only because a call is shared.
    deliver: Mutex<Option<Deliver<T>>>,
}

impl<T> Call<T> {
    /// A call whose outcome goes to `deliver`: `None` if it was cut off. It runs on whatever thread comes last, so it must
    /// neither block nor attach.
    pub(crate) fn new(deliver: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self { outcome: Mutex::new(None), deliver: Mutex::new(Some(Box::new(deliver))) }
    }

    /// Says what the call gave.
    pub(crate) fn set(&self, outcome: T) {
        *lock(&self.outcome) = Some(outcome);
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        let deliver = lock(&self.deliver).take();
        let outcome = lock(&self.outcome).take();
        if let Some(deliver) = deliver {
            deliver(outcome);
        }
    }
}
