//! Puts.

use std::sync::Arc;

use connector_core::{CacheKey, MemoryObj, Result};
use opendal::options::WriteOptions;

use super::lend::lend;
use super::store::Store;

impl Store {
    pub(crate) async fn put(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let name = self.name(key)?.into_owned();
        let identity = self.names.identity(key);
        let (bytes, released) = lend(chunk);
        let (store, operator) = (self.clone(), self.operator());
        self.run(async move {
            let mut options = WriteOptions::default();
            store.entries.write(identity.into_iter().collect(), &mut options);
            let written = operator.write_options(&name, bytes, options).await;
            released.wait().await;
            written.map(drop).map_err(|e| store.error(e))
        })
        .await
    }
}
