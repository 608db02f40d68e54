use std::sync::atomic::{AtomicU64, Ordering};

use connector_core::connector::Gate;
use connector_core::{
    BoxStream, CacheKey, Capabilities, Connector, ConnectorContext, Error, ErrorKind, FromContext, LocalCpuBackend,
    MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::future::join;
use futures::stream::{self, StreamExt};
use tokio::runtime::Handle;

use super::checksum::Checksum;
use super::log::{Call, Log, Tally};
use super::registry::{Before, Put, Registry, Verdict};
use super::seen::{Owner, Watched, Witnessed, checksum_of};
use super::{AuditOptions, ChecksumKind};

/// Logs what the store behind it does, and checks that it gives back what was put.
///
/// The store behind is named in LMCache's configuration (`audit_actual_remote_url`) or in the URL.
#[external_connector(module = "kvconn.audit", name = "AuditConnector", scheme = "audit", options = AuditOptions)]
pub struct AuditConnector {
    behind: Connector,
    log: Log,
    handle: Handle,
    /// `None` if no checksums are calculated.
    checksums: Option<ChecksumKind>,
    owner: Owner,
    /// `None` if none is verified.
    registry: Option<Registry>,
    mismatches: AtomicU64,
    /// A hash outlives the put that was dropped.
    gate: Gate,
}

impl FromContext for AuditConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: AuditOptions = ctx.options()?;
        let url = options.behind(&ctx)?;
        let store = url.to_string();
        let verifies = options.verifies();
        let checksums = (verifies || options.calc_checksum).then_some(options.checksum);
        let owner = Owner::new();
        let behind = if checksums == Some(ChecksumKind::Blake3) {
            let witnessed = Witnessed { backend: ctx.local_cpu_backend().clone(), owner };
            ctx.with_local_cpu_backend(LocalCpuBackend::with_allocator(witnessed)).open_behind(url).await?
        } else {
            ctx.open_behind(url).await?
        };
        let registry = verifies.then(|| Registry::new(options.max_checksums));
        let excluded = options.excluded();
        tracing::info!(target: "kvconn::audit", store, ?checksums, verifies, ?excluded, "INITIALIZED");
        let log = Log { store, excluded };
        let (handle, mismatches, gate) = (ctx.handle().clone(), AtomicU64::new(0), Gate::new());
        Ok(Self { behind, log, handle, checksums, owner, registry, mismatches, gate })
    }
}

impl AuditConnector {
    fn read_begins(&self, key: &CacheKey) -> Option<Before> {
        self.registry.as_ref().map(|registry| registry.read_begins(key))
    }

    /// Whether bytes can be hashed as they arrive.
    fn watches(&self) -> bool {
        self.checksums == Some(ChecksumKind::Blake3)
    }

    /// Checks a chunk that was read, by what was seen of it if it was seen arriving.
    async fn check_chunk(
        &self,
        call: &Call<'_>,
        key: &CacheKey,
        before: Option<Before>,
        chunk: &mut MemoryObj,
    ) -> Result<Option<Checksum>> {
        let seen = if self.watches() { checksum_of(chunk, self.owner) } else { None };
        self.check(call, key, before, seen, chunk).await
    }

    /// Compares the checksum of what was read; calculates it if nobody saw the bytes arrive.
    async fn check(
        &self,
        call: &Call<'_>,
        key: &CacheKey,
        before: Option<Before>,
        seen: Option<Checksum>,
        bytes: &[u8],
    ) -> Result<Option<Checksum>> {
        let Some(kind) = self.checksums else { return Ok(None) };
        let sum = match seen {
            Some(sum) => sum,
            None => Checksum::of_read(kind, bytes).await,
        };
        let Some((registry, before)) = self.registry.as_ref().zip(before) else { return Ok(Some(sum)) };
        match registry.read_ended(key, before, sum) {
            Verdict::Right | Verdict::Unknown => Ok(Some(sum)),
            Verdict::Wrong(expected) => {
                let mismatches = self.mismatches.fetch_add(1, Ordering::Relaxed) + 1;
                call.mismatch(key, bytes.len(), expected, sum, mismatches);
                let message = format!("the chunk's checksum is {sum}.., but a chunk of {expected}.. was put");
                Err(Error::new(ErrorKind::Corrupt, message)
                    .with_hint("it changed on its way or in the store, or another process has put another one"))
            }
        }
    }

    /// Writes while the checksums are calculated. `stored` says of each item whether the answer calls it stored.
    async fn put_all<T>(
        &self,
        items: &[(&CacheKey, &MemoryObj)],
        write: impl Future<Output = T>,
        stored: impl Fn(&T, usize) -> bool,
    ) -> (T, Vec<Option<Checksum>>) {
        let Some(kind) = self.checksums else { return (write.await, vec![None; items.len()]) };
        let puts: Vec<Option<Put>> =
            items.iter().map(|(key, _)| self.registry.as_ref().map(|r| r.put_begins(key))).collect();
        let sums: Vec<_> = puts.iter().map(|put| put.as_ref().map(Put::sum).unwrap_or_default()).collect();
        let known = {
            let (sums, pass) = (sums.clone(), self.gate.enter().ok());
            move |n: usize, sum| {
                let _pass = &pass;
                let _ = sums[n].set(sum);
            }
        };
        let chunks = items.iter().map(|(_, chunk)| (*chunk).clone()).collect();
        // A hash that is lost leaves its key unknown, and the chunk stored.
        let (_, answer) = join(Checksum::of_put(&self.handle, kind, chunks, known), write).await;
        for (n, put) in puts.into_iter().enumerate() {
            if let Some(put) = put {
                put.end(stored(&answer, n));
            }
        }
        (answer, sums.iter().map(|sum| sum.get().copied()).collect())
    }

    /// Forwards a call that has no chunk in it.
    async fn plain<T>(
        &self,
        operation: &'static str,
        key: Option<&CacheKey>,
        work: impl Future<Output = Result<T>>,
        is_miss: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let call = self.log.call(operation, key);
        let answer = work.await;
        match &answer {
            Ok(value) if is_miss(value) => call.miss(),
            Ok(_) => call.success(None, None),
            Err(e) => call.failed(e),
        }
        answer
    }

    /// The same for a batch.
    async fn plain_batch<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Vec<Result<T>>>,
        is_hit: impl Fn(&T) -> bool,
    ) -> Vec<Result<T>> {
        let call = self.log.call(operation, None);
        let answers = work.await;
        call.batch(&tally(&answers, |value| is_hit(value).then_some(0)));
        answers
    }
}

fn tally<T>(answers: &[Result<T>], size_of_hit: impl Fn(&T) -> Option<usize>) -> Tally {
    let mut tally = Tally { keys: answers.len(), ..Tally::default() };
    for answer in answers {
        match answer.as_ref().map(&size_of_hit) {
            Ok(Some(size)) => {
                tally.hits += 1;
                tally.size += size;
            }
            Ok(None) => {}
            Err(_) => tally.failed += 1,
        }
    }
    tally
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would pass over the store's own")]
impl RemoteConnector for AuditConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.plain("exists", Some(key), self.behind.exists(key), |there| !there).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let call = self.log.call("get", Some(key));
        let before = self.read_begins(key);
        match self.behind.get(key).await {
            Ok(Some(mut chunk)) => match self.check_chunk(&call, key, before, &mut chunk).await {
                Ok(sum) => {
                    call.success(Some(chunk.len()), sum);
                    Ok(Some(chunk))
                }
                Err(e) => {
                    call.said();
                    Err(e)
                }
            },
            Ok(None) => {
                call.miss();
                Ok(None)
            }
            Err(e) => {
                call.failed(&e);
                Err(e)
            }
        }
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let call = self.log.call("put", Some(key));
        let size = chunk.len();
        let items = [(key, &chunk)];
        let (answer, sums) = self.put_all(&items, self.behind.put(key, chunk.clone()), |a, _| a.is_ok()).await;
        match &answer {
            Ok(()) => call.success(Some(size), sums[0]),
            Err(e) => call.failed(e),
        }
        answer
    }

    fn capabilities(&self) -> Capabilities {
        self.behind.capabilities()
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let call = self.log.call("get_into", Some(key));
        let before = self.read_begins(key);
        let watched = Watched::new(dst, self.owner, self.watches());
        let answer = self.behind.get_into(key, watched.dst).await;
        let seen = watched.checksums().pop().flatten();
        match answer {
            Ok(Some(n)) => match self.check(&call, key, before, seen, dst).await {
                Ok(sum) => {
                    call.success(Some(n), sum);
                    Ok(Some(n))
                }
                Err(e) => {
                    call.said();
                    Err(e)
                }
            },
            Ok(None) => {
                call.miss();
                Ok(None)
            }
            Err(e) => {
                call.failed(&e);
                Err(e)
            }
        }
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        let answer = self.plain("remove", Some(key), self.behind.remove(key), |there| !there).await;
        if let (Ok(_), Some(registry)) = (&answer, &self.registry) {
            registry.removed(key);
        }
        answer
    }

    /// Logged when it has ended.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let state = (self.behind.list(prefix), Some(self.log.call("list", None)), Tally::default());
        stream::unfold(state, |(mut keys, mut call, mut tally)| async move {
            let item = keys.next().await;
            match &item {
                Some(Ok(_)) => tally.hits += 1,
                Some(Err(_)) => tally.failed += 1,
                None => {
                    if let Some(call) = call.take() {
                        tally.keys = tally.hits;
                        call.batch(&tally);
                    }
                }
            }
            item.map(|item| (item, (keys, call, tally)))
        })
        .boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.plain("ping", None, self.behind.ping(), |()| false).await
    }

    async fn close(&self) -> Result<()> {
        self.gate.close().await;
        self.plain("close", None, self.behind.close(), |()| false).await
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.plain_batch("batched_exists", self.behind.batched_exists(keys), |there| *there).await
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let call = self.log.call("batched_contains", None);
        let answer = self.behind.batched_contains(keys).await;
        match &answer {
            Ok(hits) => call.batch(&Tally { keys: keys.len(), hits: *hits, ..Tally::default() }),
            Err(e) => call.failed(e),
        }
        answer
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let call = self.log.call("batched_get", None);
        let before: Vec<_> = keys.iter().map(|key| self.read_begins(key)).collect();
        let mut answers = self.behind.batched_get(keys).await;
        for ((answer, key), before) in answers.iter_mut().zip(keys).zip(before) {
            if let Ok(Some(chunk)) = answer
                && let Err(e) = self.check_chunk(&call, key, before, chunk).await
            {
                *answer = Err(e);
            }
        }
        call.batch(&tally(&answers, |chunk| chunk.as_ref().map(|c| c.len())));
        answers
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let call = self.log.call("batched_get_into", None);
        let before: Vec<_> = requests.iter().map(|(key, _)| self.read_begins(key)).collect();
        let watched = Watched::new(requests, self.owner, self.watches());
        let mut answers = self.behind.batched_get_into(watched.dst).await;
        let seen = watched.checksums();
        for (((answer, (key, dst)), before), seen) in answers.iter_mut().zip(&*requests).zip(before).zip(seen) {
            if let Ok(Some(_)) = answer
                && let Err(e) = self.check(&call, key, before, seen, dst).await
            {
                *answer = Err(e);
            }
        }
        call.batch(&tally(&answers, |n| *n));
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let call = self.log.call("batched_put", None);
        let pairs: Vec<_> = items.iter().map(|(key, chunk)| (key, chunk)).collect();
        let stored = |answers: &Vec<Result<()>>, n: usize| answers.get(n).is_some_and(Result::is_ok);
        let (answers, _) = self.put_all(&pairs, self.behind.batched_put(items), stored).await;
        let mut tally = tally(&answers, |()| Some(0));
        tally.size = items.iter().zip(&answers).filter(|(_, a)| a.is_ok()).map(|((_, chunk), _)| chunk.len()).sum();
        call.batch(&tally);
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let answers = self.plain_batch("batched_remove", self.behind.batched_remove(keys), |there| *there).await;
        for (key, answer) in keys.iter().zip(&answers) {
            if let (Ok(_), Some(registry)) = (answer, &self.registry) {
                registry.removed(key);
            }
        }
        answers
    }
}
