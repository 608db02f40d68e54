//! The operations of a store.

use connector_core::{CacheKey, ChunkLayout, ConnectorContext, ErrorKind, LocalCpuBackend, MemoryObj, Result};
use futures::TryStreamExt;
use opendal::{OperationContext, Operator};

use super::errors::error;
use super::lend::lend;
use super::names::name;
use super::transport::transport;

/// An open bucket or container.
pub(crate) struct Store {
    operator: Operator,
    backend: LocalCpuBackend,
}

impl Store {
    /// The store of an OpenDAL service.
    pub(crate) fn new(service: impl opendal::Builder, ctx: &ConnectorContext) -> Result<Self> {
        let operator = Operator::new(service).map_err(error)?;
        let operator = operator.with_context(OperationContext::new().with_http_transport(transport()?));
        Ok(Self { operator, backend: ctx.local_cpu_backend().clone() })
    }

    pub(crate) async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.operator.exists(&name(key)).await.map_err(error)
    }

    pub(crate) async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let reader = self.operator.reader(&name(key)).await.map_err(error)?;
        let mut stream = reader.into_stream(..).await.map_err(error)?;
        let len = match stream.metadata().await {
            Ok(metadata) => metadata.content_length() as usize,
            Err(e) if e.kind() == opendal::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(e)),
        };
        let mut memory = self.backend.allocate(&ChunkLayout::binary(len)).await?;
        let mut at = 0;
        while let Some(part) = stream.try_next().await.map_err(error)? {
            for bytes in part {
                let Some(room) = memory.get_mut(at..at + bytes.len()) else {
                    return Err(connector_core::Error::new(ErrorKind::Corrupt, "the object is longer than announced"));
                };
                room.copy_from_slice(&bytes);
                at += bytes.len();
            }
        }
        Ok(Some(memory.freeze()))
    }

    pub(crate) async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let (bytes, released) = lend(chunk);
        let written = self.operator.write(&name(key), bytes).await;
        released.wait().await;
        written.map(drop).map_err(error)
    }
}
