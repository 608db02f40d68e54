//! Dropped futures. Each check polls a future zero times, once, twice and so on until it ends, and then drops it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures::stream::{StreamExt, TryStreamExt};

use super::subject::{Checked, Subject, ensure, failed};

/// The largest number of polls of one call. A call that takes more does not wait for its store, but spins.
pub(super) const MAX_POLLS: usize = 1000;
const LEN: usize = 40_000;

/// The failure of a call that does not end within [`MAX_POLLS`].
pub(super) fn never_ends<T>(call: &str) -> Checked<T> {
    Err(failed(format!("{call} does not end within {MAX_POLLS} polls")))
}

/// Polls the future up to `n` times and drops it. Gives its output if it ends within them.
pub(super) async fn polled<F: Future>(future: F, n: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == n {
            return Poll::Ready(None);
        }
        polls += 1;
        let poll = future.as_mut().poll(cx).map(Some);
        if poll.is_pending() && polls == n { Poll::Ready(None) } else { poll }
    })
    .await
}

/// Checks that the dropped call has not harmed the store.
async fn next_calls_work(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN / 2).await?;
    s.expect(&key, &value).await?;
    s.expect_exists(&key).await?;
    if s.can.remove {
        s.store.remove(&key).await?;
    }
    Ok(())
}

pub(super) async fn dropped_gets_do_no_harm(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    for n in 0..MAX_POLLS {
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
    for n in 0..MAX_POLLS {
        let (key, old) = s.put_new(LEN).await?;
        let fresh = s.key();
        let (new, first) = (s.value(LEN + 5000)?, s.value(LEN)?);
        let replaced = polled(s.store.put(&key, s.chunk(&new)?), n).await;
        let stored = polled(s.store.put(&fresh, s.chunk(&first)?), n).await;
        s.expect_none_or_one_of(&key, s.store.get(&key).await?, &[&old, &new])?;
        s.expect_none_or_one_of(&fresh, s.store.get(&fresh).await?, &[&first])?;
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
    for n in 0..MAX_POLLS {
        let (key, value) = s.put_new(LEN).await?;
        let removed = polled(s.store.remove(&key), n).await;
        s.expect_none_or_one_of(&key, s.store.get(&key).await?, &[&value])?;
        next_calls_work(s).await?;
        if let Some(removed) = removed {
            ensure!(removed?, "`remove` is false for `{key}`, which was put");
            return Ok(());
        }
    }
    never_ends("`remove`")
}

pub(super) async fn dropped_get_into_gives_up_its_memory(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    for n in 0..MAX_POLLS {
        let mut memory = s.memory(&value.layout)?;
        let capacity = memory.capacity();
        let ended = polled(s.store.get_into(&key, &mut memory), n).await;
        if !memory.is_taken() {
            ensure!(
                memory.capacity() == capacity,
                "memory of {capacity} bytes has a capacity of {} afterwards",
                memory.capacity()
            );
            s.expect_into(&key, &mut memory, &value).await?;
        }
        ensure!(ended.is_none() || !memory.is_taken(), "`get_into` has ended, but its memory is not back");
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
    let stored = s.put_many(12).await?;
    let keys: Vec<_> = stored.iter().map(|(key, _)| key.clone()).collect();
    for n in 0..MAX_POLLS {
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
            polled(s.store.get_prefix(&keys), n).await.is_some(),
            polled(s.store.batched_get_into(&mut requests), n).await.is_some(),
            polled(s.store.batched_put(&items), n).await.is_some(),
        ];
        for (key, value) in &new {
            s.expect_none_or_one_of(key, s.store.get(key).await?, &[value])?;
        }
        for ((key, value), answer) in stored.iter().zip(s.store.batched_get(&keys).await) {
            s.expect_answer(key, answer?, value)?;
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
    let stored = s.put_many(20).await?;
    let prefix = format!("{}@", s.names.model());
    let all_are_listed = async || {
        let found: Vec<_> = s.store.list(&prefix).try_collect().await?;
        ensure!(found.len() == stored.len(), "after a dropped listing, `list` gives {} of 20 keys", found.len());
        Ok(())
    };
    for n in 0..=stored.len() {
        let mut keys = s.store.list(&prefix);
        let mut read = 0;
        // Reads some items and polls once for the next one. The check does not poll a stream that has ended.
        while read < n && keys.next().await.is_some() {
            read += 1;
        }
        if read == n {
            polled(keys.next(), 1).await;
        }
        drop(keys);
        all_are_listed().await?;
    }
    for n in 0..MAX_POLLS {
        let ended = [
            polled(s.store.list(&prefix).try_collect::<Vec<_>>(), n).await.is_some(),
            polled(s.store.list_entries(&prefix).try_collect::<Vec<_>>(), n).await.is_some(),
        ];
        all_are_listed().await?;
        if ended.into_iter().all(|e| e) {
            return next_calls_work(s).await;
        }
    }
    never_ends("`list`")
}
