//! Futures that are dropped at every stage: polled not at all, once, twice, .. until one ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures::stream::{StreamExt, TryStreamExt};

use super::subject::{Checked, Subject, ensure, failed};

/// A call of this kit that takes more polls is not waiting for its store, but spinning.
pub(super) const MOST_POLLS: usize = 1000;
const LEN: usize = 40_000;

/// The failure of a call that no number of polls brings to its end.
pub(super) fn never_ends<T>(call: &str) -> Checked<T> {
    Err(failed(format!("{call} does not end within {MOST_POLLS} polls")))
}

/// Drives the future to its `n`th poll and drops it; its output if it had one by then.
pub(super) async fn polled<F: Future>(future: F, n: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == n {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == n => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A store that was harmed shows it at the next calls.
async fn next_calls_work(s: &Subject) -> Checked {
    let (key, value) = s.stored(LEN / 2).await?;
    s.expect(&key, &value).await?;
    ensure!(s.store.exists(&key).await?, "`exists` is false of `{key}`, which was put");
    if s.can.remove {
        s.store.remove(&key).await?;
    }
    Ok(())
}

pub(super) async fn dropped_gets_do_no_harm(s: &Subject) -> Checked {
    let (key, value) = s.stored(LEN).await?;
    for n in 0..MOST_POLLS {
        let got = polled(s.store.get(&key), n).await;
        let exists = polled(s.store.exists(&key), n).await;
        s.expect(&key, &value).await?;
        next_calls_work(s).await?;
        if got.is_some() && exists.is_some() {
            return Ok(());
        }
    }
    never_ends("`get` or `exists`")
}

pub(super) async fn dropped_puts_leave_whole_values(s: &Subject) -> Checked {
    for n in 0..MOST_POLLS {
        let (key, old) = s.stored(LEN).await?;
        let fresh = s.key();
        let (new, first) = (s.value(LEN + 5000)?, s.value(LEN)?);
        let replaced = polled(s.store.put(&key, s.chunk(&new)?), n).await;
        let stored = polled(s.store.put(&fresh, s.chunk(&first)?), n).await;
        s.is_none_or_one_of(&key, s.store.get(&key).await?, &[&old, &new])?;
        s.is_none_or_one_of(&fresh, s.store.get(&fresh).await?, &[&first])?;
        next_calls_work(s).await?;
        if let (Some(replaced), Some(stored)) = (replaced, stored) {
            replaced?;
            stored?;
            s.expect(&key, &new).await?;
            return Ok(());
        }
    }
    never_ends("`put`")
}

pub(super) async fn dropped_removes_leave_whole_values(s: &Subject) -> Checked {
    s.needs_remove()?;
    for n in 0..MOST_POLLS {
        let (key, value) = s.stored(LEN).await?;
        let removed = polled(s.store.remove(&key), n).await;
        s.is_none_or_one_of(&key, s.store.get(&key).await?, &[&value])?;
        next_calls_work(s).await?;
        if let Some(removed) = removed {
            ensure!(removed?, "`remove` is false of `{key}`, which was put");
            return Ok(());
        }
    }
    never_ends("`remove`")
}

pub(super) async fn dropped_get_into_gives_up_its_memory(s: &Subject) -> Checked {
    let (key, value) = s.stored(LEN).await?;
    for n in 0..MOST_POLLS {
        let mut memory = s.memory(&value.layout)?;
        let capacity = memory.capacity();
        let ended = polled(s.store.get_into(&key, &mut memory), n).await;
        if !memory.is_taken() {
            ensure!(memory.capacity() == capacity, "memory of {capacity} bytes has {} afterwards", memory.capacity());
            s.store.get_into(&key, &mut memory).await?;
            s.same(&key, &memory, memory.layout(), &value)?;
        }
        ensure!(ended.is_none() || !memory.is_taken(), "`get_into` has ended, and its memory is not back");
        s.expect(&key, &value).await?;
        drop(memory);
        s.all_memory_is_back().await?;
        if ended.is_some() {
            return Ok(());
        }
    }
    never_ends("`get_into`")
}

pub(super) async fn dropped_batches_do_no_harm(s: &Subject) -> Checked {
    let stored = s.many_stored(12).await?;
    let keys: Vec<_> = stored.iter().map(|(key, _)| key.clone()).collect();
    for n in 0..MOST_POLLS {
        let new = (0..6).map(|_| Ok((s.key(), s.value(LEN)?))).collect::<Checked<Vec<_>>>()?;
        let items = new.iter().map(|(k, v)| Ok((k.clone(), s.chunk(v)?))).collect::<Checked<Vec<_>>>()?;
        let mut requests = Vec::new();
        for (key, value) in &stored {
            requests.push((key.clone(), s.memory(&value.layout)?));
        }
        let ended = [
            polled(s.store.batched_get(&keys), n).await.is_some(),
            polled(s.store.batched_exists(&keys), n).await.is_some(),
            polled(s.store.batched_contains(&keys), n).await.is_some(),
            polled(s.store.batched_get_into(&mut requests), n).await.is_some(),
            polled(s.store.batched_put(&items), n).await.is_some(),
        ];
        for (key, value) in &new {
            s.is_none_or_one_of(key, s.store.get(key).await?, &[value])?;
        }
        for ((key, value), answer) in stored.iter().zip(s.store.batched_get(&keys).await) {
            s.is(key, answer?, value)?;
        }
        next_calls_work(s).await?;
        if ended.into_iter().all(|e| e) {
            return Ok(());
        }
    }
    never_ends("a batch")
}

pub(super) async fn dropped_lists_do_no_harm(s: &Subject) -> Checked {
    s.needs_list()?;
    let stored = s.many_stored(20).await?;
    let prefix = format!("{}@", s.names.model());
    let all_are_listed = async || {
        let found: Vec<_> = s.store.list(&prefix).try_collect().await?;
        ensure!(found.len() == stored.len(), "after a dropped listing, `list` gives {} of 20 keys", found.len());
        Ok(())
    };
    for n in 0..=stored.len() {
        let mut keys = s.store.list(&prefix);
        let mut read = 0;
        // Some items, and then a part of the next one. A stream that has ended is not asked again.
        while read < n && keys.next().await.is_some() {
            read += 1;
        }
        if read == n {
            polled(keys.next(), 1).await;
        }
        drop(keys);
        all_are_listed().await?;
    }
    for n in 0..MOST_POLLS {
        let ended = polled(s.store.list(&prefix).try_collect::<Vec<_>>(), n).await;
        all_are_listed().await?;
        if ended.is_some() {
            return next_calls_work(s).await;
        }
    }
    never_ends("`list`")
}
