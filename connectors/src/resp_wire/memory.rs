//! Reads the payload of a reply into a chunk's memory.

use connector_core::{ChunkLayout, MemoryObj, MemoryObjMut, Result};

use super::connection::Connection;
use crate::places::Place;

/// The memory that a chunk is read into.
pub(crate) trait Destination: Send + Sync {
    /// The result: the chunk, or its length if it is in the caller's memory.
    type Chunk: Send;

    /// The size of memory that exists before the answer; 0 if it is allocated for the answer.
    fn capacity(&self) -> usize;

    /// The server answered without a chunk.
    fn unused(&mut self) {}

    /// Reads the announced payload, which has the layout's length.
    ///
    /// # Errors
    /// The outer error comes from the connection, the inner one from the memory.
    fn read(
        &mut self,
        connection: &mut Connection,
        layout: ChunkLayout,
    ) -> impl Future<Output = Result<Result<Self::Chunk>>> + Send;
}

impl<D: Destination> Destination for &mut D {
    type Chunk = D::Chunk;

    fn capacity(&self) -> usize {
        (**self).capacity()
    }

    fn unused(&mut self) {
        (**self).unused();
    }

    async fn read(&mut self, connection: &mut Connection, layout: ChunkLayout) -> Result<Result<D::Chunk>> {
        (**self).read(connection, layout).await
    }
}

impl Destination for Place {
    type Chunk = MemoryObj;

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn unused(&mut self) {
        self.unused();
    }

    async fn read(&mut self, connection: &mut Connection, layout: ChunkLayout) -> Result<Result<MemoryObj>> {
        match self.memory(layout, connection.payload_starts()).await? {
            Ok(memory) => connection.payload(memory).await?,
            Err(e) => return connection.refuse(e).await,
        }
        Ok(self.chunk())
    }
}

/// The caller's memory, and the number of bytes in it. `SizeMismatch` if they do not fit.
impl Destination for MemoryObjMut {
    type Chunk = usize;

    fn capacity(&self) -> usize {
        self.len()
    }

    async fn read(&mut self, connection: &mut Connection, layout: ChunkLayout) -> Result<Result<usize>> {
        let len = layout.len;
        match self.set_layout(layout) {
            Ok(()) => connection.payload(self).await.map(|()| Ok(len)),
            Err(e) => connection.refuse(e).await,
        }
    }
}
