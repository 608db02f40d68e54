//! A connector in memory that keeps the contract, except for the rule that its fault breaks.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use connector_core::conformance::Kit;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkLayout, Connector, Error, ErrorKind, ListEntry, LocalCpuBackend, MemoryObj,
    MemoryObjMut, RemoteConnector, Result, ServerInfo,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::oneshot;
use tokio::task::yield_now;

mod by_path;
mod fault;
mod lent;
mod profile;
mod store;
mod untidy;

pub(crate) use fault::{FAULTS, Fault};
use lent::Lent;
pub(crate) use profile::Profile;
pub(crate) use untidy::{Untidy, Wrong};

/// The store behind all connectors of one kit.
#[derive(Default)]
pub(crate) struct Store {
    chunks: Mutex<HashMap<CacheKey, Stored>>,
    /// Calls that have begun and not ended.
    running: AtomicUsize,
    /// Whether a connector of the store was closed.
    closed: AtomicBool,
    puts: AtomicUsize,
}

struct Stored {
    bytes: Vec<u8>,
    layout: ChunkLayout,
    /// Only a fault keeps the caller's memory, or gives out the store's memory.
    kept: Option<MemoryObj>,
    lent: Option<Lent>,
}

pub(crate) struct Faulty {
    store: Arc<Store>,
    backend: LocalCpuBackend,
    profile: Profile,
    fault: Option<Fault>,
    /// Whether a dropped call has left the connection busy.
    busy: AtomicBool,
    closing: AtomicBool,
    /// The last put, if the store does not have it yet.
    waiting: Mutex<Option<(CacheKey, Vec<u8>, ChunkLayout)>>,
}

/// Longer than a few polls, shorter than a test.
async fn long() {
    for _ in 0..40 {
        yield_now().await;
    }
}

/// A kit with a new store.
pub(crate) fn kit(profile: Profile, fault: Option<Fault>) -> Kit {
    if fault == Some(Fault::TakesTheModuleForItsPath) {
        return Kit::from("module-as-path://h:1/dir");
    }
    let store = Arc::new(Store::default());
    Kit::new(move |backend| {
        let store = store.clone();
        async move {
            let (busy, closing) = (AtomicBool::new(false), AtomicBool::new(false));
            let waiting = Mutex::default();
            Ok(Connector::new("test/Faulty", Faulty { store, backend, profile, fault, busy, closing, waiting }))
        }
    })
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.has(Fault::DropPanics) {
            panic!("the author did not think of this");
        }
        while self.has(Fault::DropBlocks) {
            std::thread::park();
        }
    }
}

impl RemoteConnector for Faulty {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.begin(Fault::GetsLeaveItBusy).await?;
        if self.has(Fault::HangsInExists) {
            pending::<()>().await;
        }
        if self.has(Fault::ExistsIsAlwaysTrue) {
            return Ok(true);
        }
        Ok(self.find(key).is_some())
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.begin(Fault::GetsLeaveItBusy).await?;
        if self.has(Fault::LongGetsLeaveItBusy) {
            long().await;
            self.begin(Fault::LongGetsLeaveItBusy).await?;
        }
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
        if self.has(Fault::SleepsInGet) {
            std::thread::sleep(Duration::from_millis(150));
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
            (memory, Some(Fault::UnwrapsErrors)) => memory.expect("the author did not think of this"),
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
            Some(Fault::HangsInPut) => pending::<()>().await,
            Some(Fault::LosesEveryOtherPut) if self.store.puts.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {}
            Some(Fault::StoresInHalves | Fault::ShowsHalves) => self.store_in_halves(key, &chunk).await,
            Some(Fault::CloseLosesTheLastPut) => {
                self.write_deferred();
                yield_now().await;
                // The next call writes it.
                *self.waiting.lock().expect("no test panics here") =
                    Some((key.clone(), chunk.to_vec(), chunk.layout().clone()));
            }
            Some(Fault::WorksOnForEver | Fault::LongPutsWorkOnForEver) => {
                if self.has(Fault::LongPutsWorkOnForEver) {
                    long().await;
                }
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
            // A dropped future leaves the shorter memory in `dst`.
            let memory = std::mem::replace(dst, MemoryObjMut::zeroed(1));
            yield_now().await;
            *dst = memory;
        }
        if self.is_of_another_kind(key) {
            return Err(Error::new(ErrorKind::InvalidKey, "the store takes only object keys"));
        }
        let Some((bytes, layout)) = self.find(key) else { return Ok(None) };
        let is_other = if layout.len > dst.len() {
            !self.has(Fault::ShortMemoryIsAnError)
        } else {
            layout.len < dst.len() && !self.has(Fault::FillsLongerMemory)
        };
        if self.profile.capabilities().exact_length && is_other {
            return Ok(None);
        }
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
        match self.fault {
            Some(Fault::HangsInList) => return stream::pending().boxed(),
            Some(Fault::BlocksInList) => loop {
                std::thread::park();
            },
            Some(Fault::ListNeverEnds) => {
                let key = self.chunks().keys().find(|key| key.as_str().starts_with(prefix)).cloned();
                return stream::iter(key.into_iter().cycle()).map(Ok).boxed();
            }
            _ => {}
        }
        if self.has(Fault::ListsLeaveItBusy) && self.busy.swap(true, Ordering::SeqCst) {
            return stream::once(async { Err(Error::new(ErrorKind::Other, "a listing is not over")) }).boxed();
        }
        let upper = prefix.to_lowercase();
        let matches = move |key: &CacheKey| match self.fault {
            Some(Fault::ListsInAnyCase) => key.as_str().to_lowercase().starts_with(&upper),
            Some(Fault::ListsWhatContainsIt) => key.as_str().contains(prefix),
            _ => key.as_str().starts_with(prefix),
        };
        let mut keys: Vec<_> = self.chunks().keys().filter(|k| matches(k)).cloned().collect();
        match self.fault {
            Some(Fault::ListsOneKeyOfManyTwice) if keys.len() > 100 => keys.insert(100, keys[99].clone()),
            Some(Fault::ListsTwice) => keys.extend(keys.clone()),
            // As a listing in pages that loses keys when others come and go.
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

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let most = if self.has(Fault::EntriesEndEarly) { 999 } else { usize::MAX };
        let entry = |key: CacheKey| {
            let len = self.chunks().get(&key).map_or(0, |stored| stored.bytes.len() as u64);
            let size = if self.has(Fault::SizesAreInKilobytes) { len >> 10 } else { len };
            ListEntry::new(key).with_size(size).with_modified(SystemTime::now())
        };
        self.list(prefix).map_ok(entry).take(most).boxed()
    }

    async fn ping(&self) -> Result<()> {
        if self.profile.capabilities().ping { Ok(()) } else { Err(Error::unsupported("ping")) }
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        let server = ServerInfo::new(if self.has(Fault::NamesTheLogin) { "user:password@h:1" } else { "h:1" });
        Ok(if self.profile == Profile::Plain { Vec::new() } else { vec![server.with_role("master")] })
    }

    async fn close(&self) -> Result<()> {
        if self.has(Fault::CloseHangs) {
            pending::<()>().await;
        }
        if self.has(Fault::CloseFails) {
            return Err(Error::new(ErrorKind::Other, "the connection was never opened"));
        }
        if self.has(Fault::LongCloseWorksOnce) {
            long().await;
        }
        let once = self.has(Fault::CloseWorksOnce) || self.has(Fault::LongCloseWorksOnce);
        if once && self.closing.swap(true, Ordering::SeqCst) {
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
            // Stored keys first.
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
            return keys.iter().map(|_| Err(e.clone())).collect();
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

    async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        let mut chunks = Vec::new();
        for answer in self.batched_get(keys).await {
            match answer? {
                Some(chunk) => chunks.push(chunk),
                None if self.has(Fault::PrefixSkipsTheHole) => {}
                None => break,
            }
        }
        Ok(chunks)
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
        let refused = answers.iter().find_map(|answer| answer.clone().err());
        match refused.filter(|_| self.has(Fault::ARefusalStopsTheBatch)) {
            Some(e) => answers.iter().map(|_| Err(e.clone())).collect(),
            None => answers,
        }
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.remove(key).await.map(|there| there || self.has(Fault::BatchedRemoveSaysYes)));
        }
        answers
    }
}
