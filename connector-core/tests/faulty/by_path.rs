//! Stores in memory that have a path: one reads its own, the other takes the module for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::{
    CacheKey, ChunkLayout, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
};

type Chunks = HashMap<CacheKey, (Vec<u8>, ChunkLayout)>;

/// The stores of this process, by host, port and path.
static STORES: Mutex<BTreeMap<String, Arc<Mutex<Chunks>>>> = Mutex::new(BTreeMap::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! store {
    ($type:ident, $name:literal, $scheme:literal, |$ctx:ident| $path:expr) => {
        /// A store of this path.
        #[external_connector(module = "test.by_path", name = $name, scheme = $scheme)]
        struct $type(Arc<Mutex<Chunks>>);

        impl FromContext for $type {
            async fn from_context($ctx: ConnectorContext) -> Result<Self> {
                let location = $ctx.location();
                let (host, port) = location.require_host_port()?;
                let place = format!("{host}:{port}{}", $path);
                Ok(Self(locked(&STORES).entry(place).or_default().clone()))
            }
        }

        impl RemoteConnector for $type {
            async fn exists(&self, key: &CacheKey) -> Result<bool> {
                Ok(locked(&self.0).contains_key(key))
            }

            async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
                let found = locked(&self.0).get(key).cloned();
                found.map(|(bytes, layout)| MemoryObj::from_vec(bytes, layout)).transpose()
            }

            async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
                locked(&self.0).insert(key.clone(), (chunk.to_vec(), chunk.layout().clone()));
                Ok(())
            }
        }
    };
}

store!(OwnPath, "OwnPath", "own-path", |ctx| ctx.location().path());
store!(ModuleAsPath, "ModuleAsPath", "module-as-path", |ctx| ctx.url().path());
