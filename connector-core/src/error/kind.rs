//! The kinds of errors, and whether another try may help.

use std::fmt;

/// Defines [`ErrorKind`] from a table of its kinds and their names.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kind of an error, to match on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds.
            pub const ALL: [Self; [$(Self::$kind),*].len()] = [$(Self::$kind),*];

            /// The kind in snake case, for logs and metrics: `pool_full`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The URL cannot be read, or lacks a part that its connector needs.
    InvalidUrl = "invalid_url",
    /// The text is not a key, or the store cannot name this key.
    InvalidKey = "invalid_key",
    /// An option, a configuration file or an environment variable is wrong or unknown.
    InvalidOption = "invalid_option",
    /// The call does not allow this layout or value.
    InvalidInput = "invalid_input",
    /// No connector or adapter of that name or scheme is linked into this binary. A chunk that is not stored is not an error.
    NotFound = "not_found",
    /// Two connectors claim one name, or one scheme is claimed twice.
    Conflict = "conflict",
    /// The connector does not have this operation, or cannot store this kind of chunk.
    Unsupported = "unsupported",
    /// The connector was closed.
    Closed = "closed",
    /// The local pool has no free memory to read into. It may have some when a chunk is dropped.
    PoolFull = "pool_full",
    /// The store has no room: a full disk, a quota, redis at its `maxmemory`.
    StoreFull = "store_full",
    /// The chunk can never fit: it is larger than the pool, the store, or a limit of the server.
    TooLarge = "too_large",
    /// A chunk does not fit the memory that the caller gave for it. Other memory may fit, unlike with
    /// [`TooLarge`](Self::TooLarge).
    SizeMismatch = "size_mismatch",
    /// The store returned bytes that are short, torn, or not a chunk.
    Corrupt = "corrupt",
    /// The store did not answer in time.
    Timeout = "timeout",
    /// The store cannot be reached, or the connection to it broke.
    Unavailable = "unavailable",
    /// The store asks for fewer requests.
    Throttled = "throttled",
    /// The store takes no writes: a read-only file system, a replica.
    ReadOnly = "read_only",
    /// The store refused access: a wrong password, a missing permission.
    Denied = "denied",
    /// Another error of the operating system.
    Io = "io",
    /// Anything else that a connector reports.
    Other = "other",
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorStatus {
    /// The same call fails again until the caller or an operator changes something.
    Permanent,
    /// The same call may succeed later without a change. A retry layer tries it again.
    Temporary,
    /// A temporary error that lasted through all retries. The call may succeed later, but no other retry layer tries it again.
    Persistent,
}

impl ErrorStatus {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Temporary => "temporary",
            Self::Persistent => "persistent",
        }
    }
}
