//! The twin of `RemoteConnector` that can be a trait object. Private to this crate.

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::operation::{listings, operations};
use super::{Capabilities, Diagnosis, ListEntry, RemoteConnector, ServerInfo};
use crate::Result;
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::key::CacheKey;

macro_rules! erased {
    ([$($list_op:ident $list:ident $item:ty;)*] $($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        pub(crate) trait DynConnector: Send + Sync + 'static {
            fn capabilities(&self) -> Capabilities;
            $(fn $list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<$item>>;)*
            $(fn $name<'a>(&'a self, $($arg: $ty),*) -> BoxFuture<'a, $out>;)*
        }

        impl<T: RemoteConnector> DynConnector for T {
            fn capabilities(&self) -> Capabilities {
                RemoteConnector::capabilities(self)
            }
            $(fn $list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<$item>> {
                RemoteConnector::$list(self, prefix)
            })*
            $(fn $name<'a>(&'a self, $($arg: $ty),*) -> BoxFuture<'a, $out> {
                // The `async` block makes a method that panics before it returns its future panic in a poll instead.
                Box::pin(async move { RemoteConnector::$name(self, $($arg),*).await })
            })*
        }
    };
}

macro_rules! with_listings {
    ($($listings:tt)*) => {
        operations!(erased 'a [$($listings)*]);
    };
}

listings!(with_listings);
