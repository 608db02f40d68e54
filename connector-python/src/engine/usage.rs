//! The bytes that a store holds, by salt: for an engine whose quotas and eviction must be right after a restart.
//!
//! A listing in the background counts the chunks that are there. Meanwhile, the engine reports the chunks that it stores and
//! removes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use connectors::connector::Pages;
use connectors::{CacheKey, Connector, ErrorKind, KeyKind, ListEntry, Result, runtime};
use futures::TryStreamExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::EngineClient;
use crate::batch::same_length;
use crate::blocking::block_on;
use crate::errors::{Arg, OrRaise, invalid};
use crate::lock;
use crate::process::ProcessLocal;

/// How long a listing that failed waits before the next one.
const RETRY: Duration = Duration::from_secs(30);
/// The first part of the models' names of kvconn's other engines. Their chunks are not LMCache's to count or to evict.
const OTHER_ENGINES: [&str; 2] = ["vllm+", "sglang+"];

/// The bytes that a store holds for LMCache, by salt.
///
/// The listing starts with the object, and again every `interval_s` seconds (0: never). A key costs 24 bytes, and the
/// table's free places: 27 to 55 bytes in all.
#[pyclass(module = "kvconn._kvconn", frozen)]
pub(crate) struct EngineUsage {
    shared: ProcessLocal<Arc<Shared>>,
    task: ProcessLocal<AbortHandle>,
}

/// Keys with their sizes, and the cursor of the next page.
type Page = (Vec<(String, Option<u64>)>, Option<String>);

struct Shared {
    connector: Connector,
    pages: Pages,
    counts: Mutex<Counts>,
    list_now: Notify,
}

#[pymethods]
impl EngineUsage {
    #[new]
    #[pyo3(signature = (client, *, interval_s))]
    fn new(py: Python<'_>, client: &EngineClient, interval_s: Arg<f64>) -> PyResult<Self> {
        let interval = Duration::try_from_secs_f64(interval_s.0)
            .map_err(|e| invalid(py, format!("{} seconds are not a time between two listings: {e}", interval_s.0)))?;
        let (connector, pages) = (client.connector(py)?, Pages::new(is_own));
        let shared = Arc::new(Shared { connector, pages, counts: Mutex::default(), list_now: Notify::new() });
        let task = runtime::handle().or_raise(py)?.spawn(shared.clone().run(interval)).abort_handle();
        Ok(Self { shared: ProcessLocal::new(shared), task: ProcessLocal::new(task) })
    }

    /// Counts chunks that the engine has stored. A chunk that replaces one counts once.
    fn stored(&self, py: Python<'_>, keys: Arg<Vec<String>>, sizes: Arg<Vec<u64>>) -> PyResult<()> {
        same_length(py, keys.0.len(), sizes.0.len())?;
        let shared = self.shared.get().or_raise(py)?;
        let mut counts = lock(&shared.counts);
        keys.0.iter().zip(sizes.0).for_each(|(key, size)| counts.stored(key, size));
        Ok(())
    }

    /// Counts chunks as removed. Gives for each key whether it was counted, or was given by `take_found` before.
    fn removed(&self, py: Python<'_>, keys: Arg<Vec<String>>) -> PyResult<Vec<bool>> {
        let shared = self.shared.get().or_raise(py)?;
        let mut counts = lock(&shared.counts);
        Ok(keys.0.iter().map(|key| counts.removed(key)).collect())
    }

    /// All bytes, and the bytes of each salt that has any.
    fn totals(&self, py: Python<'_>) -> PyResult<(u64, HashMap<String, u64>)> {
        Ok(lock(&self.shared.get().or_raise(py)?.counts).totals())
    }

    /// From now on, keeps the keys that a listing finds and that the engine did not store, for `take_found`. Lists at once.
    fn keep_found(&self, py: Python<'_>) -> PyResult<()> {
        let shared = self.shared.get().or_raise(py)?;
        let mut counts = lock(&shared.counts);
        if counts.state != "unsupported" {
            (counts.keeps_found, counts.state) = (true, "waiting");
        }
        drop(counts);
        shared.list_now.notify_one();
        Ok(())
    }

    /// At most `limit` keys that finished listings have found, each once, and their sizes in bytes. The oldest come first if
    /// the store has the times.
    fn take_found(&self, py: Python<'_>, limit: Arg<usize>) -> PyResult<Vec<(String, u64)>> {
        Ok(lock(&self.shared.get().or_raise(py)?.counts).take_found(limit.0))
    }

    /// At most `limit` keys after `after`, in the order of their texts, with their sizes in bytes (None if unknown). Also the
    /// last key's text if there are more. Waits for the store.
    ///
    /// The first page reads the whole listing under `prefix`, and keeps the entries of the next pages for a minute. Pages
    /// have no keys of other engines.
    fn page(
        &self,
        py: Python<'_>,
        prefix: Arg<String>,
        after: Arg<Option<String>>,
        limit: Arg<usize>,
    ) -> PyResult<Page> {
        let shared = self.shared.get().or_raise(py)?.clone();
        let page = async move { shared.pages.page(&shared.connector, &prefix.0, after.0.as_deref(), limit.0).await };
        let page = block_on(py, page)?.or_raise(py)?;
        let text = |entry: ListEntry| (entry.key.as_str().to_owned(), entry.size);
        Ok((page.entries.into_iter().map(text).collect(), page.next))
    }

    /// The listing as a dict: `state` (`waiting`, `running`, `done`, `failed` or `unsupported`), `age_s` and `took_s` of the last
    /// one that finished (None before), `chunks`, `chunks_of_unknown_size` and `error`.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let shared = self.shared.get().or_raise(py)?;
        let (counts, report) = (lock(&shared.counts), PyDict::new(py));
        report.set_item("state", counts.state)?;
        report.set_item("age_s", counts.finished.map(|at| at.elapsed().as_secs_f64()))?;
        report.set_item("took_s", counts.finished.map(|_| counts.took.as_secs_f64()))?;
        report.set_item("chunks", counts.chunks.len())?;
        report.set_item("chunks_of_unknown_size", counts.unknown_sizes)?;
        report.set_item("error", counts.error.as_deref())?;
        Ok(report)
    }

    /// Ends the listing. Does nothing in a child of `fork`, which has no listing.
    fn close(&self) {
        // In the child, the parent's runtime may hold the lock that an abort takes.
        if let Ok(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Drop for EngineUsage {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Lists until the store is closed or the task is aborted.
    async fn run(self: Arc<Self>, interval: Duration) {
        loop {
            let pause = match self.list().await {
                Ok(()) => Some(interval).filter(|interval| !interval.is_zero()),
                Err(e) if e.kind() == ErrorKind::Closed => return,
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    lock(&self.counts).state = "unsupported";
                    tracing::warn!("the usage counts only what this process stores: {e}");
                    return;
                }
                Err(e) => {
                    let mut counts = lock(&self.counts);
                    counts.state = "failed";
                    if counts.error.replace(e.to_string()).is_none() {
                        tracing::warn!("the usage is not whole yet, and the listing starts again in {RETRY:?}: {e}");
                    }
                    Some(RETRY)
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.list_now.notified() => {}
            }
        }
    }

    async fn list(&self) -> Result<()> {
        lock(&self.counts).start();
        let (started, mut found) = (Instant::now(), Vec::new());
        let read = self.read(&mut found).await;
        // Stable, so that chunks of unknown age keep the listing's order.
        found.sort_by_key(|(modified, ..)| *modified);
        let mut counts = lock(&self.counts);
        counts.end(read.is_ok());
        counts.found.extend(found.into_iter().map(|(_, key, size)| (key, size)));
        read?;
        (counts.state, counts.error) = ("done", None);
        (counts.took, counts.finished) = (started.elapsed(), Some(Instant::now()));
        Ok(())
    }

    async fn read(&self, found: &mut Vec<(Option<SystemTime>, String, u64)>) -> Result<()> {
        let mut entries = self.connector.list_entries("");
        while let Some(entry) = entries.try_next().await? {
            if is_own(&entry.key) && lock(&self.counts).listed(entry.key.as_str(), entry.size) {
                found.push((entry.modified, entry.key.as_str().to_owned(), entry.size.unwrap_or(0)));
            }
        }
        Ok(())
    }
}

/// Whether LMCache's server wrote the key.
fn is_own(key: &CacheKey) -> bool {
    key.kind() == KeyKind::Object && !OTHER_ENGINES.iter().any(|engine| key.as_str().starts_with(engine))
}

/// Each chunk's size and salt. A key is its 64-bit hash: among a million keys, two share one in a case of 40 million.
struct Counts {
    chunks: HashMap<u64, Chunk>,
    salts: Vec<(String, u64)>,
    places: HashMap<String, u32>,
    unknown_sizes: usize,
    /// The number of the listing.
    pass: u16,
    is_listing: bool,
    /// Removed since the listing has started. The listing may still name them.
    removed: HashSet<u64>,
    keeps_found: bool,
    found: VecDeque<(String, u64)>,
    state: &'static str,
    error: Option<String>,
    finished: Option<Instant>,
    took: Duration,
}

struct Chunk {
    size: u64,
    salt: u32,
    /// The last listing that has named it, or during which the engine stored it.
    pass: u16,
    /// The engine has stored it, or `found` has it. So the engine may ask to remove it, also when it is gone.
    is_known: bool,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            chunks: HashMap::new(),
            salts: Vec::new(),
            places: HashMap::new(),
            unknown_sizes: 0,
            pass: 0,
            is_listing: false,
            removed: HashSet::new(),
            keeps_found: false,
            found: VecDeque::new(),
            state: "waiting",
            error: None,
            finished: None,
            took: Duration::ZERO,
        }
    }
}

impl Counts {
    fn stored(&mut self, key: &str, size: u64) {
        let id = id_of(key);
        self.removed.remove(&id);
        self.set(id, key, size);
        if let Some(chunk) = self.chunks.get_mut(&id) {
            (chunk.pass, chunk.is_known) = (self.pass, true);
        }
    }

    fn removed(&mut self, key: &str) -> bool {
        let id = id_of(key);
        if self.is_listing {
            self.removed.insert(id);
        }
        let Some(chunk) = self.chunks.remove(&id) else { return false };
        self.salts[chunk.salt as usize].1 -= chunk.size;
        true
    }

    fn start(&mut self) {
        (self.pass, self.is_listing, self.unknown_sizes) = (self.pass.wrapping_add(1), true, 0);
        self.removed.clear();
        self.state = "running";
    }

    /// True for a chunk that the engine must still learn of.
    fn listed(&mut self, key: &str, size: Option<u64>) -> bool {
        let id = id_of(key);
        // Stored or listed since the listing has started: the listing's size may be that of the chunk before.
        let is_counted = self.chunks.get(&id).is_some_and(|chunk| chunk.pass == self.pass);
        if is_counted || self.removed.contains(&id) {
            return false;
        }
        self.unknown_sizes += usize::from(size.is_none());
        let counted = self.chunks.get(&id).map(|chunk| chunk.size);
        self.set(id, key, size.or(counted).unwrap_or(0));
        let Some(chunk) = self.chunks.get_mut(&id) else { return false };
        chunk.pass = self.pass;
        let is_found = self.keeps_found && !chunk.is_known;
        chunk.is_known |= is_found;
        is_found
    }

    /// Ends the listing. After a whole one, forgets the chunks that it has not named: the store has evicted them, or another
    /// process removed them.
    fn end(&mut self, is_whole: bool) {
        let Self { chunks, salts, pass, keeps_found, .. } = self;
        chunks.retain(|_, chunk| {
            if chunk.pass == *pass || !is_whole {
                return true;
            }
            salts[chunk.salt as usize].1 -= std::mem::take(&mut chunk.size);
            // The engine's eviction still has the key. It drops the key when it learns of the removal.
            *keeps_found && chunk.is_known
        });
        self.is_listing = false;
        self.removed = HashSet::new();
    }

    /// The next keys for the engine that are still there.
    fn take_found(&mut self, limit: usize) -> Vec<(String, u64)> {
        let Self { found, chunks, .. } = self;
        let taken = limit.min(found.len());
        found.drain(..taken).filter(|(key, _)| chunks.contains_key(&id_of(key))).collect()
    }

    /// Sets the size of a chunk, and adds the chunk if it is new.
    fn set(&mut self, id: u64, key: &str, size: u64) {
        if let Some(chunk) = self.chunks.get_mut(&id) {
            let bytes = &mut self.salts[chunk.salt as usize].1;
            *bytes = *bytes - chunk.size + size;
            chunk.size = size;
            return;
        }
        let name = key.split('@').nth(4).unwrap_or_default();
        let salt = self.places.get(name).copied().unwrap_or_else(|| {
            let place = u32::try_from(self.salts.len()).unwrap_or(u32::MAX);
            self.places.insert(name.to_owned(), place);
            self.salts.push((name.to_owned(), 0));
            place
        });
        self.salts[salt as usize].1 += size;
        self.chunks.insert(id, Chunk { size, salt, pass: self.pass, is_known: false });
    }

    fn totals(&self) -> (u64, HashMap<String, u64>) {
        let used = self.salts.iter().filter(|(_, bytes)| *bytes > 0);
        (self.salts.iter().map(|(_, bytes)| bytes).sum(), used.cloned().collect())
    }
}

fn id_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
