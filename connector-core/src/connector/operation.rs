//! The table of operations, and their names.

use std::fmt;

/// All operations that give one answer; [`listings!`] has those that give a stream. To add an operation, add a line here, its meaning to
/// [`RemoteConnector`](super::RemoteConnector) and a method to [`Connector`](super::Connector). The table generates the rest.
///
/// `operations!(then 'l ..)` expands to `then! { .. rows }`, where each argument that is a reference has the lifetime `'l`.
/// The first word of a row is its shape:
/// - `one`: an answer to one call. A layer tries it again as a whole.
/// - `into`, `batch_into`: reads into the caller's memory. Retries and the blocking API move that memory by hand.
/// - `batch`: an answer for each item of a slice. A layer tries the failed items again.
/// - `lead`: one answer for a slice of keys.
/// - `close`: passes through all layers.
macro_rules! operations {
    ($then:ident $l:lifetime $($with:tt)*) => {
        $then! {
            $($with)*
            one Exists exists(key: &$l CacheKey) -> Result<bool>;
            one Get get(key: &$l CacheKey) -> Result<Option<MemoryObj>>;
            one Put put(key: &$l CacheKey, chunk: MemoryObj) -> Result<()>;
            into GetInto get_into(key: &$l CacheKey, dst: &$l mut MemoryObjMut) -> Result<Option<usize>>;
            one Remove remove(key: &$l CacheKey) -> Result<bool>;
            one Ping ping() -> Result<()>;
            one Servers servers() -> Result<Vec<ServerInfo>>;
            one Diagnose diagnose() -> Result<Vec<Diagnosis>>;
            close Close close() -> Result<()>;
            batch BatchedExists batched_exists(keys: &$l [CacheKey]) -> Vec<Result<bool>>;
            lead BatchedContains batched_contains(keys: &$l [CacheKey]) -> Result<usize>;
            batch BatchedGet batched_get(keys: &$l [CacheKey]) -> Vec<Result<Option<MemoryObj>>>;
            batch_into BatchedGetInto batched_get_into(requests: &$l mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>>;
            batch BatchedPut batched_put(items: &$l [(CacheKey, MemoryObj)]) -> Vec<Result<()>>;
            batch BatchedRemove batched_remove(keys: &$l [CacheKey]) -> Vec<Result<bool>>;
            lead GetPrefix get_prefix(keys: &$l [CacheKey]) -> Result<Vec<MemoryObj>>;
        }
    };
}
pub(crate) use operations;

/// The operations that give a stream, with the type of its items. Each takes the prefix of the keys' texts.
macro_rules! listings {
    ($then:ident $($with:tt)*) => {
        $then! {
            $($with)*
            List list CacheKey;
            ListEntries list_entries ListEntry;
        }
    };
}
pub(crate) use listings;

/// Implements the listings of a `RemoteConnector` by those of the connector that `|this| ..` returns. `|items| ..` gives the
/// stream, and `items()` starts the inner one.
macro_rules! list_by {
    (|$this:ident| $inner:expr, |$items:ident| $listing:expr; $($op:ident $name:ident $item:ty;)*) => {
        $(fn $name<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<$item>> {
            let $this = self;
            let $items = || $inner.$name(prefix);
            $listing
        })*
    };
}
pub(crate) use list_by;

/// Methods of an `impl RemoteConnector` that call the same method of the connector that `|this| ..` returns.
macro_rules! forward {
    (|$this:ident| $to:expr; $($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        $(async fn $name(&self, $($arg: $ty),*) -> $out {
            let $this = self;
            $to.$name($($arg),*).await
        })*
    };
}
pub(crate) use forward;

macro_rules! define_operation {
    ([$($list_op:ident $list:ident $item:ty;)*] $($shape:ident $op:ident $name:ident($($args:tt)*) -> $out:ty;)*) => {
        /// An operation of a connector, as errors, spans and metrics name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "each is the method of its name")]
        pub enum Operation {
            $($list_op,)*
            $($op,)*
        }

        impl Operation {
            /// All operations.
            pub const ALL: [Self; [$(Self::$list_op,)* $(Self::$op),*].len()] = [$(Self::$list_op,)* $(Self::$op),*];

            /// The method's name: `batched_get`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$list_op => stringify!($list),)*
                    $(Self::$op => stringify!($name),)*
                }
            }

            /// Whether the operation asks which keys exist, and moves no chunk.
            pub(crate) fn is_lookup(self) -> bool {
                matches!(self, Self::Exists | Self::BatchedExists | Self::BatchedContains)
            }

            /// Whether the operation is about several keys.
            pub(crate) fn is_batch(self) -> bool {
                match self {
                    $(Self::$list_op => false,)*
                    $(Self::$op => matches!(stringify!($shape), "batch" | "batch_into" | "lead"),)*
                }
            }
        }
    };
}

macro_rules! with_listings {
    ($($listings:tt)*) => {
        operations!(define_operation '_ [$($listings)*]);
    };
}

listings!(with_listings);

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
