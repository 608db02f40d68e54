//! A store that tests control: it records its calls, and waits or fails on demand.
//!
//! `controlled://name` opens it. `control("name")` controls it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use connectors::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, Error, ErrorKind, FromContext, MemoryObj, RemoteConnector,
    Result, external_connector,
};
use futures::stream::{self, StreamExt};
use tokio::sync::watch;

type MakeError = fn() -> Error;

#[derive(Default)]
pub(crate) struct Control {
    pub(crate) chunks: Mutex<HashMap<CacheKey, MemoryObj>>,
    /// Every call so far, for example `get KEY` or `batched_get 3`.
    pub(crate) calls: Mutex<Vec<String>>,
    failing: Mutex<HashMap<&'static str, MakeError>>,
    held: watch::Sender<HashSet<String>>,
}

static ALL: LazyLock<Mutex<HashMap<String, Arc<Control>>>> = LazyLock::new(Mutex::default);

pub(crate) fn control(name: &str) -> Arc<Control> {
    ALL.lock().unwrap().entry(name.to_owned()).or_default().clone()
}

impl Control {
    /// Makes this operation fail.
    pub(crate) fn fail(&self, operation: &'static str) {
        self.fail_with(operation, || Error::new(ErrorKind::Unavailable, "the test wants a failure").temporary(true));
    }

    /// Makes this operation fail with this error.
    pub(crate) fn fail_with(&self, operation: &'static str, error: MakeError) {
        self.failing.lock().unwrap().insert(operation, error);
    }

    pub(crate) fn heal(&self) {
        self.failing.lock().unwrap().clear();
    }

    /// Holds this operation (`put`) or this call (`put KEY`): it starts, but does not end.
    pub(crate) fn hold(&self, call: &str) {
        self.held.send_modify(|held| {
            held.insert(call.to_owned());
        });
    }

    pub(crate) fn release(&self) {
        self.held.send_modify(HashSet::clear);
    }

    /// The number of recorded calls that start with `call`.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|c| c.starts_with(call)).count()
    }

    pub(crate) fn stored(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.chunks.lock().unwrap().get(key).cloned()
    }

    pub(crate) fn store(&self, key: &CacheKey, chunk: MemoryObj) {
        self.chunks.lock().unwrap().insert(key.clone(), chunk);
    }

    async fn enter(&self, operation: &'static str, what: impl std::fmt::Display) -> Result<()> {
        let call = format!("{operation} {what}");
        self.calls.lock().unwrap().push(call.clone());
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held.contains(operation) && !held.contains(&call)).await.unwrap();
        let failing = self.failing.lock().unwrap().get(operation).copied();
        failing.map_or(Ok(()), |error| Err(error()))
    }
}

#[external_connector(module = "test.controlled", name = "ControlledConnector", scheme = "controlled")]
pub(crate) struct ControlledConnector(Arc<Control>);

impl FromContext for ControlledConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        Ok(Self(control(ctx.url().host().unwrap())))
    }
}

impl RemoteConnector for ControlledConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.enter("exists", key).await?;
        Ok(self.0.stored(key).is_some())
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        // The chunk at the start of the call, as from a slow server.
        let stored = self.0.stored(key);
        self.0.enter("get", key).await?;
        Ok(stored)
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.enter("put", key).await?;
        self.0.store(key, MemoryObj::from_vec(chunk.to_vec(), chunk.layout().clone())?);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_remove().with_list().with_ping().with_layout_kept()
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.0.enter("remove", key).await?;
        Ok(self.0.chunks.lock().unwrap().remove(key).is_some())
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        stream::once(self.0.enter("list", prefix))
            .map(move |entered| match entered {
                Ok(()) => {
                    let keys: Vec<CacheKey> = self.0.chunks.lock().unwrap().keys().cloned().collect();
                    keys.into_iter().filter(|k| k.as_str().starts_with(prefix)).map(Ok).collect()
                }
                Err(e) => vec![Err(e)],
            })
            .flat_map(stream::iter)
            .boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.0.enter("ping", "").await
    }

    async fn close(&self) -> Result<()> {
        self.0.enter("close", "").await
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let stored: Vec<_> = keys.iter().map(|key| self.0.stored(key)).collect();
        match self.0.enter("batched_get", keys.len()).await {
            Ok(()) => stored.into_iter().map(Ok).collect(),
            Err(e) => keys.iter().map(|_| Err(e.clone())).collect(),
        }
    }

    /// One call, and then a `put` of each key.
    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        if let Err(e) = self.0.enter("batched_put", items.len()).await {
            return items.iter().map(|_| Err(e.clone())).collect();
        }
        futures::future::join_all(items.iter().map(|(key, chunk)| self.put(key, chunk.clone()))).await
    }

    /// One call, and then a `remove` of each key.
    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        if let Err(e) = self.0.enter("batched_remove", keys.len()).await {
            return keys.iter().map(|_| Err(e.clone())).collect();
        }
        futures::future::join_all(keys.iter().map(|key| self.remove(key))).await
    }
}
