//! Memory: of the pool, of the caller and of the store.

use std::sync::{Mutex, PoisonError};

use super::subject::{Checked, Subject, ensure, failed, skip};
use crate::{ChunkLayout, ErrorKind, MemoryObjMut};

const LEN: usize = 60_000;

pub(super) async fn a_full_pool_is_an_error(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    s.all_memory_is_back().await?;
    let chunk = s.store.get(&key).await?;
    if chunk.is_some() && s.pool.stats().in_use == 0 {
        skip!("`get` takes no memory from the pool: the store gives out its own memory");
    }
    drop(chunk);
    s.all_memory_is_back().await?;
    let all_memory = s.memory(&ChunkLayout::binary(s.pool.stats().capacity))?;
    let mut answers = s.store.batched_get(&[key.clone(), key.clone()]).await;
    answers.push(s.store.get(&key).await);
    for answer in answers {
        match answer {
            Err(e) if e.kind() == ErrorKind::PoolFull => {
                ensure!(e.is_temporary(), "the error of a full pool is not marked as temporary: {e}");
            }
            Err(e) => return Err(failed(format!("the error of a full pool is `{}`, not pool_full: {e}", e.kind()))),
            Ok(got) => return Err(failed(format!("`get` with a full pool gives {got:?}"))),
        }
    }
    ensure!(s.store.exists(&key).await?, "`exists` is false for `{key}` while the pool is full");
    s.expect_none(&s.key()).await?;
    drop(all_memory);
    s.expect(&key, &value).await
}

pub(super) async fn chunks_in_hand_do_not_change(s: &Subject) -> Checked {
    for len in [500, 200_000] {
        let (key, first) = s.put_new(len).await?;
        let (other, same_len) = s.put_new(len).await?;
        let before = [s.store.get(&key).await?, s.store.get(&key).await?];
        let others = s.store.get(&other).await?;
        let second = s.value(len)?;
        s.put(&key, &second).await?;
        let third = s.store.get(&key).await?;
        if s.can.remove {
            s.store.remove(&key).await?;
        }
        // A store that reuses memory too early does it now.
        s.put_many(8).await?;
        s.put_new(len).await?;
        for got in before {
            s.expect_answer(&key, got, &first)
                .map_err(|e| failed(format!("a chunk that `get` gave changed: {}", e.why())))?;
        }
        s.expect_answer(&key, third, &second)
            .map_err(|e| failed(format!("a chunk that `get` gave changed: {}", e.why())))?;
        s.expect_answer(&other, others, &same_len)?;
    }
    Ok(())
}

pub(super) async fn put_does_not_keep_its_chunk(s: &Subject) -> Checked {
    for (len, batched) in [(500, false), (500, true), (300_000, false), (300_000, true)] {
        let (key, value) = (s.key(), s.value(len)?);
        let chunk = s.chunk(&value)?;
        if batched {
            for answer in s.store.batched_put(&[(key.clone(), chunk.clone())]).await {
                answer?;
            }
        } else {
            s.store.put(&key, chunk.clone()).await?;
        }
        let before = s.store.get(&key).await?.map(|chunk| chunk.to_vec());
        // Work that outlives the call may hold the chunk a little longer.
        let held = Mutex::new(Some(chunk));
        let mut memory = None;
        let free = s
            .eventually(|| {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                match held.take().map(crate::MemoryObj::try_into_mut) {
                    Some(Ok(free)) => memory = Some(free),
                    Some(Err(shared)) => *held = Some(shared),
                    None => {}
                }
                memory.is_some()
            })
            .await;
        ensure!(
            free,
            "`put` has ended, but the store still holds its chunk of {} bytes: copy the bytes",
            value.layout.len
        );
        if let Some(mut memory) = memory {
            memory.fill(0xee);
        }
        if let Some(before) = before {
            let after = s.store.get(&key).await?;
            let is_same = after.as_deref() == Some(&*before);
            ensure!(is_same, "the stored chunk changes when the caller writes to the memory that `put` was given");
        }
    }
    Ok(())
}

pub(super) async fn memory_comes_back(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    let keys = [key.clone(), s.key(), key.clone()];
    for _ in 0..5 {
        s.put_and_get(&key, &value).await?;
        s.expect_none(&s.key()).await?;
        drop(s.store.batched_get(&keys).await);
        let mut exact = s.memory(&value.layout)?;
        s.store.get_into(&key, &mut exact).await?;
        s.store.get_into(&keys[1], &mut exact).await?;
        let short = s.store.get_into(&key, &mut MemoryObjMut::zeroed(1)).await;
        let is_miss = s.can.exact_length && matches!(short, Ok(None));
        ensure!(short.is_err() || is_miss, "`get_into` reads {LEN} bytes into memory of 1");
        drop(exact);
        s.all_memory_is_back().await?;
    }
    Ok(())
}
