//! Moves one part of a job between the store and the job's memory.
#![expect(unsafe_code, reason = "lends the engine's memory to the store, and copies from and to it")]

use std::ops::Range;
use std::sync::Arc;

use connectors::{CacheKey, ChunkLayout, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, Result};

use super::job::{Answer, Job, Kind};
use super::queue::Queue;

/// Some keys of a job.
pub(super) struct Part<H: Send + 'static> {
    pub(super) job: Arc<Job<H>>,
    pub(super) places: Range<usize>,
}

/// Moves a part, and records the answer for each of its keys.
pub(super) async fn run<H: Send + 'static>(queue: &Queue<H>, part: &Part<H>, copies: &LocalCpuBackend) {
    let job = &part.job;
    let (mut places, mut keys) = (Vec::with_capacity(part.places.len()), Vec::with_capacity(part.places.len()));
    for (place, key) in job.keys.parse(part.places.clone()) {
        match key {
            Ok(key) => {
                places.push(place);
                keys.push(key);
            }
            Err(e) => job.answer(place, Err(e)),
        }
    }
    let moved = match job.kind {
        Kind::Load => load(queue, job, &places, keys, copies).await,
        _ => store(queue, job, &places, keys, copies).await,
    };
    if let Err(e) = moved {
        job.fail(part.places.clone(), &e);
    }
}

/// # Errors
/// The error of the copy memory, if it has no room.
async fn load<H: Send + 'static>(
    queue: &Queue<H>,
    job: &Arc<Job<H>>,
    places: &[usize],
    keys: Vec<CacheKey>,
    copies: &LocalCpuBackend,
) -> Result<()> {
    let memory: Vec<MemoryObjMut> = if job.pieces == 1 {
        // SAFETY: `held` of the job keeps the memory, and the completion comes after the last holder of the job is gone. The
        // engine promises to leave the memory alone until then.
        places.iter().map(|&at| unsafe { job.spans[at].lend_to_write(job.clone()) }).collect::<Result<_>>()?
    } else {
        copies.allocate_many(&layouts(job, places)).await?
    };
    let mut requests: Vec<_> = keys.into_iter().zip(memory).collect();
    let answers = queue.connector.batched_get_into(&mut requests).await;
    note(queue, job, &answers);
    for ((&at, (_, memory)), answer) in places.iter().zip(&requests).zip(answers) {
        let answer = match answer {
            Ok(Some(read)) if read == job.len_of(at) => {
                if job.pieces > 1 {
                    scatter(job, at, memory);
                }
                Ok(Answer::Moved(read))
            }
            Ok(Some(_)) => Ok(Answer::Stale),
            Err(e) if e.kind() == ErrorKind::SizeMismatch => Ok(Answer::Stale),
            Ok(None) => Ok(Answer::Miss),
            Err(e) => Err(e),
        };
        job.answer(at, answer);
    }
    Ok(())
}

/// # Errors
/// As [`load`].
async fn store<H: Send + 'static>(
    queue: &Queue<H>,
    job: &Arc<Job<H>>,
    places: &[usize],
    keys: Vec<CacheKey>,
    copies: &LocalCpuBackend,
) -> Result<()> {
    let chunks: Vec<MemoryObj> = if job.pieces == 1 {
        let lend = |&at: &usize| {
            let span = job.spans[at];
            // SAFETY: as in `load`; the engine promises not to write to the memory until the completion.
            unsafe { span.lend_to_read(ChunkLayout::binary(span.len()), job.clone()) }
        };
        places.iter().map(lend).collect::<Result<_>>()?
    } else {
        let memory = copies.allocate_many(&layouts(job, places)).await?;
        places.iter().zip(memory).map(|(&at, memory)| gather(job, at, memory)).collect()
    };
    let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
    let items: Vec<_> = keys.into_iter().zip(chunks).collect();
    let answers = queue.connector.batched_put(&items).await;
    note(queue, job, &answers);
    for ((&at, len), answer) in places.iter().zip(lengths).zip(answers) {
        job.answer(at, answer.map(|()| Answer::Moved(len)));
    }
    Ok(())
}

/// Records whether the store answered. A part without any answer in time ends its job: each further part would wait as long.
fn note<H: Send + 'static, T>(queue: &Queue<H>, job: &Job<H>, answers: &[Result<T>]) {
    if let Some(timeout) = queue.note(answers) {
        queue.cancel(job.number, timeout);
    }
}

fn layouts<H: Send + 'static>(job: &Job<H>, places: &[usize]) -> Vec<ChunkLayout> {
    places.iter().map(|&at| ChunkLayout::binary(job.len_of(at))).collect()
}

/// Copies the pieces of one key's value one after the other.
fn gather<H: Send + 'static>(job: &Job<H>, key: usize, mut memory: MemoryObjMut) -> MemoryObj {
    let mut rest = &mut memory[..];
    for span in job.spans_of(key) {
        let (piece, behind) = rest.split_at_mut(span.len());
        // SAFETY: `job` keeps the memory, and the engine promises not to write to it until the completion.
        piece.copy_from_slice(unsafe { span.to_read() });
        rest = behind;
    }
    memory.freeze()
}

/// Copies one key's value to its pieces.
fn scatter<H: Send + 'static>(job: &Job<H>, key: usize, value: &[u8]) {
    let mut rest = value;
    for span in job.spans_of(key) {
        let (piece, behind) = rest.split_at(span.len());
        // SAFETY: `job` keeps the memory, no two pieces overlap, and the engine promises to leave the memory alone until the
        // completion.
        unsafe { span.to_write() }.copy_from_slice(piece);
        rest = behind;
    }
}
