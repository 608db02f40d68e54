//! The capabilities of the connector in memory.

use connector_core::{Capabilities, Dtype};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Every operation, any chunk under any key.
    Full,
    /// Only the three required operations, raw values, and a limit of each kind.
    Plain,
    /// Every operation, raw values, only object keys, and memory of exactly the chunk's length.
    Exact,
}

impl Profile {
    pub(crate) fn capabilities(self) -> Capabilities {
        match self {
            Self::Full => Capabilities::new().with_remove().with_list().with_ping().with_layout_kept(),
            Self::Exact => {
                Capabilities::new().with_remove().with_list().with_ping().with_object_keys_only().with_exact_length()
            }
            Self::Plain => Capabilities::new()
                .with_max_key_bytes(200)
                .with_max_chunk_bytes(100_000)
                .with_dtypes(&[Dtype::Float16, Dtype::Bfloat16]),
        }
    }
}
