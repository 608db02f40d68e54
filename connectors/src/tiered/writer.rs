//! Writes what waits in the buffer to the store behind.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use futures::future::{FutureExt, select};
use futures::stream::{self, StreamExt};
use tokio::time::sleep;

use super::buffer::{Buffer, missing};
use super::tiers::Tiers;

/// How long a writer waits after a failure: doubled each time, to the second number.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many chunks `close` writes at once.
const AT_ONCE: usize = 4;

/// One writer, until nothing waits, or the back fails while the connector ends. Holds the stores: what was answered is
/// written also if the connector is dropped.
pub(super) async fn write_on(tiers: Arc<Tiers>) {
    let Some(buffer) = &tiers.buffer else { return };
    let mut pause = FIRST_PAUSE;
    let mut writer = buffer.writer();
    while let Some((again, write)) = writer.next() {
        writer = again;
        let answer = put(&tiers, &write.key, &write.chunk).await;
        let failed = answer.as_ref().err().cloned();
        let key = write.key.clone();
        write.end(answer);
        let Some(error) = failed else {
            pause = FIRST_PAUSE;
            continue;
        };
        let (chunks, bytes) = buffer.rest();
        if buffer.is_ending() {
            tracing::error!(%key, %error, chunks, bytes, "the store behind failed at the end: these chunks are not in it");
            return;
        }
        tracing::warn!(%key, %error, chunks, bytes, "the store behind failed: the chunk waits, and is tried again");
        select(std::pin::pin!(sleep(pause)), std::pin::pin!(buffer.ending())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    // The last one has ended with `None`.
}

/// Writes one chunk. A back that panics has failed: the writer lives on, and tries again.
async fn put(tiers: &Tiers, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
    let work = async {
        match tiers.back.put(key, chunk.clone()).await {
            Err(error) if refuses(&error) => give_up(tiers, key, &error).await,
            answer => answer,
        }
    };
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the store behind panicked")))?;
    tiers.keys.settle(key);
    Ok(())
}

/// What the back refuses for good (a key that cannot be its file's name) would wait for ever: it is given up, and stays in
/// the front as long as there is room. Most of it is refused when it is put, by what the back says it can do. The back must
/// not keep the key's old chunk: that would be given out when the front has dropped the new one.
async fn give_up(tiers: &Tiers, key: &CacheKey, error: &Error) -> Result<()> {
    if tiers.back.capabilities().remove {
        match tiers.back.remove(key).await {
            Err(e) if !refuses(&e) => return Err(e),
            _ => {}
        }
    }
    tracing::error!(%key, %error, "the store behind refuses the chunk: it stays in front only");
    Ok(())
}

/// Whether the error is about this key or chunk, and not about the store: a full disk is about the store.
fn refuses(error: &Error) -> bool {
    use ErrorKind::{InvalidInput, InvalidKey, SizeMismatch, TooLarge, Unsupported};
    matches!(error.kind(), InvalidKey | InvalidInput | Unsupported | SizeMismatch | TooLarge)
}

/// Writes everything; if the back fails, each chunk is tried once.
pub(super) async fn flush(tiers: &Tiers, buffer: &Buffer) -> Result<()> {
    buffer.end();
    buffer.idle().await;
    let tries = buffer.rest().0;
    let errors = stream::iter(0..tries).map(|_| async {
        let write = buffer.next()?;
        let answer = put(tiers, &write.key, &write.chunk).await;
        let error = answer.as_ref().err().cloned();
        write.end(answer);
        error
    });
    let errors: Vec<Error> = errors.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    match errors.into_iter().next() {
        Some(e) if buffer.rest().0 > 0 => Err(missing(buffer, &Arc::new(e))),
        _ => Ok(()),
    }
}
