//! The workers, which take the parts of jobs in their order.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use connectors::{Error, ErrorKind, runtime};
use futures::FutureExt;

use super::job::{Kind, cut_off};
use super::queue::{Queue, State};
use super::transfer::{self, Part};

/// Bytes of one part, unless one value is longer. Enough for the throughput of a network, because several parts are under way. Of
/// the stores that wait, only the parts under way, 16 MiB, are ahead of a load that comes.
const PART_BYTES: u64 = 4 << 20;
/// Most keys of one part.
const PART_KEYS: usize = 256;
/// Parts under way at once, and how many of them may be stores. The others are for loads.
const PARTS: usize = 8;
const STORE_PARTS: usize = 4;
impl<H: Send + 'static> Queue<H> {
    /// Runs one part, and then others, on a worker.
    pub(super) fn spawn(self: &Arc<Self>, part: Option<Part<H>>) {
        let Some(part) = part else { return };
        if let Ok(runtime) = runtime::handle() {
            let mut working = Working { queue: self.clone(), part: Some(part) };
            runtime.spawn(async move { while working.step().await {} });
        }
    }

    /// Takes the next part, if another one may be under way.
    pub(super) fn next_part(self: &Arc<Self>, state: &mut State<H>) -> Option<Part<H>> {
        if state.load_parts + state.store_parts >= PARTS {
            return None;
        }
        let (waiting, parts) = match () {
            () if !state.loads.is_empty() => (&mut state.loads, &mut state.load_parts),
            () if state.store_parts < STORE_PARTS => (&mut state.stores, &mut state.store_parts),
            () => return None,
        };
        let front = waiting.front_mut()?;
        let start = front.next;
        let (mut end, mut bytes) = (start, 0);
        while end < front.job.keys.len() && end - start < PART_KEYS {
            bytes += front.job.len_of(end) as u64;
            if end > start && bytes > PART_BYTES {
                break;
            }
            end += 1;
        }
        front.next = end;
        let job = front.job.clone();
        if end == job.keys.len() {
            waiting.pop_front();
        }
        *parts += 1;
        if let Some(live) = state.live.get_mut(&job.number) {
            live.began.get_or_insert_with(Instant::now);
        }
        Some(Part { job, places: start..end })
    }
}

/// A worker. Its drop, also in the middle of a part, gives its place to another worker.
struct Working<H: Send + 'static> {
    queue: Arc<Queue<H>>,
    part: Option<Part<H>>,
}

impl<H: Send + 'static> Working<H> {
    /// Runs the part and takes the next one. False if there is none.
    async fn step(&mut self) -> bool {
        let Some(part) = &self.part else { return false };
        // Another worker takes the next part meanwhile.
        let other = self.queue.next_part(&mut self.queue.state());
        self.queue.spawn(other);
        let mut cuts = self.queue.cuts();
        let run = AssertUnwindSafe(transfer::run(&self.queue, part, &self.queue.copies)).catch_unwind();
        let ended = tokio::select! {
            ended = run => ended,
            _ = cuts.wait_for(|cut| *cut) => Ok(()),
        };
        if ended.is_err() {
            part.job.fail(part.places.clone(), &Error::new(ErrorKind::Other, "the call panicked"));
        }
        self.leave();
        self.part = self.queue.next_part(&mut self.queue.state());
        self.part.is_some()
    }

    /// Gives up the part, and its place.
    fn leave(&mut self) {
        let Some(part) = self.part.take() else { return };
        let mut state = self.queue.state();
        match part.job.kind {
            Kind::Load => state.load_parts -= 1,
            _ => state.store_parts -= 1,
        }
        // The drop of the part may complete the job, which takes the lock.
        drop(state);
    }
}

impl<H: Send + 'static> Drop for Working<H> {
    fn drop(&mut self) {
        // The runtime drops its tasks at the end of the process, and then no worker takes the parts that wait.
        if self.part.is_some() {
            self.leave();
            self.queue.fail_waiting(&cut_off());
        }
    }
}
