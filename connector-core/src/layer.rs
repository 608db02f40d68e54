//! Layers: behaviour that every connector can have.
//!
//! | layer | effect | options |
//! |---|---|---|
//! | limit | lets a number of calls run at once; the others wait | `max_in_flight` |
//! | breaker | refuses calls for a time when the store is lost | `breaker_failures`, `min_reconnect_interval` |
//! | retry | tries a call again after a [temporary](crate::ErrorStatus::Temporary) error | `retries`, `retry_min_delay_ms`, `retry_max_delay_ms` |
//! | timeout | ends a call that takes too long | `timeout_ms`, `batch_timeout_ms`, `lookup_timeout_ms`, `open_timeout_ms` |
//!
//! All are off until you set them. The URL comes first (`redis://h:6379?timeout_ms=500&retries=2`). Next is the
//! configuration: `extra_config` keys with the prefix `kvconn_`, or `remote_storage_plugin.<name>.timeout_ms`. Last
//! is code: [`ContextBuilder::layers`](crate::ContextBuilder::layers). A store behind another one (`tiered://`,
//! `audit://`) takes them only from its own URL. There is one exception: it has the breaker that code sets, and the
//! store in front then has none. So a `tiered` store whose back is lost still gives the chunks in its front.
//!
//! `open` has the timeout and the retries, too. Only `close` has no limit, because a `close` that is cut short loses
//! data. A poll that blocks its thread cannot be ended. [`Connector::within`](crate::Connector::within) sets another limit
//! for some calls.
//!
//! # Order
//! The layers have the order of the table. The limit is outermost, and the store is inside the timeout:
//! - Each try has its own time, because the timeout is inside the retry.
//! - A refusal of the breaker is final, because the retry is inside the breaker.
//! - A call that waited for the limit asks the breaker afterwards, so it does not try a lost store again.
//!
//! A layer of your own is a connector that holds another one: wrap the [`Connector`](crate::Connector) that you opened, and forward
//! every method. `#[deny(clippy::missing_trait_methods)]` on its `impl RemoteConnector` finds a method that you forgot.
//!
//! All four layers together cost one allocation per call.
//!
//! [Spans and metrics](crate::observe) are not a layer: every handle has them, outside of all layers.

mod breaker;
mod limit;
mod options;
mod retry;
mod timeout;

pub use options::LayerOptions;
pub(crate) use timeout::{LocalWaits, StoreId, each_within, within};
pub use timeout::{local_wait, time_left};

pub(crate) use options::{Layers, NAMES, is_layer_option};

use crate::{Error, ErrorKind, Result};

/// The answer of an operation: one result, or one for each key of a batch.
trait Answer: Send {
    /// The answer if the whole operation on `keys` keys failed.
    fn failed(error: Error, keys: usize) -> Self;

    /// The state of the store that the answer shows.
    fn verdict(&self) -> Verdict<'_>;
}

/// The state of a store, as an answer shows it.
enum Verdict<'a> {
    /// The store answered.
    Found,
    /// The store could not be reached.
    Lost(&'a Error),
    /// Not known: the call may have failed before it reached the store (an invalid key, a full pool), or only a part of the
    /// store is lost.
    Nothing,
}

impl<T: Send> Answer for Result<T> {
    fn failed(error: Error, _keys: usize) -> Self {
        Err(error)
    }

    fn verdict(&self) -> Verdict<'_> {
        match self {
            Ok(_) => Verdict::Found,
            Err(e) => match e.kind() {
                _ if e.is_unsent() || e.is_partial() => Verdict::Nothing,
                ErrorKind::Unavailable | ErrorKind::Timeout => Verdict::Lost(e),
                ErrorKind::Corrupt
                | ErrorKind::Denied
                | ErrorKind::ReadOnly
                | ErrorKind::StoreFull
                | ErrorKind::Throttled => Verdict::Found,
                _ => Verdict::Nothing,
            },
        }
    }
}

impl<T: Send> Answer for Vec<Result<T>> {
    fn failed(error: Error, keys: usize) -> Self {
        (0..keys).map(|_| Err(error.clone())).collect()
    }

    /// One answered key shows that the store answers.
    fn verdict(&self) -> Verdict<'_> {
        self.iter().fold(Verdict::Nothing, |so_far, answer| match (so_far, answer.verdict()) {
            (Verdict::Found, _) | (_, Verdict::Found) => Verdict::Found,
            (Verdict::Lost(e), _) | (_, Verdict::Lost(e)) => Verdict::Lost(e),
            _ => Verdict::Nothing,
        })
    }
}

/// The methods of a layer that does the same around every call: `self.around(operation, keys, call)`. It lets `close` pass
/// through, because a `close` that is cut short loses data.
macro_rules! around {
    ($($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        $(async fn $name(&self, $($arg: $ty),*) -> $out {
            let keys = $crate::layer::keys!($shape $($arg)*);
            self.around(Operation::$op, keys, self.inner.$name($($arg),*)).await
        })*
    };
}
pub(crate) use around;

/// The number of keys of a call.
macro_rules! keys {
    (one $($arg:ident)*) => {
        1
    };
    (into $($arg:ident)*) => {
        1
    };
    (close) => {
        1
    };
    ($batch:ident $items:ident) => {
        $items.len()
    };
}
pub(crate) use keys;
