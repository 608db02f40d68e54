//! A connector with options, listings, timers, tasks, locks, threads and log lines. Its only dependency is `connector-core`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use connector_core::futures::stream::{self, StreamExt};
use connector_core::serde::{Deserialize, Serialize};
use connector_core::tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use connector_core::tokio::task::JoinHandle;
use connector_core::tokio::{select, time};
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkLayout, ConnectorContext, ConnectorOptions, Error, ErrorKind, FromContext,
    MemoryObj, RemoteConnector, RemoteUrl, Result, connector_options, external_connector, metrics, tracing,
};

/// Options of `one://`.
#[connector_options]
#[derive(Debug, Clone)]
pub struct OneOptions {
    /// Longest time of a put.
    #[option(unit = "ms")]
    put_timeout_ms: u64,
    /// Password of the store.
    #[option(secret)]
    password: Option<String>,
    /// The order of a listing.
    order: Order,
    /// A store behind this one.
    behind: Option<RemoteUrl>,
    /// The limits.
    #[option(flatten)]
    limits: Limits,
}

impl Default for OneOptions {
    fn default() -> Self {
        Self { put_timeout_ms: 10_000, password: None, order: Order::Rising, behind: None, limits: Limits::default() }
    }
}

impl ConnectorOptions for OneOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "one_";
}

/// Limits of `one://`.
#[connector_options]
#[derive(Debug, Clone)]
struct Limits {
    /// Most puts at once.
    puts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { puts: 4 }
    }
}

/// The order of a listing.
#[connector_options]
#[derive(Debug, Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// By the key's text.
    #[default]
    Rising,
    /// The other way round.
    Falling,
}

/// The state of a store, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(crate = "connector_core::serde")]
struct State {
    puts: u64,
}

type Chunks = Arc<Mutex<BTreeMap<String, (CacheKey, Vec<u8>, ChunkLayout)>>>;
type Put = (CacheKey, MemoryObj, oneshot::Sender<Result<()>>);

/// Keeps chunks in a map that a task of its own fills.
#[external_connector(module = "one.kv", name = "OneConnector", scheme = "one", options = OneOptions)]
#[derive(Debug)]
pub struct OneConnector {
    options: OneOptions,
    chunks: Chunks,
    puts: mpsc::Sender<Put>,
    limit: Semaphore,
    counted: AtomicU64,
    task: JoinHandle<()>,
}

impl FromContext for OneConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: OneOptions = ctx.options()?;
        let chunks = Chunks::default();
        let (puts, queue) = mpsc::channel(16);
        let task = ctx.handle().spawn(fill(chunks.clone(), queue));
        tracing::debug!(order = ?options.order, behind = options.behind.is_some(), "opened");
        let limit = Semaphore::new(options.limits.puts);
        Ok(Self { options, chunks, puts, limit, counted: AtomicU64::new(0), task })
    }
}

/// Copies each chunk on a blocking thread, and then stores it.
async fn fill(chunks: Chunks, mut queue: mpsc::Receiver<Put>) {
    while let Some((key, chunk, answer)) = queue.recv().await {
        let copied = connector_core::tokio::task::spawn_blocking(move || (chunk.to_vec(), chunk.layout().clone())).await;
        let stored = match copied {
            Ok((bytes, layout)) => {
                chunks.lock().await.insert(key.to_string(), (key, bytes, layout));
                Ok(())
            }
            Err(e) => Err(Error::new(ErrorKind::Io, format!("the copy failed: {e}"))),
        };
        // A put that was dropped reads no answer.
        let _ = answer.send(stored);
    }
}

impl OneConnector {
    /// The number of puts, as JSON.
    fn state(&self) -> String {
        let state = State { puts: self.counted.load(Ordering::Relaxed) };
        connector_core::serde_json::to_string(&state).unwrap_or_default()
    }
}

impl RemoteConnector for OneConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.chunks.lock().await.contains_key(&key.to_string()))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let found = self.chunks.lock().await.get(&key.to_string()).cloned();
        found.map(|(_, bytes, layout)| MemoryObj::from_vec(bytes, layout)).transpose()
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let _permit = self.limit.acquire().await.map_err(|_| Error::new(ErrorKind::Closed, "the store is closed"))?;
        let (answer, stored) = oneshot::channel();
        let lost = || Error::new(ErrorKind::Unavailable, "the task of the store has ended");
        let put = async {
            self.puts.send((key.clone(), chunk, answer)).await.map_err(|_| lost())?;
            stored.await.map_err(|_| lost())?
        };
        self.counted.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("one_puts").increment(1);
        select! {
            stored = put => stored,
            () = time::sleep(Duration::from_millis(self.options.put_timeout_ms)) => {
                Err(Error::new(ErrorKind::Timeout, "the put took too long").with_hint("raise `put_timeout_ms`"))
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_layout_kept().with_remove().with_list().with_ping()
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.chunks.lock().await.remove(&key.to_string()).is_some())
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let found = async move {
            let chunks = self.chunks.lock().await;
            let matching = chunks.iter().filter(|(text, _)| text.starts_with(prefix));
            let mut keys: Vec<CacheKey> = matching.map(|(_, (key, ..))| key.clone()).collect();
            if matches!(self.options.order, Order::Falling) {
                keys.reverse();
            }
            stream::iter(keys).map(Ok)
        };
        stream::once(found).flatten().boxed()
    }

    async fn ping(&self) -> Result<()> {
        tracing::trace!(state = self.state(), password = self.options.password.is_some(), "ping");
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.limit.close();
        self.task.abort();
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    connector_core::conformance_tests!("one://localhost:0");
}

#[cfg(test)]
mod tests {
    use connector_core::futures::TryStreamExt;
    use connector_core::tokio;

    use super::*;

    #[tokio::test]
    async fn options_of_every_kind_reach_the_connector() -> Result<()> {
        let url = "one://localhost:0?order=falling&puts=1&put_timeout_ms=500&password=p&behind=one://localhost:1";
        let store = connector_core::open(url).await?;
        for hash in ["1a", "1b"] {
            let key: CacheKey = format!("model@1@0@{hash}@half").parse()?;
            store.put(&key, MemoryObj::from(b"hello".to_vec())).await?;
        }
        let keys: Vec<CacheKey> = store.list("model@").try_collect().await?;
        assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>(), ["model@1@0@1b@half", "model@1@0@1a@half"]);
        let wrong = connector_core::open("one://localhost:0?order=sideways").await.unwrap_err();
        assert!(wrong.to_string().contains("rising"), "{wrong}");
        let joined = connector_core::futures::future::join_all([store.ping(), store.ping()]).await;
        assert!(joined.into_iter().all(|pinged| pinged.is_ok()));
        store.close().await
    }

    #[test]
    fn every_name_and_scheme_is_unique() -> Result<()> {
        connector_core::registry::validate()
    }
}
