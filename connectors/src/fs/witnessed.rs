//! Chunks that somebody wants to see as they arrive: read in pieces, each seen by the thread that read it.
//!
//! What the page cache has is read at memory's speed, and looking at it takes longer. So a second thread takes pieces, too,
//! where a processor has nothing else to do. (Measured: 4 MiB with BLAKE3 take 0.79 ms on one of two cores, 0.43 on both.)

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use connector_core::MemoryObjMut;
use connector_core::chunk::Pieces;
use connector_core::connector::Pass;
use tokio::task::{JoinHandle, yield_now};

use super::batch::{PROCESSORS, lock};
use super::cached;
use super::connector::FSConnector;
use super::found::Found;

/// What takes fewer pieces is read before a second thread has woken up.
const WORTH_A_THREAD: usize = 6;

/// The second thread is mostly about to end when the first one has: so often others get their turn before it is waited for,
/// which takes longer than the rest of a piece.
const TURNS: usize = 200;

/// Chunks that are being read so.
static READING: AtomicUsize = AtomicUsize::new(0);

/// Counts as reading until it is dropped.
struct Reading;

impl Reading {
    /// Also says whether a processor is left over.
    fn begin() -> (Self, bool) {
        let others = READING.fetch_add(1, Ordering::Relaxed);
        (Self, others + 1 < *PROCESSORS)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Work for a second thread, unless it is taken back before that begins. `close` waits for it.
type Offer = Arc<Mutex<Option<(Arc<Found>, Pieces, Pass)>>>;

/// Hands out no more pieces once the future that reads them is gone, and takes back what was offered.
struct StopOnDrop {
    pieces: Pieces,
    offer: Offer,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.pieces.stop();
        take(&self.offer);
    }
}

impl FSConnector {
    /// As [`Found::read_cached`], of memory with a witness. The memory comes back in any case, unless the future is dropped.
    pub(super) async fn read_witnessed(&self, found: &Arc<Found>, memory: MemoryObjMut) -> (MemoryObjMut, bool) {
        let cache = self.files.cache;
        let mut pieces = Pieces::new(memory, cached::SLICE);
        let (_reading, idle) = Reading::begin();
        let stop = StopOnDrop { pieces: pieces.clone(), offer: Offer::default() };
        let worth_it = idle && pieces.count() >= WORTH_A_THREAD;
        let helper = worth_it.then(|| self.help(found, &pieces, &stop.offer)).flatten();
        while next_piece(&pieces, |bytes, at| found.read_piece_cached(cache, bytes, at)).is_some() {
            yield_now().await;
        }
        if let Some(helper) = helper
            && take(&stop.offer).is_none()
        {
            for _ in 0..TURNS {
                if helper.is_finished() {
                    break;
                }
                yield_now().await;
            }
            if helper.await.is_err() {
                // It may have had a piece that it did not fill.
                pieces.stop();
            }
        }
        let whole = !pieces.is_stopped();
        drop(stop);
        // A thread that ended may not have dropped the last of it yet.
        loop {
            match pieces.into_memory() {
                Ok(memory) => return (memory, whole),
                Err(still) => pieces = still,
            }
            yield_now().await;
        }
    }

    /// Has a blocking thread take pieces, too.
    fn help(&self, found: &Arc<Found>, pieces: &Pieces, offer: &Offer) -> Option<JoinHandle<()>> {
        let (pass, cache) = (self.gate.enter().ok()?, self.files.cache);
        *lock(offer) = Some((found.clone(), pieces.clone(), pass));
        let offer = offer.clone();
        Some(self.handle.spawn_blocking(move || {
            if let Some((found, pieces, _pass)) = take(&offer) {
                while next_piece(&pieces, |bytes, at| found.read_piece_cached(cache, bytes, at)).is_some() {}
            }
        }))
    }
}

fn take(offer: &Offer) -> Option<(Arc<Found>, Pieces, Pass)> {
    lock(offer).take()
}

/// Reads the chunk on this thread, a piece at a time.
pub(super) fn in_pieces(
    memory: &mut MemoryObjMut,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let pieces = Pieces::new(memory.take(), cached::SLICE);
    let read = std::iter::from_fn(|| next_piece(&pieces, &mut read)).collect();
    // Nobody else has any of it.
    if let Ok(whole) = pieces.into_memory() {
        *memory = whole;
    }
    read
}

/// Fills the next piece; `None` if there is none. What cannot be read stops all others.
fn next_piece<E>(pieces: &Pieces, read: impl FnOnce(&mut [u8], u64) -> Result<(), E>) -> Option<Result<(), E>> {
    let mut piece = pieces.take()?;
    let at = piece.offset() as u64;
    let answer = read(&mut piece, at);
    match answer {
        Ok(()) => piece.arrived(),
        Err(_) => pieces.stop(),
    }
    Some(answer)
}
