//! A connector that takes its next answers from a queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connector_core::{BoxStream, CacheKey, Error, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result};
use futures::stream::{self, StreamExt};

/// The behaviour of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Fail(ErrorKind, bool),
    /// Asks for a time before another try.
    Throttle(Duration),
    Wait(Duration),
    Panic,
    /// Takes the memory of a `get_into` and never gives it back.
    Keep(Duration),
}

/// Follows its steps, one for each call on one key. After the last step every call succeeds, and every chunk is
/// [`CHUNK`].
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    steps: Arc<Mutex<VecDeque<Step>>>,
    calls: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

pub(crate) const CHUNK: &[u8] = b"chunk";

pub(crate) const LOST: Step = Step::Fail(ErrorKind::Unavailable, true);

struct Running<'a>(&'a Scripted);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let this = Self::default();
        this.then(steps);
        this
    }

    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().unwrap().extend(steps);
    }

    /// The number of keys of all calls.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The most calls that were in flight at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// The number of calls in flight.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// The number of its holders.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.calls)
    }

    async fn step(&self, dst: Option<&mut MemoryObjMut>) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let _running = Running(self);
        let step = self.steps.lock().unwrap().pop_front();
        match step {
            None => {}
            Some(Step::Fail(kind, temporary)) => return Err(Error::new(kind, "as scripted").temporary(temporary)),
            Some(Step::Throttle(wait)) => {
                return Err(Error::new(ErrorKind::Throttled, "as scripted").temporary(true).with_retry_after(wait));
            }
            Some(Step::Panic) => panic!("as scripted"),
            Some(Step::Wait(time)) => tokio::time::sleep(time).await,
            Some(Step::Keep(time)) => {
                let _kept = dst.map(MemoryObjMut::take);
                tokio::time::sleep(time).await;
            }
        }
        Ok(())
    }
}

impl RemoteConnector for Scripted {
    async fn exists(&self, _: &CacheKey) -> Result<bool> {
        self.step(None).await.map(|()| true)
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.step(None).await?;
        Ok((!key.as_str().contains("missing")).then(|| MemoryObj::from(CHUNK.to_vec())))
    }

    async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
        self.step(None).await
    }

    async fn get_into(&self, _: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.step(Some(&mut *dst)).await?;
        dst.set_layout(connector_core::ChunkLayout::binary(CHUNK.len()))?;
        dst.copy_from_slice(CHUNK);
        Ok(Some(CHUNK.len()))
    }

    /// Gives one key, and then waits for ever.
    fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let key = "m@1@0@ff@half".parse::<CacheKey>();
        stream::iter([key]).chain(stream::pending()).boxed()
    }

    async fn remove(&self, _: &CacheKey) -> Result<bool> {
        self.step(None).await.map(|()| true)
    }

    async fn ping(&self) -> Result<()> {
        self.step(None).await
    }
}
