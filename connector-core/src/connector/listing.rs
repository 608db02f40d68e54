//! The listings of a handle.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

use futures::future::{Either, FutureExt, ready, select};
use futures::stream::{self, BoxStream, StreamExt};
use tracing::{Instrument, Span};

use super::call::panicked;
use super::{Connector, ListEntry, Operation};
use crate::key::CacheKey;
use crate::layer::each_within;
use crate::observe::{Observed, Run};
use crate::{Error, Result};

struct Listing<'a, T> {
    /// `None` after the end.
    items: Option<BoxStream<'a, Result<T>>>,
    seen: Observed<'a>,
    span: Span,
    keys: usize,
    error: Option<Error>,
}

impl Connector {
    /// All keys whose text starts with `prefix`, in no order, as a stream. `""` lists everything.
    ///
    /// An error item is `Unsupported` if the store has no listing, or the store's own error. [`close`](Self::close)
    /// does not wait for a stream, because its caller may never poll it again. The stream ends with `Closed` instead.
    pub fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.listing(Operation::List, || self.0.connector.list(prefix))
    }

    /// As [`list`](Self::list), with the size of each chunk and the time of its last put, if the store has them.
    pub fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        self.listing(Operation::ListEntries, || self.0.connector.list_entries(prefix))
    }

    fn listing<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        items: impl FnOnce() -> BoxStream<'a, Result<T>>,
    ) -> BoxStream<'a, Result<T>> {
        let fails = |e| stream::once(ready(Err(e))).boxed();
        let items = match self.0.gate.enter_ref() {
            Ok(_) => {
                let items = || match self.1 {
                    None => items(),
                    Some(limit) => each_within(limit, self.id(), items),
                };
                catch_unwind(AssertUnwindSafe(items)).unwrap_or_else(|panic| fails(panicked(&*panic)))
            }
            Err(closed) => fails(closed),
        };
        let (seen, span) = (self.0.instruments.begin(operation), self.0.instruments.span(operation, None));
        let begin = Listing { items: Some(items), seen, span, keys: 0, error: None };
        stream::unfold(begin, move |mut listing| async move {
            let next = AssertUnwindSafe(listing.items.as_mut()?.next()).catch_unwind().instrument(listing.span.clone());
            let next = match select(pin!(next), pin!(self.0.gate.closed())).await {
                Either::Left((next, _)) => Some(next),
                Either::Right(_) => None,
            };
            let (item, ended) = match next {
                Some(Ok(Some(Err(e)))) => (Some(Err(e)), self.is_closed()),
                // A listing that `close` or a panic cut short must end with an error, so that it does not look
                // complete.
                _ if self.is_closed() => (Some(Err(Error::closed())), true),
                Some(Err(panic)) => (Some(Err(panicked(&*panic))), true),
                Some(Ok(item)) => (item, false),
                None => (None, true),
            };
            match &item {
                Some(Ok(_)) => listing.keys += 1,
                Some(Err(e)) => {
                    listing.error.get_or_insert_with(|| e.clone());
                }
                None => {}
            }
            if item.is_none() || ended {
                listing.items = None;
                let whole = Run { found: listing.keys, asked: listing.keys };
                let answer = listing.error.take().map_or(Ok(whole), Err);
                listing.span.in_scope(|| listing.seen.end(&answer, None));
            }
            item.map(|item| (item.map_err(|e| self.explain(e, operation, None)), listing))
        })
        .boxed()
    }
}
