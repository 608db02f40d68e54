//! Chunks: the layout of their bytes, and their memory.
//!
//! [`MemoryObj`] and [`MemoryObjMut`] relate as `Bytes` to `BytesMut`. Both have a [`ChunkLayout`] and hold a
//! [`Region`]: memory of the pool, of the heap, or of a foreign owner. The owner gets it back when the last of them
//! is dropped.

mod dtype;
mod format;
mod header;
mod layout;
mod memory;
mod region;
mod shape;

pub use dtype::Dtype;
pub use format::MemoryFormat;
pub use header::{ChunkHeader, MAX_HEADER_GROUPS};
pub use layout::{ChunkLayout, Group, Groups};
pub use memory::{MemoryObj, MemoryObjMut};
pub use region::Region;
pub use shape::Shape;
