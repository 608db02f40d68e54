//! Puts.

use std::sync::Arc;

use connector_core::{CacheKey, MemoryObj, Result};

use super::lend::lend;
use super::store::Store;

impl Store {
    pub(crate) async fn put(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let name = self.name(key)?.into_owned();
        let identity = self.names.identity(key);
        let (bytes, released) = lend(chunk);
        let (store, operator) = (self.clone(), self.operator());
        self.run(async move {
            let entries = identity.into_iter().map(|(entry, value)| (entry.to_owned(), value));
            let written = operator.write_with(&name, bytes).user_metadata(entries).await;
            released.wait().await;
            written.map(drop).map_err(|e| store.error(e))
        })
        .await
    }
}
