use std::time::Duration;

use connector_core::{
    BoxStream, CacheKey, Capabilities, Connector, ConnectorContext, Diagnosis, FromContext, ListEntry, MemoryObj,
    MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector,
};
use futures::stream::{self, StreamExt};

use super::FaultyOptions;
use super::faults::{Fate, Faults};

/// Another store with latency, errors and misses, to test the code that uses a store.
///
/// URL: `faulty://?back=URL`, with the inner URL percent-encoded.
///
/// The rates of errors and misses are options. The same seed gives the same faults in every run.
#[external_connector(
    module = "kvconn.faulty",
    name = "FaultyConnector",
    scheme = "faulty",
    url = "faulty://?back=memory://example&error_rate=0.1",
    options = FaultyOptions
)]
pub struct FaultyConnector {
    behind: Connector,
    latency: Duration,
    faults: Faults,
}

impl FromContext for FaultyConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: FaultyOptions = ctx.options()?;
        options.check()?;
        let (latency, url) = (options.latency()?, options.behind(&ctx)?);
        Ok(Self { behind: ctx.open_behind(url).await?, latency, faults: Faults::new(&options) })
    }
}

impl FaultyConnector {
    async fn wait(&self) {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }

    /// One call. `missed` is its answer if the key is not found.
    async fn call<T>(
        &self,
        operation: &'static str,
        key: Option<&CacheKey>,
        missed: T,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.wait().await;
        match self.faults.next(operation, key.map_or("", CacheKey::as_str)) {
            Fate::Pass => work.await,
            Fate::Miss => Ok(missed),
            Fate::Fail(e) => Err(e),
        }
    }

    /// A batch. `work` is given the items that reach the store behind.
    async fn batch<T, I: Clone>(
        &self,
        operation: &'static str,
        items: &[I],
        key: impl Fn(&I) -> &CacheKey,
        missed: impl Fn() -> T,
        work: impl AsyncFnOnce(&[I]) -> Vec<Result<T>>,
    ) -> Vec<Result<T>> {
        self.wait().await;
        let fates: Vec<_> = items.iter().map(|item| self.faults.next(operation, key(item).as_str())).collect();
        if fates.iter().all(|fate| matches!(fate, Fate::Pass)) {
            return work(items).await;
        }
        let passing = items.iter().zip(&fates).filter(|(_, fate)| matches!(fate, Fate::Pass));
        let passing: Vec<I> = passing.map(|(item, _)| item.clone()).collect();
        let mut answers = work(&passing).await.into_iter();
        let answer = |fate| match fate {
            Fate::Pass => answers.next(),
            Fate::Miss => Some(Ok(missed())),
            Fate::Fail(e) => Some(Err(e)),
        };
        fates.into_iter().map_while(answer).collect()
    }

    /// The keys before the first one that has a fault.
    ///
    /// # Errors
    /// That of the first key.
    async fn leading<'k>(&self, operation: &'static str, keys: &'k [CacheKey]) -> Result<&'k [CacheKey]> {
        self.wait().await;
        for (n, key) in keys.iter().enumerate() {
            match self.faults.next(operation, key.as_str()) {
                Fate::Pass => {}
                Fate::Fail(e) if n == 0 => return Err(e),
                Fate::Miss | Fate::Fail(_) => return Ok(&keys[..n]),
            }
        }
        Ok(keys)
    }

    fn listing<'a, T: Send + 'a>(&'a self, items: BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        let start = async move {
            self.wait().await;
            match self.faults.next("list", "") {
                Fate::Fail(e) => stream::once(async { Err(e) }).boxed(),
                Fate::Pass | Fate::Miss => items,
            }
        };
        stream::once(start).flatten().boxed()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would bypass the store's own")]
impl RemoteConnector for FaultyConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.call("exists", Some(key), false, self.behind.exists(key)).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.call("get", Some(key), None, self.behind.get(key)).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.call("put", Some(key), (), self.behind.put(key, chunk)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.behind.capabilities()
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.call("get", Some(key), None, self.behind.get_into(key, dst)).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.call("remove", Some(key), false, self.behind.remove(key)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.listing(self.behind.list(prefix))
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        self.listing(self.behind.list_entries(prefix))
    }

    async fn ping(&self) -> Result<()> {
        self.call("ping", None, (), self.behind.ping()).await
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        self.call("servers", None, Vec::new(), self.behind.servers()).await
    }

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.behind.diagnose().await
    }

    async fn close(&self) -> Result<()> {
        self.behind.close().await
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch("exists", keys, |key| key, || false, async |keys| self.behind.batched_exists(keys).await).await
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        self.behind.batched_contains(self.leading("exists", keys).await?).await
    }

    async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        self.behind.get_prefix(self.leading("get", keys).await?).await
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        self.batch("get", keys, |key| key, || None, async |keys| self.behind.batched_get(keys).await).await
    }

    /// Asks the store behind for each run of requests without a fault, because their memory cannot be moved together.
    async fn batched_get_into(&self, mut requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        self.wait().await;
        let fates: Vec<_> = requests.iter().map(|(key, _)| self.faults.next("get", key.as_str())).collect();
        let mut answers = Vec::with_capacity(requests.len());
        for run in fates.chunk_by(|a, b| matches!((a, b), (Fate::Pass, Fate::Pass))) {
            let (part, rest) = requests.split_at_mut(run.len());
            requests = rest;
            match run {
                [Fate::Miss] => answers.push(Ok(None)),
                [Fate::Fail(e)] => answers.push(Err(e.clone())),
                _ => answers.extend(self.behind.batched_get_into(part).await),
            }
        }
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.batch("put", items, |(key, _)| key, || (), async |items| self.behind.batched_put(items).await).await
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch("remove", keys, |key| key, || false, async |keys| self.behind.batched_remove(keys).await).await
    }
}
