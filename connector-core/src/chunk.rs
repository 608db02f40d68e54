//! Chunks: what their bytes are, and the memory they live in.
//!
//! [`MemoryObj`] and [`MemoryObjMut`] relate as `Bytes` to `BytesMut`. Both carry a [`ChunkLayout`] and hold a
//! [`Region`]: memory of the pool, of the heap, or of somebody else, who gets it back when the last of them is dropped.

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
