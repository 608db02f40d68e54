//! The way of a batch: asks the destination, reads the source, writes, and reads back if asked to.

use std::sync::Arc;

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj};
use tokio::sync::RwLock;

use super::archive::Chunks;
use super::batches::{Batch, BatchSize, Item};
use super::totals::Copied;

/// What to do with a chunk that the destination has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Read both chunks, and copy if they differ.
    Compare,
    Skip,
    Replace,
}

#[derive(Clone)]
pub(super) enum Target {
    Store(Connector),
    /// `None` if `--dry-run` writes no archive.
    Archive(Option<Chunks>),
}

/// Source and destination. Cheap to clone.
#[derive(Clone)]
pub(super) struct Route {
    /// `None` for an archive, whose items have their chunks.
    source: Option<Connector>,
    target: Target,
    existing: Existing,
    verify: bool,
    dry_run: bool,
    size: Arc<BatchSize>,
    /// Batches run side by side. One that finds no memory runs alone.
    turns: Arc<RwLock<()>>,
}

/// The results of a batch.
#[derive(Default)]
struct Done {
    copied: Vec<Copied>,
    /// Chunks for which the pool had no memory.
    no_memory: Vec<(Item, Error)>,
}

impl Done {
    fn fail(&mut self, item: Item, e: Error) {
        match e.kind() {
            ErrorKind::PoolFull => self.no_memory.push((item, e)),
            _ => self.copied.push(Copied::Failed(item.key, e)),
        }
    }
}

impl Route {
    pub(super) fn new(
        source: Option<Connector>,
        target: Target,
        existing: Existing,
        (verify, dry_run): (bool, bool),
        size: Arc<BatchSize>,
    ) -> Self {
        Self { source, target, existing, verify, dry_run, size, turns: Arc::default() }
    }

    /// Gives a result for each item.
    pub(super) async fn copy(self, batch: Batch) -> Vec<Copied> {
        let mut done = Done::default();
        let mut items = Vec::with_capacity(batch.len());
        for item in batch {
            match item {
                Ok(item) => items.push(item),
                Err((key, e)) => done.copied.push(Copied::Failed(key, e)),
            }
        }
        let turn = self.turns.read().await;
        self.run(items, &mut done).await;
        drop(turn);
        if !done.no_memory.is_empty() {
            self.size.halve();
            let _alone = self.turns.write().await;
            for (item, _) in std::mem::take(&mut done.no_memory) {
                self.run(vec![item], &mut done).await;
                let failed = done.no_memory.drain(..).map(|(item, e)| Copied::Failed(item.key, e));
                done.copied.extend(failed);
            }
        }
        done.copied
    }

    async fn run(&self, batch: Vec<Item>, done: &mut Done) {
        let (missing, present) = self.ask(batch, done).await;
        if self.dry_run {
            done.copied.extend(missing.iter().map(|_| Copied::Planned));
            done.copied.extend(present.iter().map(|_| Copied::Present));
            return;
        }
        let chunks = self.read(missing, done).await;
        self.write(chunks, done).await;
        let chunks = self.read(present, done).await;
        let differing = self.differing(chunks, done).await;
        self.write(differing, done).await;
    }

    /// The chunks that the destination lacks, and those to compare.
    async fn ask(&self, batch: Vec<Item>, done: &mut Done) -> (Vec<Item>, Vec<Item>) {
        let (mut missing, mut present) = (Vec::new(), Vec::new());
        let Target::Store(target) = &self.target else { return (batch, present) };
        if self.existing == Existing::Replace {
            return (batch, present);
        }
        let keys: Vec<CacheKey> = batch.iter().map(|item| item.key.clone()).collect();
        let answers = target.batched_exists(&keys).await;
        for (item, answer) in batch.into_iter().zip(answers) {
            match answer {
                Ok(true) if self.existing == Existing::Skip => done.copied.push(Copied::Present),
                Ok(true) => present.push(item),
                Ok(false) => missing.push(item),
                // The copy replaces a corrupt chunk.
                Err(e) if e.kind() == ErrorKind::Corrupt => missing.push(item),
                Err(e) => done.fail(item, e),
            }
        }
        (missing, present)
    }

    async fn read(&self, items: Vec<Item>, done: &mut Done) -> Vec<(CacheKey, MemoryObj)> {
        let (mut chunks, mut keys) = (Vec::with_capacity(items.len()), Vec::new());
        for Item { key, chunk } in items {
            match chunk {
                Some(chunk) => chunks.push((key, chunk)),
                None => keys.push(key),
            }
        }
        let Some(source) = self.source.as_ref().filter(|_| !keys.is_empty()) else { return chunks };
        let answers = source.batched_get(&keys).await;
        for (key, answer) in keys.into_iter().zip(answers) {
            match answer {
                Ok(Some(chunk)) => {
                    self.size.learn(chunk.len());
                    chunks.push((key, chunk));
                }
                Ok(None) => done.copied.push(Copied::Gone),
                Err(e) => done.fail(Item { key, chunk: None }, e),
            }
        }
        chunks
    }

    async fn write(&self, chunks: Vec<(CacheKey, MemoryObj)>, done: &mut Done) {
        if chunks.is_empty() {
            return;
        }
        let target = match &self.target {
            Target::Store(target) => target,
            Target::Archive(archive) => {
                let lens: Vec<usize> = chunks.iter().map(|(_, chunk)| chunk.len()).collect();
                match archive {
                    Some(archive) if archive.send(chunks).await => {
                        done.copied.extend(lens.into_iter().map(Copied::Written));
                    }
                    _ => done.copied.push(Copied::TargetLost),
                }
                return;
            }
        };
        let answers = target.batched_put(&chunks).await;
        let mut written = Vec::with_capacity(chunks.len());
        for ((key, chunk), answer) in chunks.into_iter().zip(answers) {
            match answer {
                Ok(()) => written.push((key, chunk)),
                Err(e) => done.fail(self.again(key, chunk), e),
            }
        }
        if self.verify {
            self.verify(target, written, done).await;
        } else {
            done.copied.extend(written.into_iter().map(|(_, chunk)| Copied::Written(chunk.len())));
        }
    }

    async fn verify(&self, target: &Connector, written: Vec<(CacheKey, MemoryObj)>, done: &mut Done) {
        let keys: Vec<CacheKey> = written.iter().map(|(key, _)| key.clone()).collect();
        let back = target.batched_get(&keys).await;
        for ((key, chunk), back) in written.into_iter().zip(back) {
            let differs = |how: &str| {
                Error::new(ErrorKind::Corrupt, format!("the copy {how}"))
                    .with_operation("verify")
                    .with_connector(target.name())
            };
            let e = match back {
                Ok(Some(back)) if *back != *chunk => differs("has different bytes"),
                Ok(Some(back)) if !self.is_same(target, &key, &chunk, &back) => {
                    differs(&format!("has the layout `{}` instead of `{}`", back.layout(), chunk.layout()))
                }
                Ok(Some(_)) => {
                    done.copied.push(Copied::Written(chunk.len()));
                    continue;
                }
                Ok(None) => differs("is gone right after it was written").with_hint("the store may be full"),
                Err(e) => e,
            };
            done.fail(self.again(key, chunk), e);
        }
    }

    /// The chunks that differ from the destination's.
    async fn differing(&self, chunks: Vec<(CacheKey, MemoryObj)>, done: &mut Done) -> Vec<(CacheKey, MemoryObj)> {
        let Target::Store(target) = &self.target else { return chunks };
        let keys: Vec<CacheKey> = chunks.iter().map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return chunks;
        }
        let mut differing = Vec::new();
        for ((key, chunk), stored) in chunks.into_iter().zip(target.batched_get(&keys).await) {
            match stored {
                Ok(Some(stored)) if self.is_same(target, &key, &chunk, &stored) => done.copied.push(Copied::Present),
                Ok(_) => differing.push((key, chunk)),
                Err(e) if e.kind() == ErrorKind::Corrupt => differing.push((key, chunk)),
                Err(e) => done.fail(self.again(key, chunk), e),
            }
        }
        differing
    }

    fn is_same(&self, target: &Connector, key: &CacheKey, a: &MemoryObj, b: &MemoryObj) -> bool {
        let keeps = |store: &Connector| store.capabilities().keeps_layout_of(key.kind());
        let layout_counts = keeps(target) && self.source.as_ref().is_none_or(keeps);
        **a == **b && (!layout_counts || a.layout() == b.layout())
    }

    /// The item of a chunk that must be copied again. A store gives the chunk again, so its memory is free meanwhile.
    fn again(&self, key: CacheKey, chunk: MemoryObj) -> Item {
        Item { key, chunk: self.source.is_none().then_some(chunk) }
    }
}
