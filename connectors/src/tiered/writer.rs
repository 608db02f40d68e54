//! Writes the chunks of the write-back buffer to the back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, Result};
use futures::future::{FutureExt, select};
use futures::stream::{self, StreamExt};
use tokio::time::sleep;

use super::buffer::{Buffer, Write};
use super::tiers::{FIRST_PAUSE, LONGEST_PAUSE, Tiers};

/// The number of chunks that `close` writes concurrently.
const FLUSH_CONCURRENCY: usize = 4;

/// A writer that the buffer has counted and that does not run yet. Its runtime may end before it does.
struct Counted(Option<Arc<Tiers>>);

impl Drop for Counted {
    fn drop(&mut self) {
        drop(self.0.as_ref().and_then(|tiers| tiers.buffer.as_ref()).map(Buffer::writer));
    }
}

/// Starts a writer that the buffer has counted.
pub(super) fn start(tiers: &Arc<Tiers>) {
    tiers.spawn(run(Counted(Some(tiers.clone()))));
}

/// Writes until the queue is empty, or until the back fails while the buffer ends. The task keeps the stores alive, so
/// that it writes answered puts even after the connector is dropped.
async fn run(mut counted: Counted) {
    let Some(tiers) = counted.0.take() else { return };
    let Some(buffer) = &tiers.buffer else { return };
    let mut pause = FIRST_PAUSE;
    let mut writer = buffer.writer();
    while let Some((same, write)) = writer.next() {
        writer = same;
        let answer = put(&tiers, buffer, &write).await;
        let failed = answer.as_ref().err().cloned();
        let key = write.key.clone();
        write.end(answer);
        let Some(error) = failed else {
            pause = FIRST_PAUSE;
            continue;
        };
        let (chunks, bytes) = buffer.remaining();
        if buffer.is_ending() {
            tracing::error!(%key, %error, chunks, bytes, "the back store failed while the connector ends: it lacks these chunks");
            return;
        }
        tracing::warn!(%key, %error, chunks, bytes, "the back store failed: kvconn will write the chunk again");
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
        select(std::pin::pin!(sleep(pause.max(asked))), std::pin::pin!(buffer.wait_for_end())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Writes one chunk. A panic of the back is a failure, so that the writer survives and retries.
async fn put(tiers: &Tiers, buffer: &Buffer, write: &Write<'_>) -> Result<()> {
    let key = &write.key;
    let work = async {
        match tiers.back.put(key, write.chunk.clone()).await {
            Err(error) if refuses(&error) => {
                give_up(tiers, key, &error).await?;
                buffer.refuse(write, &error);
                Ok(())
            }
            answer => answer,
        }
    };
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the back store panicked")))?;
    tiers.keys.confirm(key);
    Ok(())
}

/// Drops a chunk that the back refuses permanently (a key that cannot be a file's name), which would wait for ever.
/// The front keeps it until it evicts it. (`put` refuses most such chunks by the back's capabilities.) Removes the
/// key's old chunk from the back, because a read would find it when the front has evicted the new one.
async fn give_up(tiers: &Tiers, key: &CacheKey, error: &Error) -> Result<()> {
    if tiers.back.capabilities().remove {
        match tiers.back.remove(key).await {
            Err(e) if !refuses(&e) => return Err(e),
            _ => {}
        }
    }
    tracing::error!(%key, %error, "the back store refuses the chunk: only the front store has it");
    Ok(())
}

/// Whether the back can never take this key or chunk. A condition of the store, such as a full disk, a read-only
/// replica or a missing right, can pass. The writers then wait and try again.
fn refuses(error: &Error) -> bool {
    use ErrorKind::{InvalidInput, InvalidKey, SizeMismatch, TooLarge, Unsupported};
    matches!(error.kind(), InvalidKey | InvalidInput | Unsupported | SizeMismatch | TooLarge)
}

/// Writes all chunks of the buffer, and tries each once. Fails if a chunk is left.
pub(super) async fn flush(tiers: &Tiers, buffer: &Buffer) -> Result<()> {
    buffer.end();
    buffer.wait_for_writers().await;
    let tries = buffer.remaining().0;
    let errors = stream::iter(0..tries).map(|_| async {
        let write = buffer.next()?;
        let answer = put(tiers, buffer, &write).await;
        let error = answer.as_ref().err().cloned();
        write.end(answer);
        error
    });
    let errors: Vec<Error> = errors.buffer_unordered(FLUSH_CONCURRENCY).filter_map(std::future::ready).collect().await;
    // At the end of a process, two of these run for one store.
    buffer.wait_for_writes().await;
    let (chunks, bytes) = buffer.remaining();
    if chunks == 0 {
        return Ok(());
    }
    let unknown = || Error::new(ErrorKind::Other, "another `close` could not write them");
    let e = errors.into_iter().next().or_else(|| buffer.failure()).unwrap_or_else(unknown);
    let message = format!("the back store lacks {chunks} chunks of {bytes} bytes, because {e}");
    Err(Error::new(e.kind(), message).with_status(e.status()).with_hint("call `close` again to retry"))
}
