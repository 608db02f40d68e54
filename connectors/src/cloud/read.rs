//! Gets.

use std::sync::Arc;

use connector_core::{CacheKey, ChunkLayout, Error, ErrorKind, MemoryObj, Result};
use futures::TryStreamExt;

use super::store::Store;

impl Store {
    pub(crate) async fn get(self: &Arc<Self>, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let (name, key) = (self.name(key)?.into_owned(), key.clone());
        let (store, operator) = (self.clone(), self.operator());
        self.run(async move {
            let reader = operator.reader(&name).await.map_err(|e| store.error(e))?;
            let mut stream = reader.into_stream(..).await.map_err(|e| store.error(e))?;
            let len = match stream.metadata().await {
                Ok(metadata) if !store.names.is_of(&key, &metadata) => return Ok(None),
                Ok(metadata) => metadata.content_length() as usize,
                Err(e) if e.kind() == opendal::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(store.error(e)),
            };
            let mut memory = store.backend.allocate(&ChunkLayout::binary(len)).await?;
            let mut at = 0;
            while let Some(part) = stream.try_next().await.map_err(|e| store.error(e))? {
                for bytes in part {
                    let Some(room) = memory.get_mut(at..at + bytes.len()) else {
                        return Err(Error::new(ErrorKind::Corrupt, "the object is longer than announced"));
                    };
                    room.copy_from_slice(&bytes);
                    at += bytes.len();
                }
            }
            Ok(Some(memory.freeze()))
        })
        .await
    }
}
