use std::sync::atomic::{AtomicU64, Ordering};

use connector_core::connector::leading_run;
use connector_core::{
    BoxStream, CacheKey, Capabilities, Connector, ConnectorContext, Diagnosis, Error, ErrorKind, FromContext,
    ListEntry, MemoryObj, MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector,
};
use futures::stream::{self, StreamExt};

use super::checksum::Checksum;
use super::known::{KnownChecksums, Put, ReadStart, Verdict};
use super::log::{BatchCounts, Event, Log};
use super::{AuditOptions, ChecksumKind};

/// Logs the calls of the store behind it, and checks that reads return the chunks that were put.
///
/// URL: `audit://?actual_remote_url=URL`, with the inner URL percent-encoded.
///
/// The store behind is named in LMCache's configuration (`audit_actual_remote_url`) or in the URL.
#[external_connector(
    module = "kvconn.audit",
    name = "AuditConnector",
    scheme = "audit",
    url = "audit://?actual_remote_url=fs:///var/cache/kv",
    url = "audit://host:0?actual_remote_url=fs:///var/cache/kv",
    options = AuditOptions
)]
pub struct AuditConnector {
    behind: Connector,
    log: Log,
    /// `None` if no checksums are calculated.
    checksums: Option<ChecksumKind>,
    /// `None` if no checksum is verified.
    known: Option<KnownChecksums>,
    mismatches: AtomicU64,
}

impl FromContext for AuditConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: AuditOptions = ctx.options()?;
        let url = options.behind(&ctx)?;
        let store = url.to_string();
        let verifies = options.verifies();
        let checksums = (verifies || options.calc_checksum).then_some(options.checksum);
        let behind = ctx.open_behind(url).await?;
        let known = verifies.then(|| KnownChecksums::new(options.max_checksums));
        let excluded = options.excluded();
        tracing::info!(target: "kvconn::audit", store, ?checksums, verifies, ?excluded, "INITIALIZED");
        Ok(Self { behind, log: Log { store, excluded }, checksums, known, mismatches: AtomicU64::new(0) })
    }
}

impl AuditConnector {
    fn begin_read(&self, key: &CacheKey) -> Option<ReadStart> {
        self.known.as_ref().map(|known| known.begin_read(key))
    }

    /// Hashes a chunk that was read, and verifies the checksum.
    async fn check(
        &self,
        event: &Event<'_>,
        key: &CacheKey,
        start: Option<ReadStart>,
        bytes: &[u8],
    ) -> Result<Option<Checksum>> {
        let Some(kind) = self.checksums else { return Ok(None) };
        let sum = Checksum::of(kind, bytes).await;
        if let Some((known, start)) = self.known.as_ref().zip(start)
            && let Verdict::Wrong(expected) = known.end_read(key, start, sum)
        {
            let mismatches = self.mismatches.fetch_add(1, Ordering::Relaxed) + 1;
            event.mismatch(key, bytes.len(), expected, sum, mismatches);
            let message = format!("the chunk's checksum is {sum}.., but a chunk of {expected}.. was put");
            return Err(Error::new(ErrorKind::Corrupt, message)
                .with_hint("the store or the way to it changed the chunk, or another process put another one"));
        }
        Ok(Some(sum))
    }

    /// Hashes a chunk before it is put.
    async fn begin_put(&self, key: &CacheKey, chunk: &MemoryObj) -> (Option<Checksum>, Option<Put>) {
        let Some(kind) = self.checksums else { return (None, None) };
        let sum = Checksum::of(kind, chunk).await;
        (Some(sum), self.known.as_ref().map(|known| known.begin_put(key, sum)))
    }

    fn removed(&self, key: &CacheKey, answer: &Result<bool>) {
        if let (Ok(_), Some(known)) = (answer, &self.known) {
            known.remove(key);
        }
    }

    /// Forwards a listing. The event is logged when the listing ends.
    fn listing<'a, T: Send + 'a>(
        &'a self,
        name: &'static str,
        items: BoxStream<'a, Result<T>>,
    ) -> BoxStream<'a, Result<T>> {
        let state = (items, self.log.event(name, None), BatchCounts::default());
        stream::unfold(state, |(mut items, event, mut counts)| async move {
            match items.next().await {
                None => {
                    event.end_batch(BatchCounts { keys: counts.hits, ..counts });
                    None
                }
                Some(item) => {
                    counts.hits += usize::from(item.is_ok());
                    counts.failed += usize::from(item.is_err());
                    Some((item, (items, event, counts)))
                }
            }
        })
        .boxed()
    }

    /// Forwards a call that has no chunk in it.
    async fn forward<T>(
        &self,
        name: &'static str,
        key: Option<&CacheKey>,
        work: impl Future<Output = Result<T>>,
        is_miss: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let event = self.log.event(name, key);
        let answer = work.await;
        match &answer {
            Ok(value) if is_miss(value) => event.miss(),
            answer => event.end(answer, None, None),
        }
        answer
    }

    /// Forwards a batch that has no chunk in it.
    async fn forward_batch(
        &self,
        name: &'static str,
        work: impl Future<Output = Vec<Result<bool>>>,
    ) -> Vec<Result<bool>> {
        let event = self.log.event(name, None);
        let answers = work.await;
        event.end_batch(BatchCounts::of(&answers, |_, is_hit| is_hit.then_some(0)));
        answers
    }
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would bypass the store's own")]
impl RemoteConnector for AuditConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.forward("exists", Some(key), self.behind.exists(key), |exists| !exists).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let event = self.log.event("get", Some(key));
        let start = self.begin_read(key);
        let answer = self.behind.get(key).await;
        let checked = match &answer {
            Ok(Some(chunk)) => self.check(&event, key, start, chunk).await,
            _ => Ok(None),
        };
        event.end_read(answer, |chunk| chunk.len(), checked)
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let event = self.log.event("put", Some(key));
        let size = chunk.len();
        let (sum, put) = self.begin_put(key, &chunk).await;
        let answer = self.behind.put(key, chunk).await;
        if let Some(put) = put {
            put.end(answer.is_ok());
        }
        event.end(&answer, Some(size), sum);
        answer
    }

    fn capabilities(&self) -> Capabilities {
        self.behind.capabilities()
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let event = self.log.event("get_into", Some(key));
        let start = self.begin_read(key);
        let answer = self.behind.get_into(key, dst).await;
        let checked = match answer {
            Ok(Some(_)) => self.check(&event, key, start, dst).await,
            _ => Ok(None),
        };
        event.end_read(answer, |len| *len, checked)
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        let answer = self.forward("remove", Some(key), self.behind.remove(key), |existed| !existed).await;
        self.removed(key, &answer);
        answer
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.listing("list", self.behind.list(prefix))
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        self.listing("list_entries", self.behind.list_entries(prefix))
    }

    async fn ping(&self) -> Result<()> {
        self.forward("ping", None, self.behind.ping(), |()| false).await
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        self.forward("servers", None, self.behind.servers(), |_| false).await
    }

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.forward("diagnose", None, self.behind.diagnose(), |_| false).await
    }

    async fn close(&self) -> Result<()> {
        self.forward("close", None, self.behind.close(), |()| false).await
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.forward_batch("batched_exists", self.behind.batched_exists(keys)).await
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let event = self.log.event("batched_contains", None);
        let answer = self.behind.batched_contains(keys).await;
        match &answer {
            Ok(hits) => event.end_batch(BatchCounts { keys: keys.len(), hits: *hits, ..BatchCounts::default() }),
            answer => event.end(answer, None, None),
        }
        answer
    }

    /// A chunk that fails the check ends the run.
    async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        let event = self.log.event("get_prefix", None);
        let starts: Vec<_> = keys.iter().map(|key| self.begin_read(key)).collect();
        let mut answers = match self.behind.get_prefix(keys).await {
            Ok(chunks) => chunks.into_iter().map(|chunk| Ok(Some(chunk))).collect::<Vec<_>>(),
            Err(e) => vec![Err(e)],
        };
        for ((answer, key), start) in answers.iter_mut().zip(keys).zip(starts) {
            if let Ok(Some(chunk)) = answer
                && let Err(e) = self.check(&event, key, start, chunk).await
            {
                *answer = Err(e);
            }
        }
        let counts = BatchCounts::of(&answers, |_, chunk| chunk.as_ref().map(|chunk| chunk.len()));
        event.end_batch(BatchCounts { keys: keys.len(), ..counts });
        leading_run(answers)
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let event = self.log.event("batched_get", None);
        let starts: Vec<_> = keys.iter().map(|key| self.begin_read(key)).collect();
        let mut answers = self.behind.batched_get(keys).await;
        for ((answer, key), start) in answers.iter_mut().zip(keys).zip(starts) {
            if let Ok(Some(chunk)) = answer
                && let Err(e) = self.check(&event, key, start, chunk).await
            {
                *answer = Err(e);
            }
        }
        event.end_batch(BatchCounts::of(&answers, |_, chunk| chunk.as_ref().map(|chunk| chunk.len())));
        answers
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let event = self.log.event("batched_get_into", None);
        let starts: Vec<_> = requests.iter().map(|(key, _)| self.begin_read(key)).collect();
        let mut answers = self.behind.batched_get_into(requests).await;
        for ((answer, (key, dst)), start) in answers.iter_mut().zip(&*requests).zip(starts) {
            if let Ok(Some(_)) = answer
                && let Err(e) = self.check(&event, key, start, dst).await
            {
                *answer = Err(e);
            }
        }
        event.end_batch(BatchCounts::of(&answers, |_, len| *len));
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let event = self.log.event("batched_put", None);
        let mut puts = Vec::with_capacity(items.len());
        for (key, chunk) in items {
            puts.push(self.begin_put(key, chunk).await.1);
        }
        let answers = self.behind.batched_put(items).await;
        for (put, answer) in puts.into_iter().zip(&answers) {
            if let Some(put) = put {
                put.end(answer.is_ok());
            }
        }
        event.end_batch(BatchCounts::of(&answers, |n, ()| Some(items[n].1.len())));
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let answers = self.forward_batch("batched_remove", self.behind.batched_remove(keys)).await;
        for (key, answer) in keys.iter().zip(&answers) {
            self.removed(key, answer);
        }
        answers
    }
}
