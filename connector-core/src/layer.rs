//! Layers: what can be put around any connector.
//!
//! | layer | what it does | options |
//! |---|---|---|
//! | [`LimitLayer`] | lets so many calls in, the others wait their turn | `max_in_flight` |
//! | [`BreakerLayer`] | refuses calls for a while when the store is lost | `breaker_failures`, `min_reconnect_interval` |
//! | [`RetryLayer`] | asks again after an error marked [temporary](crate::Error::is_temporary) | `retries`, `retry_min_delay_ms`, `retry_max_delay_ms` |
//! | [`TimeoutLayer`] | gives up a call that takes too long | `timeout_ms`, `batch_timeout_ms` |
//!
//! All are off until they are set. Whoever opens a store sets them by URL (`redis://h:6379?timeout_ms=500&retries=2`), by
//! configuration (`extra_config` keys with the prefix `kvconn_`, or `remote_storage_plugin.<name>.timeout_ms`), or in
//! code with [`ContextBuilder::layers`](crate::ContextBuilder::layers), in this order of precedence. A store behind another one
//! (of `tiered://`, `audit://`) takes them from its own URL only: what the configuration says holds once, in front.
//!
//! # Order
//! The four stand in the order of the table, the first one outermost; then comes the store. A tuple puts layers around a
//! connector, outermost first:
//!
//! ```
//! use std::time::Duration;
//! use connector_core::layer::{BreakerLayer, Layer, LimitLayer, RetryLayer, TimeoutLayer};
//! # fn f(store: impl connector_core::RemoteConnector) -> connector_core::Connector {
//! // Right: each try has its own time, and a refusal by the breaker is not tried again.
//! let layers = (
//!     LimitLayer::new(64),
//!     BreakerLayer::new(5, Duration::from_secs(10)).named("acme.kv/AcmeConnector"),
//!     RetryLayer::new(2).named("acme.kv/AcmeConnector"),
//!     TimeoutLayer::new(Duration::from_millis(500)),
//! );
//! connector_core::Connector::new("acme.kv/AcmeConnector", layers.layer(store))
//! # }
//! ```
//!
//! ```
//! # use std::time::Duration;
//! # use connector_core::layer::{BreakerLayer, Layer, LimitLayer, RetryLayer, TimeoutLayer};
//! # fn f(store: impl connector_core::RemoteConnector) -> connector_core::Connector {
//! // Wrong: all tries share 500 ms, so the first slow one uses up the time of the others; the open breaker's refusals
//! // are tried again; and calls that wait for their turn behind a lost server each try it once more, one after the other.
//! let layers = (
//!     TimeoutLayer::new(Duration::from_millis(500)),
//!     RetryLayer::new(2),
//!     BreakerLayer::new(5, Duration::from_secs(10)),
//!     LimitLayer::new(64),
//! );
//! # connector_core::Connector::new("acme.kv/AcmeConnector", layers.layer(store))
//! # }
//! ```
//!
//! A tuple is one type, so its layers cost one allocation per call together, and none but that of the handle if the
//! connector below is a plain type as here. Each [`ContextBuilder::layer`](crate::ContextBuilder::layer) costs one more.
//!
//! [Spans and metrics](crate::observe) are no layer: the handle always has them, outside of all layers.

mod breaker;
mod limit;
mod options;
mod retry;
mod stack;
mod timeout;

pub use breaker::{Breaker, BreakerLayer};
pub use limit::{Limit, LimitLayer};
pub use options::LayerOptions;
pub use retry::{Retry, RetryLayer};
pub use stack::BoxConnector;
pub use timeout::{Timeout, TimeoutLayer};

pub(crate) use options::{Layers, NAMES, is_layer_option};
pub(crate) use stack::DynLayer;

use crate::connector::RemoteConnector;
use crate::{Error, ErrorKind, Result};

/// Something that can be put around a connector.
///
/// A layer of one's own is a connector that holds another one and forwards every method: one that is forgotten falls back to
/// the trait's default, and passes over what the store does better. `#[deny(clippy::missing_trait_methods)]` on its
/// `impl RemoteConnector` finds those.
pub trait Layer<C: RemoteConnector> {
    /// The connector with the layer around it.
    type Layered: RemoteConnector;

    /// Puts the layer around `inner`.
    fn layer(self, inner: C) -> Self::Layered;
}

/// What an operation answers: one result, or one for each key of a batch.
trait Answer: Send {
    /// The answer of an operation on `keys` keys that failed as a whole.
    fn failed(error: Error, keys: usize) -> Self;

    /// What it says about the store.
    fn verdict(&self) -> Verdict<'_>;
}

/// What an answer says about the store.
enum Verdict<'a> {
    /// It is there: it answered.
    Found,
    /// It could not be reached.
    Lost(&'a Error),
    /// Nothing: the call may have failed before it came that far (a key that no store takes, a pool without memory).
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

    /// One key that was answered tells that the store is there.
    fn verdict(&self) -> Verdict<'_> {
        self.iter().fold(Verdict::Nothing, |so_far, answer| match (so_far, answer.verdict()) {
            (Verdict::Found, _) | (_, Verdict::Found) => Verdict::Found,
            (Verdict::Lost(e), _) | (_, Verdict::Lost(e)) => Verdict::Lost(e),
            _ => Verdict::Nothing,
        })
    }
}

/// The methods of a layer that does the same around every call: `self.around(operation, keys, call)`. `close` passes
/// through, because a `close` that is cut short loses data.
macro_rules! around {
    ($($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        $(async fn $name(&self, $($arg: $ty),*) -> $out {
            if matches!(Operation::$op, Operation::Close) {
                return self.inner.$name($($arg),*).await;
            }
            let keys = $crate::layer::keys!($shape $($arg)*);
            self.around(Operation::$op, keys, self.inner.$name($($arg),*)).await
        })*
    };
}
use around;

/// How many keys a call is about.
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
use keys;
