//! The twin of `RemoteConnector` that can be a trait object. Private: authors and callers never see it.

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{Capabilities, RemoteConnector};
use crate::Result;
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::key::CacheKey;

macro_rules! erased {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        pub(crate) trait DynConnector: Send + Sync + 'static {
            fn capabilities(&self) -> Capabilities;
            fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>>;
            $(fn $name<'a>(&'a self, $($arg: $ty),*) -> BoxFuture<'a, $out>;)*
        }

        // Every method is forwarded by name: one that is forgotten does not compile, so an author's own version of an
        // optional method can never be passed over.
        impl<T: RemoteConnector> DynConnector for T {
            fn capabilities(&self) -> Capabilities {
                RemoteConnector::capabilities(self)
            }
            fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
                RemoteConnector::list(self, prefix)
            }
            $(fn $name<'a>(&'a self, $($arg: $ty),*) -> BoxFuture<'a, $out> {
                Box::pin(RemoteConnector::$name(self, $($arg),*))
            })*
        }
    };
}

erased! {
    exists(key: &'a CacheKey) -> Result<bool>;
    get(key: &'a CacheKey) -> Result<Option<MemoryObj>>;
    put(key: &'a CacheKey, chunk: MemoryObj) -> Result<()>;
    get_into(key: &'a CacheKey, dst: &'a mut MemoryObjMut) -> Result<Option<usize>>;
    remove(key: &'a CacheKey) -> Result<bool>;
    ping() -> Result<()>;
    close() -> Result<()>;
    batched_exists(keys: &'a [CacheKey]) -> Vec<Result<bool>>;
    batched_contains(keys: &'a [CacheKey]) -> Result<usize>;
    batched_get(keys: &'a [CacheKey]) -> Vec<Result<Option<MemoryObj>>>;
    batched_get_into(requests: &'a mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>>;
    batched_put(items: &'a [(CacheKey, MemoryObj)]) -> Vec<Result<()>>;
    batched_remove(keys: &'a [CacheKey]) -> Vec<Result<bool>>;
}
