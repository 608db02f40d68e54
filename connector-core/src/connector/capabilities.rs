//! The operations and limits of a store.

use crate::chunk::Dtype;
use crate::key::KeyKind;

/// The operations and limits of a store. Everything is off by default; an author turns on what the connector has.
///
/// ```
/// use connector_core::Capabilities;
/// let c = Capabilities::new().with_remove().with_list().with_layout_kept();
/// assert!(c.remove && !c.ping);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// `remove` and `batched_remove` work.
    pub remove: bool,
    /// `list` works.
    pub list: bool,
    /// `ping` works.
    pub ping: bool,
    /// Shape, dtype and format come back as they were put. Otherwise the value is raw: they come from the engine's
    /// metadata, or the chunk is BINARY. See [`keeps_layout_of`](Self::keeps_layout_of) for one kind of key.
    pub keeps_layout: bool,
    /// Values of object keys are raw even if `keeps_layout` is set, as in LMCache's files.
    pub raw_object_keys: bool,
    /// Only object keys can be stored. A call with another key fails with `InvalidKey`.
    pub object_keys_only: bool,
    /// `get_into` with memory of another length than the chunk's is a miss, because the store's chunks say nothing else
    /// about their layout. Otherwise a chunk that does not fit is an error.
    pub exact_length: bool,
    /// The parts of a chunk lie on several servers. A `get` during a `put` of the same key may be a miss or
    /// [`Corrupt`](crate::ErrorKind::Corrupt). Two puts of one key at the same time may leave a part of each, which is
    /// `Corrupt` unless the parts fit, until the next put.
    pub puts_in_parts: bool,
    /// Longest key text that can be stored, in bytes.
    pub max_key_bytes: Option<usize>,
    /// Longest chunk that can be stored, in bytes.
    pub max_chunk_bytes: Option<u64>,
    /// Dtypes that can be stored; `None` for any.
    pub dtypes: Option<&'static [Dtype]>,
    /// How many calls a default batch runs at once: 8 unless set. A store with long calls, such as an object store,
    /// needs 32 to 64.
    pub batch_concurrency: usize,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            remove: false,
            list: false,
            ping: false,
            keeps_layout: false,
            raw_object_keys: false,
            object_keys_only: false,
            exact_length: false,
            puts_in_parts: false,
            max_key_bytes: None,
            max_chunk_bytes: None,
            dtypes: None,
            batch_concurrency: 8,
        }
    }
}

impl Capabilities {
    /// No optional operation and no limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `remove`.
    #[must_use]
    pub fn with_remove(mut self) -> Self {
        self.remove = true;
        self
    }

    /// Has `list`.
    #[must_use]
    pub fn with_list(mut self) -> Self {
        self.list = true;
        self
    }

    /// Has `ping`.
    #[must_use]
    pub fn with_ping(mut self) -> Self {
        self.ping = true;
        self
    }

    /// Keeps shape, dtype and format.
    #[must_use]
    pub fn with_layout_kept(mut self) -> Self {
        self.keeps_layout = true;
        self
    }

    /// Keeps only the bytes of an object key's chunk.
    #[must_use]
    pub fn with_raw_object_keys(mut self) -> Self {
        self.raw_object_keys = true;
        self
    }

    /// Stores nothing but object keys.
    #[must_use]
    pub fn with_object_keys_only(mut self) -> Self {
        self.object_keys_only = true;
        self
    }

    /// Misses a chunk of another length than the memory for it.
    #[must_use]
    pub fn with_exact_length(mut self) -> Self {
        self.exact_length = true;
        self
    }

    /// Puts the parts of a chunk on several servers.
    #[must_use]
    pub fn with_puts_in_parts(mut self) -> Self {
        self.puts_in_parts = true;
        self
    }

    /// Whether shape, dtype and format of a chunk under such a key come back as they were put.
    pub fn keeps_layout_of(&self, kind: KeyKind) -> bool {
        self.keeps_layout && !(self.raw_object_keys && kind == KeyKind::Object)
    }

    /// Keys have at most `bytes` bytes.
    #[must_use]
    pub fn with_max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = Some(bytes);
        self
    }

    /// Chunks have at most `bytes` bytes.
    #[must_use]
    pub fn with_max_chunk_bytes(mut self, bytes: u64) -> Self {
        self.max_chunk_bytes = Some(bytes);
        self
    }

    /// A default batch runs `calls` calls at once, at least one.
    #[must_use]
    pub fn with_batch_concurrency(mut self, calls: usize) -> Self {
        self.batch_concurrency = calls;
        self
    }

    /// Only chunks of these dtypes can be stored.
    #[must_use]
    pub fn with_dtypes(mut self, dtypes: &'static [Dtype]) -> Self {
        self.dtypes = Some(dtypes);
        self
    }
}
