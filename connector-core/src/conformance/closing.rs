//! Closing. The checks close other connectors of the store. The subject's connector stays open and removes the keys.
//!
//! The handle refuses calls after `close`, and calls the connector's `close` once, after the calls in flight. A
//! connector can still break the contract in its `close`: fail, hang, lose deferred writes, or keep memory.

use std::pin::pin;

use futures::future::{maybe_done, poll_immediate};
use futures::stream::StreamExt;

use super::cancellation::{MAX_POLLS, never_ends, polled};
use super::subject::{Checked, Subject, ensure, failed, spawn};
use crate::{Error, ErrorKind, MemoryObjMut};

pub(super) async fn close_succeeds_once_for_all(s: &Subject) -> Checked {
    let s = &s.reopen().await?;
    let (key, value) = s.put_new(500).await?;
    for when in ["first", "second"] {
        s.store.close().await.map_err(|e| failed(format!("the {when} `close` fails: {e}")))?;
    }
    ensure!(s.store.is_closed(), "`is_closed` is false after `close`");
    let keys = [key.clone()];
    let chunk = s.chunk(&value)?;
    let mut memory = [(key.clone(), MemoryObjMut::zeroed(500))];
    let first = |call, mut answers: Vec<Option<Error>>| match answers.len() {
        1 => (call, answers.pop().flatten()),
        _ => (call, None),
    };
    let answers = [
        ("exists", s.store.exists(&key).await.err()),
        ("get", s.store.get(&key).await.err()),
        ("put", s.store.put(&key, chunk.clone()).await.err()),
        ("get_into", s.store.get_into(&key, &mut memory[0].1).await.err()),
        ("remove", s.store.remove(&key).await.err()),
        ("ping", s.store.ping().await.err()),
        ("servers", s.store.servers().await.err()),
        ("diagnose", s.store.diagnose().await.err()),
        ("list", s.store.list("").next().await.and_then(Result::err)),
        ("list_entries", s.store.list_entries("").next().await.and_then(Result::err)),
        ("batched_contains", s.store.batched_contains(&keys).await.err()),
        ("get_prefix", s.store.get_prefix(&keys).await.err()),
        first("batched_get", s.store.batched_get(&keys).await.into_iter().map(Result::err).collect()),
        first("batched_exists", s.store.batched_exists(&keys).await.into_iter().map(Result::err).collect()),
        first("batched_remove", s.store.batched_remove(&keys).await.into_iter().map(Result::err).collect()),
        first("batched_put", s.store.batched_put(&[(key, chunk)]).await.into_iter().map(Result::err).collect()),
        first("batched_get_into", s.store.batched_get_into(&mut memory).await.into_iter().map(Result::err).collect()),
    ];
    for (call, e) in answers {
        let kind = e.map(|e| e.kind());
        ensure!(kind == Some(ErrorKind::Closed), "`{call}` after `close` is {kind:?}, not closed");
    }
    ensure!(!memory[0].1.is_taken(), "`get_into` after `close` has taken the memory");
    Ok(())
}

pub(super) async fn close_finishes_what_was_put(s: &Subject) -> Checked {
    // `close` must wait for calls at their first poll and at a later one.
    for polls in [1, 2] {
        let outer = s;
        let s = &s.reopen().await?;
        let shared = share_chunks(outer, s).await?;
        let (key, value) = s.put_new(50_000).await?;
        let (new, other) = (s.key(), s.value(60_000)?);
        let mut putting = pin!(maybe_done(s.store.put(&new, s.chunk(&other)?)));
        let mut getting = pin!(maybe_done(s.store.get(&key)));
        for _ in 0..polls {
            poll_immediate(putting.as_mut()).await;
            poll_immediate(getting.as_mut()).await;
        }
        let closing = {
            let store = s.store.clone();
            spawn(async move { Ok(store.close().await?) })
        };
        ensure!(s.eventually(|| s.store.is_closed()).await, "`is_closed` is false during `close`");
        putting.as_mut().await;
        getting.as_mut().await;
        let (Some(put), Some(got)) = (putting.take_output(), getting.take_output()) else {
            return Err(failed("a call that has ended gives no answer"));
        };
        put.map_err(|e| failed(format!("a `put` in flight fails when `close` is called: {e}")))?;
        let got = got.map_err(|e| failed(format!("a `get` in flight fails when `close` is called: {e}")))?;
        s.expect_answer(&key, got, &value)?;
        closing.await.map_err(|e| failed(format!("`close` fails while calls are in flight: {}", e.why())))?;
        if shared {
            for (key, value) in [(&key, &value), (&new, &other)] {
                let found = outer.expect(key, value).await;
                found.map_err(|e| failed(format!("after `close`, in another connector: {}", e.why())))?;
            }
        }
    }
    Ok(())
}

/// Whether one connector gets a chunk that another one put. Each connector of an in-process store may have its own
/// chunks.
async fn share_chunks(one: &Subject, other: &Subject) -> Checked<bool> {
    let (key, value) = one.put_new(700).await?;
    one.expect(&key, &value).await?;
    Ok(other.store.get(&key).await?.is_some())
}

pub(super) async fn close_ends_the_work_of_dropped_calls(s: &Subject) -> Checked {
    for n in 1..MAX_POLLS {
        let s = &s.reopen().await?;
        let (key, value) = s.put_new(200_000).await?;
        let mut memory = s.memory(&value.layout)?;
        let filled = polled(s.store.get_into(&key, &mut memory), n).await.is_some();
        drop(memory);
        let ended = [
            filled,
            polled(s.store.get(&key), n).await.is_some(),
            polled(s.store.batched_get(&[key.clone(), key.clone()]), n).await.is_some(),
            polled(s.store.put(&s.key(), s.chunk(&value)?), n).await.is_some(),
        ];
        s.store.close().await?;
        s.all_memory_is_back().await.map_err(|e| failed(format!("after `close`: {}", e.why())))?;
        if ended.into_iter().all(|e| e) {
            return Ok(());
        }
    }
    never_ends("a call")
}

pub(super) async fn a_dropped_close_can_be_called_again(s: &Subject) -> Checked {
    for n in 0..MAX_POLLS {
        let s = &s.reopen().await?;
        s.put_new(500).await?;
        let ended = polled(s.store.close(), n).await;
        s.store.close().await.map_err(|e| failed(format!("`close` fails after a dropped `close`: {e}")))?;
        if ended.is_some() {
            return Ok(());
        }
    }
    never_ends("`close`")
}

pub(super) async fn closing_one_leaves_the_others_open(s: &Subject) -> Checked {
    let (key, value) = s.put_new(500).await?;
    for _ in 0..2 {
        let other = s.reopen().await?;
        let (theirs, their_value) = other.put_new(700).await?;
        other.expect(&theirs, &their_value).await?;
        other.store.close().await?;
        s.expect(&key, &value).await.map_err(|e| failed(format!("after another connector was closed: {}", e.why())))?;
        let (new, value) = s.put_new(900).await?;
        s.expect(&new, &value).await?;
    }
    Ok(())
}
