//! Batches of keys whose chunks fit into memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use connectors::{CacheKey, Error, MemoryObj};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};

/// One chunk to copy.
pub(super) struct Item {
    pub(super) key: CacheKey,
    /// The chunk, if the source is an archive. Otherwise the batch reads it from the source.
    pub(super) chunk: Option<MemoryObj>,
}

/// Chunks to copy, and those of an archive that cannot be copied.
pub(super) type Batch = Vec<Result<Item, (CacheKey, Error)>>;

/// The number of chunks in a batch. It follows from the largest chunk so far, because a store does not tell the sizes of
/// its chunks for free.
pub(super) struct BatchSize {
    most: AtomicUsize,
    bytes: usize,
    largest: AtomicUsize,
}

/// Chunks of the first batches, before a size is known.
const FIRST: usize = 4;

impl BatchSize {
    /// Batches of at most `most` chunks and about `bytes` bytes.
    pub(super) fn new(most: usize, bytes: usize) -> Self {
        Self { most: AtomicUsize::new(most), bytes, largest: AtomicUsize::new(0) }
    }

    /// The chunks of the next batch, at least 1.
    pub(super) fn chunks(&self) -> usize {
        let most = self.most.load(Relaxed);
        match self.largest.load(Relaxed) {
            0 => most.min(FIRST),
            len => most.min((self.bytes / len).max(1)),
        }
    }

    /// The bytes of the next batch.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A chunk has this many bytes.
    pub(super) fn learn(&self, len: usize) {
        self.largest.fetch_max(len, Relaxed);
    }

    /// The pool was full.
    pub(super) fn halve(&self) {
        let halved = |most: usize| Some((most / 2).max(1));
        let _ = self.most.fetch_update(Relaxed, Relaxed, halved);
    }
}

/// Cuts a list of keys into batches. An error ends the list, behind the batch before it.
pub(super) fn of_keys<'a>(
    keys: impl Stream<Item = Result<CacheKey, Error>> + Send + 'a,
    size: Arc<BatchSize>,
) -> BoxStream<'a, Result<Batch, Error>> {
    let batches = stream::unfold(Some(keys.boxed()), move |keys| {
        let chunks = size.chunks();
        async move {
            let mut keys = keys?;
            let mut batch = Vec::with_capacity(chunks);
            while batch.len() < chunks {
                match keys.next().await {
                    Some(Ok(key)) => batch.push(Ok(Item { key, chunk: None })),
                    Some(Err(e)) => return Some((vec![Ok(batch), Err(e)], None)),
                    None => return (!batch.is_empty()).then_some((vec![Ok(batch)], None)),
                }
            }
            Some((vec![Ok(batch)], Some(keys)))
        }
    });
    batches.flat_map(stream::iter).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use connectors::ErrorKind;

    fn key(i: usize) -> CacheKey {
        format!("m@1@0@{i:x}@half").parse().expect("it is a key")
    }

    #[test]
    fn a_batch_has_as_many_chunks_as_fit_its_bytes() {
        let size = BatchSize::new(16, 100);
        assert_eq!(size.chunks(), FIRST);
        size.learn(10);
        assert_eq!(size.chunks(), 10);
        size.learn(1000);
        assert_eq!(size.chunks(), 1, "a batch has at least one chunk");
        size.learn(1);
        assert_eq!(size.chunks(), 1, "the largest chunk counts");
        let size = BatchSize::new(5, 100);
        size.learn(1);
        for chunks in [5, 2, 1, 1] {
            assert_eq!(size.chunks(), chunks);
            size.halve();
        }
    }

    #[tokio::test]
    async fn keys_before_an_error_of_the_list_are_a_batch() {
        let failed = Error::new(ErrorKind::Other, "lost");
        let keys = (0..6).map(|i| Ok(key(i))).chain([Err(failed)]);
        let batches: Vec<_> = of_keys(stream::iter(keys), Arc::new(BatchSize::new(4, 100))).collect().await;
        let lens: Vec<_> = batches.iter().map(|batch| batch.as_ref().map(Vec::len).map_err(Error::message)).collect();
        assert_eq!(lens, [Ok(4), Ok(2), Err("lost")]);
        assert_eq!(of_keys(stream::iter([]), Arc::new(BatchSize::new(4, 100))).count().await, 0);
    }
}
