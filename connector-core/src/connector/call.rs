//! One call or batch of a handle: the gate, the limit, spans, metrics, and the text of errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::future::{Either, FutureExt};
use tracing::{Instrument, Span};

use super::{Connector, Operation};
use crate::key::CacheKey;
use crate::layer::within;
use crate::observe::{Answered, Observed};
use crate::{Error, ErrorKind, Result};

impl Connector {
    /// Runs one call: passes the gate, observes it, and explains its error.
    pub(super) async fn call<T: Answered>(
        &self,
        operation: Operation,
        key: Option<&CacheKey>,
        ask: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut seen = self.0.instruments.begin(operation);
        let span = self.0.instruments.span(operation, key);
        let ask = unless_it_panics(self.limited(ask, Err), Err);
        let answer = match self.0.gate.enter_ref() {
            // Without a subscriber, `instrument` would still enter the span at every poll.
            Ok(_pass) if span.is_disabled() => ask.await,
            Ok(_pass) => ask.instrument(span.clone()).await,
            Err(closed) => Err(closed),
        };
        span.in_scope(|| seen.end(&answer, key));
        answer.map_err(|e| self.explain(e, operation, key))
    }

    /// Runs one batch: passes the gate, observes it, checks the number of answers, and explains its errors.
    pub(super) async fn batch<'k, T: Answered>(
        &self,
        operation: Operation,
        asked: usize,
        key: impl Fn(usize) -> &'k CacheKey,
        ask: impl Future<Output = Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        let asking = self.ask_batch(operation, asked, ask).await;
        self.end_batch(operation, asking, key)
    }

    /// The first half of [`batch`](Self::batch), until every key has an answer. The call may borrow the keys until
    /// then, and the second half needs them.
    pub(super) async fn ask_batch<T>(
        &self,
        operation: Operation,
        asked: usize,
        ask: impl Future<Output = Vec<Result<T>>>,
    ) -> (Observed<'_>, Span, Vec<Result<T>>) {
        let seen = self.0.instruments.begin(operation);
        let span = self.0.instruments.span(operation, None);
        let failed = |e: Error| (0..asked).map(|_| Err(e.clone())).collect();
        let ask = self.limited(ask, failed);
        let ask = async {
            match AssertUnwindSafe(ask).catch_unwind().await {
                Ok(answers) => answers,
                // A batch without keys has no place for an error.
                Err(panic) if asked == 0 => resume_unwind(panic),
                Err(panic) => failed(panicked(&*panic)),
            }
        };
        let mut answers = match self.0.gate.enter_ref() {
            Ok(_pass) if span.is_disabled() => ask.await,
            Ok(_pass) => ask.instrument(span.clone()).await,
            Err(closed) => failed(closed),
        };
        if answers.len() != asked {
            let got = answers.len();
            answers.truncate(asked);
            answers.resize_with(asked, || Err(wrong_count(got, asked)));
        }
        (seen, span, answers)
    }

    pub(super) fn end_batch<'k, T: Answered>(
        &self,
        operation: Operation,
        (mut seen, span, mut answers): (Observed<'_>, Span, Vec<Result<T>>),
        key: impl Fn(usize) -> &'k CacheKey,
    ) -> Vec<Result<T>> {
        span.in_scope(|| seen.end_batch(&answers, &key));
        for (i, answer) in answers.iter_mut().enumerate() {
            if let Err(e) = answer {
                let bare = std::mem::replace(e, Error::closed());
                *e = self.explain(bare, operation, Some(key(i)));
            }
        }
        answers
    }

    #[cold]
    pub(super) fn explain(&self, error: Error, operation: Operation, key: Option<&CacheKey>) -> Error {
        let error = error.with_operation(operation.as_str()).with_connector(self.name());
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }

    /// A call with the limit of [`within`](Self::within). `failed` is the answer of a call that takes longer.
    fn limited<T>(&self, call: impl Future<Output = T>, failed: impl FnOnce(Error) -> T) -> impl Future<Output = T> {
        match self.1 {
            None => Either::Left(call),
            Some(limit) => {
                let call = within(limit, self.id(), call);
                Either::Right(Box::pin(async move { call.await.unwrap_or_else(failed) }))
            }
        }
    }
}

/// The answer of a call, or `failed` if the connector panics. The caller's task goes on, in Python as in Rust.
pub(super) async fn unless_it_panics<T>(call: impl Future<Output = T>, failed: impl FnOnce(Error) -> T) -> T {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| failed(panicked(&*panic)))
}

/// The error of a call that panicked with this text.
#[cold]
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a text");
    // Another crate's error may quote a URL with its password.
    let text = if text.contains("://") || text.contains('@') { "its text may quote a URL" } else { text };
    Error::new(ErrorKind::Other, format!("the connector panicked: {text}")).with_hint("this is a bug in the connector")
}

#[cold]
pub(super) fn wrong_count(got: usize, asked: usize) -> Error {
    Error::new(ErrorKind::Other, format!("the connector gave {got} answers to a batch of {asked}"))
        .with_hint("this is a bug in the connector: a batch answers every key, in order")
}
