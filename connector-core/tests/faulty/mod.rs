//! A connector in memory that keeps the contract, unless it is told to break one rule of it.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::conformance::Kit;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkLayout, Connector, Dtype, Error, ErrorKind, KeyKind, LocalCpuBackend,
    MemoryFormat, MemoryObj, MemoryObjMut, Region, RemoteConnector, Result, Shape,
};
use futures::stream::{self, StreamExt};
use tokio::sync::oneshot;
use tokio::task::yield_now;

mod fault;
mod lent;
mod profile;

pub(crate) use fault::{FAULTS, Fault};
use lent::Lent;
pub(crate) use profile::Profile;

/// The store behind all connectors of one kit.
#[derive(Default)]
pub(crate) struct Store {
    chunks: Mutex<HashMap<CacheKey, Stored>>,
    /// Calls that have begun and not ended.
    running: AtomicUsize,
    /// Somebody has closed a connector.
    closed: AtomicBool,
}

struct Stored {
    bytes: Vec<u8>,
    layout: ChunkLayout,
    /// Only a connector that breaks a rule holds on to memory of others, or gives out its own.
    kept: Option<MemoryObj>,
    lent: Option<Lent>,
}

pub(crate) struct Faulty {
    store: Arc<Store>,
    backend: LocalCpuBackend,
    profile: Profile,
    fault: Option<Fault>,
    /// What is left of a call that was dropped.
    busy: AtomicBool,
    closing: AtomicBool,
}

/// A kit over a store of its own.
pub(crate) fn kit(profile: Profile, fault: Option<Fault>) -> Kit {
    let store = Arc::new(Store::default());
    Kit::new(move |backend| {
        let store = store.clone();
        async move {
            let (busy, closing) = (AtomicBool::new(false), AtomicBool::new(false));
            Ok(Connector::new("test/Faulty", Faulty { store, backend, profile, fault, busy, closing }))
        }
    })
}

impl Faulty {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn chunks(&self) -> MutexGuard<'_, HashMap<CacheKey, Stored>> {
        self.store.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name under which the store keeps the chunk.
    fn place(&self, key: &CacheKey) -> CacheKey {
        let text = key.as_str();
        let named = |text: String| CacheKey::parse_as(&text, key.kind()).unwrap_or_else(|_| key.clone());
        let mut fields: Vec<&str> = text.split('@').collect();
        match self.fault {
            Some(Fault::HashAsNumber) => {
                let digits = fields[3].trim_start_matches(['-', '0']);
                fields[3] = if digits.is_empty() { "0" } else { digits };
                named(fields.join("@"))
            }
            Some(Fault::ForgetsTags) if key.kind() == KeyKind::Engine => named(fields[..5].join("@")),
            Some(Fault::SlashAsUnderscore) => named(text.replace('/', "_")),
            Some(Fault::CutsNames) if text.len() > 200 => {
                // The model is what is long.
                fields[0] = &fields[0][..100];
                named(fields.join("@"))
            }
            _ => key.clone(),
        }
    }

    /// Refuses what could not be given back.
    fn check(&self, key: &CacheKey, layout: &ChunkLayout) -> Result<()> {
        let can = self.profile.capabilities();
        let refuse = |kind, why: &'static str| Err(Error::new(kind, why));
        if can.max_key_bytes.is_some_and(|n| key.as_str().len() > n) && !self.has(Fault::TakesLongKeys) {
            return refuse(ErrorKind::InvalidKey, "the key is too long");
        }
        if can.max_chunk_bytes.is_some_and(|n| layout.len as u64 > n) && !self.has(Fault::TakesLongChunks) {
            return refuse(ErrorKind::Unsupported, "the chunk is too long");
        }
        let known = |dtype| can.dtypes.is_none_or(|all| all.contains(&dtype));
        if !layout.groups.iter().all(|g| g.dtype.is_some_and(known)) && !self.has(Fault::TakesEveryDtype) {
            return refuse(ErrorKind::Unsupported, "the dtype is not known");
        }
        let odd = key.as_str().contains(['\n', '\t']);
        if odd && !self.has(Fault::OddKeysBecomeOthers) {
            return refuse(ErrorKind::InvalidKey, "the key has a control character");
        }
        Ok(())
    }

    fn find(&self, key: &CacheKey) -> Option<(Vec<u8>, ChunkLayout)> {
        let place = self.place(key);
        let chunks = self.chunks();
        let stored = chunks.get(&place).or_else(|| {
            let odd = key.as_str().contains(['\n', '\t']) && self.has(Fault::OddKeysBecomeOthers);
            odd.then(|| chunks.values().next()).flatten()
        })?;
        let (mut bytes, mut layout) = (stored.bytes.clone(), stored.layout.clone());
        drop(chunks);
        if !self.profile.capabilities().keeps_layout_of(key.kind()) {
            layout = ChunkLayout::binary(bytes.len());
        }
        self.spoil(key, &mut bytes, &mut layout);
        Some((bytes, layout))
    }

    /// What a store that mixes things up does to a chunk.
    fn spoil(&self, key: &CacheKey, bytes: &mut [u8], layout: &mut ChunkLayout) {
        let relabel = |dtype: Dtype, shape: Shape| ChunkLayout::new(MemoryFormat::Kv2ltd, shape, dtype);
        match self.fault {
            Some(Fault::FlipsABit) if key.kind() == KeyKind::Object => bytes[0] ^= 1,
            Some(Fault::FlipsABitOfLongChunks) if bytes.len() > 1 << 20 => bytes[1 << 20] ^= 1,
            Some(Fault::Float64IsForgotten) if layout.dtype() == Some(Dtype::Float64) => {
                let shape = Shape::new(&[bytes.len()]).expect("one dimension");
                *layout = relabel(Dtype::Uint8, shape).expect("a layout");
            }
            Some(Fault::HiddenStatesAreForgotten) if layout.format == MemoryFormat::HsTd => {
                layout.format = MemoryFormat::EcTd;
            }
            Some(Fault::RanksArePadded) if layout.shape().len() == 3 && !layout.format.is_binary() => {
                let mut dims = layout.shape().to_vec();
                dims.push(1);
                let shape = Shape::new(&dims).expect("four dimensions");
                layout.groups = connector_core::Group { shape, dtype: layout.dtype() }.into();
            }
            Some(Fault::SecondGroupIsLost) if layout.groups.len() > 1 => {
                layout.groups = layout.groups[0].into();
            }
            Some(Fault::DimensionsOfZeroAreLost) if layout.shape().contains(&0) && !layout.format.is_binary() => {
                layout.groups =
                    connector_core::Group { shape: layout.shape().stripped(), dtype: layout.dtype() }.into();
            }
            _ => {}
        }
    }

    fn store(&self, key: &CacheKey, chunk: &MemoryObj) {
        let place = self.place(key);
        let mut stored = Stored { bytes: chunk.to_vec(), layout: chunk.layout().clone(), kept: None, lent: None };
        let mut chunks = self.chunks();
        if let Some(old) = chunks.get(&place) {
            match self.fault {
                Some(Fault::KeepsTheFirst) => return,
                Some(Fault::KeepsTheFirstLayout) if old.bytes.len() == stored.bytes.len() => {
                    stored.layout = old.layout.clone();
                }
                _ => {}
            }
        }
        if self.has(Fault::KeepsItsChunk) {
            stored.kept = Some(chunk.clone());
        }
        if self.has(Fault::WritesToWhatItGaveOut) {
            let old = chunks.remove(&place).and_then(|old| old.lent);
            let lent = old.filter(|old| old.len() >= stored.bytes.len()).unwrap_or_else(|| Lent::new(&stored.bytes));
            lent.overwrite(&stored.bytes);
            stored.lent = Some(lent);
        }
        chunks.insert(place, stored);
    }

    /// Half of the bytes first, the rest at the end: two writers, or a writer and a reader, get in each other's way.
    async fn store_in_halves(&self, key: &CacheKey, chunk: &MemoryObj) {
        let half = chunk.len() / 2;
        for part in [0..half, half..chunk.len()] {
            {
                let mut chunks = self.chunks();
                let empty = || Stored { bytes: Vec::new(), layout: chunk.layout().clone(), kept: None, lent: None };
                let stored = chunks.entry(key.clone()).or_insert_with(empty);
                stored.bytes.resize(chunk.len(), 0);
                stored.layout = chunk.layout().clone();
                stored.bytes[part.clone()].copy_from_slice(&chunk[part]);
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
    }

    /// At the start of each call: what dropped calls have left behind.
    async fn begin(&self, fault: Fault) -> Result<()> {
        if self.has(fault) {
            if self.busy.swap(true, Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Other, "a call that was dropped has left the connection busy"));
            }
            yield_now().await;
            self.busy.store(false, Ordering::SeqCst);
        }
        // Every call can be dropped here.
        yield_now().await;
        if self.has(Fault::ClosesAllAtOnce) && self.store.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the connection that all share is closed"));
        }
        Ok(())
    }

    /// The error of a chunk that does not fit.
    fn does_not_fit(&self, chunk: usize, room: usize) -> Error {
        match self.fault {
            Some(Fault::SaysOneSize) => Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit")),
            Some(Fault::NamesAnotherKey) => {
                Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit {room}")).with_key("another")
            }
            _ => Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit {room}")),
        }
    }
}

impl RemoteConnector for Faulty {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.begin(Fault::GetsLeaveItBusy).await?;
        if self.has(Fault::ExistsIsAlwaysTrue) {
            return Ok(true);
        }
        Ok(self.find(key).is_some())
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.begin(Fault::GetsLeaveItBusy).await?;
        if self.has(Fault::PanicsInGet) {
            panic!("the author did not think of this");
        }
        if self.has(Fault::WritesToWhatItGaveOut) {
            let chunk = self.chunks().get(key).and_then(|c| Some(c.lent.clone()?.chunk(c.layout.clone())));
            return chunk.transpose();
        }
        if self.has(Fault::HangsInGet) {
            pending::<()>().await;
        }
        if self.has(Fault::BlocksInGet) {
            loop {
                std::thread::park();
            }
        }
        let others = self.store.running.fetch_add(1, Ordering::SeqCst);
        let found = self.find(key);
        yield_now().await;
        self.store.running.fetch_sub(1, Ordering::SeqCst);
        if self.has(Fault::FewCallsAtOnce) && others > 30 {
            return Err(Error::new(ErrorKind::Unavailable, "no connection is free"));
        }
        let Some((bytes, layout)) = found else {
            return match self.fault {
                Some(Fault::MissesAreErrors) => Err(Error::new(ErrorKind::NotFound, "no such chunk")),
                _ => Ok(None),
            };
        };
        let memory = self.backend.allocate(&layout).await;
        let mut memory = match (memory, self.fault) {
            (Err(_), Some(Fault::AFullPoolIsAMiss)) => return Ok(None),
            (memory, _) => memory?,
        };
        memory.copy_from_slice(&bytes);
        let chunk = memory.freeze();
        if self.has(Fault::LeaksWhatItReads) {
            std::mem::forget(chunk.clone());
        }
        Ok(Some(chunk))
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        if self.has(Fault::RefusesAfterStoring) && self.check(key, chunk.layout()).is_err() {
            self.store(key, &chunk);
        }
        self.check(key, chunk.layout())?;
        self.begin(Fault::PutsLeaveItBusy).await?;
        match self.fault {
            Some(Fault::StoresInHalves | Fault::ShowsHalves) => self.store_in_halves(key, &chunk).await,
            Some(Fault::WorksOnForEver) => {
                let (ended, is_over) = oneshot::channel::<()>();
                let held = chunk.clone();
                tokio::spawn(async move {
                    if is_over.await.is_err() {
                        pending::<()>().await;
                    }
                    drop(held);
                });
                yield_now().await;
                self.store(key, &chunk);
                let _ = ended.send(());
            }
            _ => self.store(key, &chunk),
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let can = self.profile.capabilities();
        match self.fault {
            Some(Fault::DeclaresPingInVain) => can.with_ping(),
            _ => can,
        }
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.begin(Fault::GetsLeaveItBusy).await?;
        if self.has(Fault::TakesMemoryForMisses) && self.find(key).is_none() {
            drop(dst.take());
            return Ok(None);
        }
        if self.has(Fault::DropsLeaveLessMemory) {
            // The memory is out of reach only while the future lives; what is put in its place is shorter.
            let memory = std::mem::replace(dst, MemoryObjMut::zeroed(1));
            yield_now().await;
            *dst = memory;
        }
        let Some((bytes, layout)) = self.find(key) else { return Ok(None) };
        if layout.len > dst.capacity() {
            return Err(self.does_not_fit(layout.len, dst.capacity()));
        }
        match self.fault {
            Some(Fault::ForgetsTheLastByte) => {
                dst.set_layout(layout)?;
                let n = bytes.len() - 1;
                dst[..n].copy_from_slice(&bytes[..n]);
                return Ok(Some(bytes.len()));
            }
            Some(Fault::KeepsTheOldLength) if dst.len() > bytes.len() => {
                dst[..bytes.len()].copy_from_slice(&bytes);
                return Ok(Some(dst.len()));
            }
            _ => {}
        }
        dst.set_layout(layout)?;
        dst.copy_from_slice(&bytes);
        Ok(Some(bytes.len()))
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        if !self.profile.capabilities().remove {
            return match self.fault {
                Some(Fault::RemovesWithoutSaying) => Ok(self.chunks().remove(key).is_some()),
                _ => Err(Error::unsupported("remove")),
            };
        }
        self.begin(Fault::RemovesLeaveItBusy).await?;
        match self.fault {
            Some(Fault::RemovesNothing) => return Ok(self.chunks().contains_key(&self.place(key))),
            Some(Fault::RemovesWhatBeginsWithIt) => {
                let there = self.chunks().contains_key(key);
                self.chunks().retain(|k, _| !k.as_str().starts_with(key.as_str()));
                return Ok(there);
            }
            _ => {}
        }
        Ok(self.chunks().remove(&self.place(key)).is_some())
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        if !self.profile.capabilities().list {
            return stream::once(async { Err(Error::unsupported("list")) }).boxed();
        }
        if self.has(Fault::ListsLeaveItBusy) && self.busy.swap(true, Ordering::SeqCst) {
            return stream::once(async { Err(Error::new(ErrorKind::Other, "a listing is not over")) }).boxed();
        }
        let upper = prefix.to_lowercase();
        let matches = move |key: &CacheKey| match self.fault {
            Some(Fault::ListsInAnyCase) => key.as_str().to_lowercase().starts_with(&upper),
            _ => key.as_str().starts_with(prefix),
        };
        let mut keys: Vec<_> = self.chunks().keys().filter(|k| matches(k)).cloned().collect();
        match self.fault {
            Some(Fault::ListsTwice) => keys.extend(keys.clone()),
            // A page that moves on while keys come and go.
            Some(Fault::ListLosesWhatMoves) if keys.len() > 100 => keys.truncate(keys.len() / 2),
            _ => {}
        }
        let listed = stream::iter(keys).map(Ok).then(|key| async {
            yield_now().await;
            key
        });
        let ended = stream::once(async {
            self.busy.store(false, Ordering::SeqCst);
        });
        listed.map(Some).chain(ended.map(|()| None)).filter_map(std::future::ready).boxed()
    }

    async fn ping(&self) -> Result<()> {
        if self.profile.capabilities().ping { Ok(()) } else { Err(Error::unsupported("ping")) }
    }

    async fn close(&self) -> Result<()> {
        if self.has(Fault::CloseHangs) {
            pending::<()>().await;
        }
        if self.has(Fault::CloseFails) {
            return Err(Error::new(ErrorKind::Other, "the connection was never opened"));
        }
        if self.has(Fault::CloseWorksOnce) && self.closing.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Other, "it is closing already"));
        }
        yield_now().await;
        self.store.closed.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.exists(key).await);
        }
        if self.has(Fault::BatchedExistsMovesHoles) {
            // Those that are there first.
            answers.sort_by_key(|a| !a.as_ref().is_ok_and(|there| *there));
        }
        answers
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let mut n = 0;
        for key in keys {
            match self.exists(key).await? {
                true => n += 1,
                false if self.has(Fault::CountsBehindTheHole) => {}
                false => break,
            }
        }
        Ok(n)
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        if let Err(e) = self.begin(Fault::BatchesLeaveItBusy).await {
            return keys.iter().map(|_| Err(e.again())).collect();
        }
        if self.has(Fault::PanicsOnEmptyBatches) {
            let _ = &keys[0];
        }
        let mut answers = Vec::new();
        for key in keys.iter().take(if self.has(Fault::AThousandKeysAreEnough) { 1000 } else { usize::MAX }) {
            answers.push(self.get(key).await);
        }
        if self.has(Fault::BatchedGetTurnsAround) {
            answers.reverse();
        }
        answers
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let mut answers = Vec::new();
        let mut broken = false;
        for (key, dst) in requests {
            if broken && self.has(Fault::OneFailureStopsTheBatch) {
                answers.push(Err(Error::new(ErrorKind::Other, "the one before has failed")));
                continue;
            }
            let answer = self.get_into(key, dst).await;
            broken |= answer.is_err();
            answers.push(answer);
        }
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let mut answers = Vec::new();
        for (i, (key, chunk)) in items.iter().enumerate() {
            let key = if self.has(Fault::BatchedPutMixesUp) && items.len() > 2 { &items[i / 2].0 } else { key };
            answers.push(self.put(key, chunk.clone()).await);
        }
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.remove(key).await.map(|there| there || self.has(Fault::BatchedRemoveSaysYes)));
        }
        answers
    }
}
