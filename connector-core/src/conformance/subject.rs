//! The subject of a check: an open store, with a pool, keys and values that no other check uses.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::case::Case;
use super::names::Names;
use super::opening::external_form;
use super::value::Value;
use super::{Kit, Outcome};
use crate::{
    CacheKey, Capabilities, ChunkLayout, Connector, Dtype, Error, ErrorKind, KeyKind, LMCacheMetadata, LocalCpuBackend,
    MemoryFormat, MemoryObj, MemoryObjMut, PoolAllocator, RawLayout, RemoteUrl, Result, Shape,
};

/// Why a check ended early.
#[derive(Debug)]
pub(super) struct End(pub(super) Outcome);

pub(super) type Checked<T = ()> = Result<T, End>;

/// Ends the check as failed if the condition is false.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::conformance::subject::failed(format!($($why)+)));
        }
    };
}

/// Ends the check as skipped, because it does not apply to the store.
macro_rules! skip {
    ($($why:tt)+) => {
        return Err($crate::conformance::subject::End($crate::conformance::Outcome::Skipped(format!($($why)+))))
    };
}

pub(super) use {ensure, skip};

impl End {
    /// The reason, as a part of another sentence.
    pub(super) fn why(self) -> String {
        match self.0 {
            Outcome::Failed(why) | Outcome::Skipped(why) => why,
            Outcome::Passed => String::new(),
        }
    }
}

pub(super) fn failed(why: impl Into<String>) -> End {
    End(Outcome::Failed(why.into()))
}

impl From<Error> for End {
    fn from(e: Error) -> Self {
        failed(e.to_string())
    }
}

/// An open store, and everything else that a check needs.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) store: Connector,
    /// The capabilities that the store declares.
    pub(super) can: Capabilities,
    pub(super) pool: PoolAllocator,
    pub(super) names: Arc<Names>,
    case: Case,
    kit: Kit,
}

impl Subject {
    pub(super) async fn open(kit: &Kit, case: &Case) -> Result<Self> {
        Self::over(kit, case, kit.open(LocalCpuBackend::with_allocator(case.pool.clone()))).await
    }

    async fn over(kit: &Kit, case: &Case, open: impl Future<Output = Result<Connector>>) -> Result<Self> {
        let store = case.watch.around(case.watch.call("open", 1, open).await?);
        let (pool, names) = (case.pool.clone(), case.names.clone());
        Ok(Self { can: store.capabilities(), store, pool, names, case: case.clone(), kit: kit.clone() })
    }

    /// Opens another connector of the same store.
    pub(super) async fn reopen(&self) -> Checked<Self> {
        Self::open(&self.kit, &self.case)
            .await
            .map_err(|e| failed(format!("the store cannot be opened a second time: {e}")))
    }

    /// The kit's URL, and the same in its `external://` form or the reason why it has none. `None` without a URL.
    pub(super) fn urls(&self) -> Option<(&RemoteUrl, Result<RemoteUrl, String>)> {
        let url = self.kit.url()?;
        let external = external_form(url).and_then(|text| RemoteUrl::parse(&text).map_err(|e| e.to_string()));
        Some((url, external))
    }

    /// Opens the store by another URL, with the kit's other settings.
    pub(super) async fn open_at(&self, url: RemoteUrl) -> Result<Self> {
        let backend = LocalCpuBackend::with_allocator(self.case.pool.clone());
        Self::over(&self.kit, &self.case, self.kit.open_at(url, backend)).await
    }

    /// The kinds of keys that the store takes.
    pub(super) fn kinds(&self) -> &'static [KeyKind] {
        if self.can.object_keys_only { &[KeyKind::Object] } else { &[KeyKind::Engine, KeyKind::Object] }
    }

    /// The kind of the keys that most checks use: engine keys, unless the store takes only object keys.
    pub(super) fn kind(&self) -> KeyKind {
        self.kinds()[0]
    }

    /// The text of a key of this kind behind the model's name. Every store of object keys takes rank 0 and group 0.
    pub(super) fn tail(&self, hash: &str) -> String {
        match self.kind() {
            KeyKind::Engine => format!("@1@0@{hash}@half"),
            KeyKind::Object => format!("@00000000@0@{hash}"),
        }
    }

    /// A new key. An engine key is of all layers or of one. The kit removes it when the check has ended.
    pub(super) fn key(&self) -> CacheKey {
        self.names.key(self.kind())
    }

    pub(super) fn keys(&self, n: usize) -> Vec<CacheKey> {
        (0..n).map(|_| self.key()).collect()
    }

    /// Whether the store gives shape, dtype and format back.
    pub(super) fn keeps_layout(&self) -> bool {
        self.can.keeps_layout_of(self.kind())
    }

    /// The metadata that gives raw values their layout, if it does.
    pub(super) fn layout_of_raw_values(&self) -> Option<&RawLayout> {
        self.kit.raw_metadata().filter(|_| !self.keeps_layout()).map(LMCacheMetadata::chunk_layout)
    }

    /// Whether values are raw and get their layout from the metadata.
    pub(super) fn takes_layout_from_metadata(&self) -> bool {
        self.layout_of_raw_values().is_some()
    }

    pub(super) fn needs_remove(&self) -> Checked {
        if !self.can.remove {
            skip!("the store declares no `remove`");
        }
        Ok(())
    }

    pub(super) fn needs_list(&self) -> Checked {
        if !self.can.list {
            skip!("the store declares no `list`");
        }
        Ok(())
    }

    pub(super) fn stores(&self, dtype: Dtype) -> bool {
        self.can.dtypes.is_none_or(|all| all.contains(&dtype))
    }

    /// A dtype that the store declares.
    pub(super) fn dtype(&self) -> Dtype {
        let first = self.can.dtypes.and_then(|all| all.first().copied());
        if self.stores(Dtype::Bfloat16) { Dtype::Bfloat16 } else { first.unwrap_or(Dtype::Bfloat16) }
    }

    /// A layout of about `len` bytes that the store takes under a key of this kind.
    pub(super) fn layout(&self, kind: KeyKind, len: usize) -> Result<ChunkLayout> {
        let limit = self.can.max_chunk_bytes.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let len = len.min(limit).max(1);
        if let (Some(metadata), false) = (self.kit.raw_metadata(), self.can.keeps_layout_of(kind)) {
            // Only a whole number of tokens is valid.
            let layout = metadata.chunk_layout();
            let tokens = len.div_ceil(layout.token_bytes).clamp(1, layout.chunk_size);
            return layout.for_bytes(tokens * layout.token_bytes);
        }
        if self.stores(Dtype::Uint8) {
            return Ok(ChunkLayout::binary(len));
        }
        let dtype = self.dtype();
        let elements = (len.div_ceil(dtype.size())).min(limit / dtype.size()).max(1);
        ChunkLayout::new(MemoryFormat::Undefined, Shape::new(&[elements])?, dtype)
    }

    /// A value of about `len` bytes for a key of [`key`](Self::key). It differs from all other values of this check.
    pub(super) fn value(&self, len: usize) -> Checked<Value> {
        self.value_for(self.kind(), len)
    }

    pub(super) fn value_for(&self, kind: KeyKind, len: usize) -> Checked<Value> {
        Ok(self.value_of(self.layout(kind, len)?))
    }

    pub(super) fn value_of(&self, layout: ChunkLayout) -> Value {
        Value { seed: self.names.number(), layout }
    }

    /// A chunk with this value.
    pub(super) fn chunk(&self, value: &Value) -> Checked<MemoryObj> {
        let mut memory = self.memory_of(&self.case.chunks, &value.layout)?;
        value.fill(&mut memory);
        Ok(memory.freeze())
    }

    /// A chunk with this value, at the start of memory that is longer by `more` bytes.
    pub(super) fn chunk_in_longer_memory(&self, value: &Value, more: usize) -> Checked<MemoryObj> {
        let mut memory = self.memory_of(&self.case.chunks, &ChunkLayout::binary(value.layout.len + more))?;
        memory.fill(0xee);
        memory.set_layout(value.layout.clone())?;
        value.fill(&mut memory);
        Ok(memory.freeze())
    }

    /// Memory of the pool that the store reads into.
    pub(super) fn memory(&self, layout: &ChunkLayout) -> Checked<MemoryObjMut> {
        self.memory_of(&self.pool, layout)
    }

    fn memory_of(&self, pool: &PoolAllocator, layout: &ChunkLayout) -> Checked<MemoryObjMut> {
        self.case.watch.moves(layout.len);
        pool.allocate_now(layout).map_err(|e| failed(format!("the check cannot allocate memory: {e}")))
    }

    pub(super) async fn put(&self, key: &CacheKey, value: &Value) -> Checked {
        Ok(self.store.put(key, self.chunk(value)?).await?)
    }

    /// Whether the store takes the value or refuses it. Any other error fails the check.
    pub(super) async fn put_or_refused(&self, key: &CacheKey, value: &Value) -> Checked<bool> {
        match self.store.put(key, self.chunk(value)?).await {
            Ok(()) => Ok(true),
            Err(e) if is_refusal(&e) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Puts a chunk of this layout over an old value or over none, and gives the key and the new value. `None` if the
    /// store refuses the chunk: the old value or none must be left.
    pub(super) async fn put_over(
        &self,
        old: Option<&Value>,
        what: &str,
        layout: &ChunkLayout,
    ) -> Checked<Option<(CacheKey, Value)>> {
        let (key, value) = (self.key(), self.value_of(layout.clone()));
        if let Some(old) = old {
            self.put(&key, old).await?;
        }
        let taken = self.put_or_refused(&key, &value).await;
        if taken.map_err(|e| failed(format!("the store refuses {what} with the wrong kind of error: {}", e.why())))? {
            return Ok(Some((key, value)));
        }
        let left = self.expect_none_or_one_of(&key, self.store.get(&key).await?, old.as_slice());
        left.map_err(|e| failed(format!("the store refused {what} (`{layout}`), but then {}", e.why())))?;
        Ok(None)
    }

    /// Puts a value of about `len` bytes under a new key.
    pub(super) async fn put_new(&self, len: usize) -> Checked<(CacheKey, Value)> {
        let (key, value) = (self.key(), self.value(len)?);
        self.put(&key, &value).await?;
        Ok((key, value))
    }

    /// Puts `n` values under new keys.
    pub(super) async fn put_many(&self, n: usize) -> Checked<Vec<(CacheKey, Value)>> {
        let mut all = Vec::new();
        for i in 0..n {
            all.push(self.put_new(100 + i).await?);
        }
        Ok(all)
    }

    /// Puts the value and checks that it comes back.
    pub(super) async fn put_and_get(&self, key: &CacheKey, value: &Value) -> Checked {
        self.put(key, value).await?;
        self.expect(key, value).await
    }

    /// Removes a key that is stored, and checks that it is gone.
    pub(super) async fn remove(&self, key: &CacheKey) -> Checked {
        ensure!(self.store.remove(key).await?, "`remove` is false for `{key}`, which was put");
        self.expect_none(key).await
    }

    /// Checks that `exists` is true.
    pub(super) async fn expect_exists(&self, key: &CacheKey) -> Checked {
        ensure!(self.store.exists(key).await?, "`exists` is false for `{key}`, which was put");
        Ok(())
    }

    /// Checks that `get` gives this value.
    pub(super) async fn expect(&self, key: &CacheKey, value: &Value) -> Checked {
        let got = self.store.get(key).await?;
        self.expect_answer(key, got, value)
    }

    /// Checks that the key is a miss.
    pub(super) async fn expect_none(&self, key: &CacheKey) -> Checked {
        let (got, exists) = (self.store.get(key).await?, self.store.exists(key).await?);
        ensure!(got.is_none() && !exists, "`{key}` is not stored, but `get` gives {got:?} and `exists` {exists}");
        Ok(())
    }

    /// Checks that the answer is this value.
    pub(super) fn expect_answer(&self, key: &CacheKey, got: Option<MemoryObj>, value: &Value) -> Checked {
        let got = got.ok_or_else(|| failed(format!("`{key}` was put, but is a miss")))?;
        self.expect_bytes(key, &got, got.layout(), value)
    }

    /// Checks that the answer is `None` or one of these values.
    pub(super) fn expect_none_or_one_of(&self, key: &CacheKey, got: Option<MemoryObj>, values: &[&Value]) -> Checked {
        let Some(got) = got else { return Ok(()) };
        let whole = values.iter().any(|value| self.expect_bytes(key, &got, got.layout(), value).is_ok());
        ensure!(whole, "`{key}` gives {got:?}, which is not a whole value that was put");
        Ok(())
    }

    /// Checks that `get_into` reads this value into `memory`.
    pub(super) async fn expect_into(&self, key: &CacheKey, memory: &mut MemoryObjMut, value: &Value) -> Checked {
        let n = self.store.get_into(key, memory).await?;
        ensure!(n == Some(value.layout.len), "`get_into` gives {n:?} for {} bytes", value.layout.len);
        self.expect_bytes(key, memory, memory.layout(), value)
    }

    /// Checks that these bytes, and the layout if the store keeps it, are this value.
    pub(super) fn expect_bytes(&self, key: &CacheKey, bytes: &[u8], layout: &ChunkLayout, value: &Value) -> Checked {
        value.compare(bytes).map_err(|why| failed(format!("`{key}`, put as `{}`: {why}", value.layout)))?;
        if self.can.keeps_layout_of(key.kind()) {
            ensure!(*layout == value.layout, "`{key}` was put as `{}`, but comes back as `{layout}`", value.layout);
        }
        Ok(())
    }

    /// Waits until `done` is true, and says whether that happens within the kit's grace: work may outlive its future.
    pub(super) async fn eventually(&self, done: impl FnMut() -> bool) -> bool {
        let is_done = within(self.kit.grace_period(), done).await;
        if !is_done {
            self.kit.set_late();
        }
        is_done
    }

    pub(super) async fn all_memory_is_back(&self) -> Checked {
        let back = self.eventually(|| self.pool.stats().in_use == 0 && self.case.chunks.stats().in_use == 0).await;
        let kept = self.bytes_that_put_keeps();
        ensure!(back || kept == 0, "`put` keeps {kept} bytes of its chunks: it must copy them");
        ensure!(back, "{} bytes of the pool did not come back", self.pool.stats().in_use);
        Ok(())
    }

    /// The bytes of chunks that the check has put and the store still holds.
    pub(super) fn bytes_that_put_keeps(&self) -> usize {
        self.case.chunks.stats().in_use
    }
}

async fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs work on another thread. A panic is a failure.
pub(super) fn spawn<T: Send + 'static>(
    work: impl Future<Output = Checked<T>> + Send + 'static,
) -> impl Future<Output = Checked<T>> {
    let running = tokio::spawn(work);
    async { running.await.unwrap_or_else(|e| Err(failed(format!("a call panicked or did not end: {e}")))) }
}

/// Whether an error says that the store refuses such a chunk or key.
pub(super) fn is_refusal(e: &Error) -> bool {
    let kinds = [ErrorKind::Unsupported, ErrorKind::InvalidInput, ErrorKind::InvalidKey, ErrorKind::TooLarge];
    kinds.contains(&e.kind())
}
