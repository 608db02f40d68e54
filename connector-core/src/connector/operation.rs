//! The operations of a connector, by name.

use std::fmt;

/// An operation of a connector: what errors, spans and metrics call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Operation {
    Exists,
    Get,
    Put,
    GetInto,
    Remove,
    List,
    Ping,
    Close,
    BatchedExists,
    BatchedContains,
    BatchedGet,
    BatchedGetInto,
    BatchedPut,
    BatchedRemove,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Exists,
        Self::Get,
        Self::Put,
        Self::GetInto,
        Self::Remove,
        Self::List,
        Self::Ping,
        Self::Close,
        Self::BatchedExists,
        Self::BatchedContains,
        Self::BatchedGet,
        Self::BatchedGetInto,
        Self::BatchedPut,
        Self::BatchedRemove,
    ];

    /// The method's name: `batched_get`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Get => "get",
            Self::Put => "put",
            Self::GetInto => "get_into",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Ping => "ping",
            Self::Close => "close",
            Self::BatchedExists => "batched_exists",
            Self::BatchedContains => "batched_contains",
            Self::BatchedGet => "batched_get",
            Self::BatchedGetInto => "batched_get_into",
            Self::BatchedPut => "batched_put",
            Self::BatchedRemove => "batched_remove",
        }
    }

    /// Whether it is about several keys.
    pub const fn is_batch(self) -> bool {
        matches!(
            self,
            Self::BatchedExists
                | Self::BatchedContains
                | Self::BatchedGet
                | Self::BatchedGetInto
                | Self::BatchedPut
                | Self::BatchedRemove
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
