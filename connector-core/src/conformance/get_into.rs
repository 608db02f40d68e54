//! Reads into the caller's memory.

use super::subject::{Checked, Subject, ensure, failed};
use crate::{CacheKey, ErrorKind, MemoryObjMut};

const LEN: usize = 10_000;

pub(super) async fn get_into_fills_exact_memory(s: &Subject) -> Checked {
    for &kind in s.kinds() {
        let (key, value) = (s.names.key(kind), s.value_for(kind, LEN)?);
        s.put(&key, &value).await?;
        s.expect_into(&key, &mut MemoryObjMut::zeroed(value.layout.len), &value).await?;
    }
    Ok(())
}

/// Checks that a chunk of another length than the memory is a miss.
async fn another_length_is_a_miss(s: &Subject, key: &CacheKey, room: usize) -> Checked {
    let mut memory = MemoryObjMut::zeroed(room);
    let n = s.store.get_into(key, &mut memory).await?;
    ensure!(n.is_none(), "the store declares `exact_length`, but `get_into` into memory of {room} gives {n:?}");
    ensure!(!memory.is_taken() && memory.capacity() == room, "after a miss the memory is not back: {memory:?}");
    Ok(())
}

pub(super) async fn get_into_fits_longer_memory(s: &Subject) -> Checked {
    let (long, value) = s.put_new(LEN).await?;
    let (short, other) = s.put_new(LEN / 3).await?;
    let capacity = value.layout.len + 5000;
    if s.can.exact_length {
        another_length_is_a_miss(s, &short, value.layout.len).await?;
        return another_length_is_a_miss(s, &long, capacity).await;
    }
    let mut memory = MemoryObjMut::zeroed(capacity);
    for (key, value) in [(&long, &value), (&short, &other), (&long, &value)] {
        s.expect_into(key, &mut memory, value).await?;
        let now = memory.capacity();
        ensure!(now == capacity, "memory of {capacity} bytes has a capacity of {now} after `get_into`");
    }
    Ok(())
}

pub(super) async fn get_into_refuses_short_memory(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    let len = value.layout.len;
    for room in [len - 1, len / 2, 0] {
        if s.can.exact_length {
            another_length_is_a_miss(s, &key, room).await?;
            continue;
        }
        let mut memory = MemoryObjMut::zeroed(room);
        let e = match s.store.get_into(&key, &mut memory).await {
            Err(e) => e,
            Ok(n) => return Err(failed(format!("`get_into` of {len} bytes into memory of {room} gives {n:?}"))),
        };
        ensure!(
            e.kind() == ErrorKind::SizeMismatch,
            "the error of a chunk that does not fit is `{}`, not size_mismatch: {e}",
            e.kind()
        );
        for size in [len, room] {
            ensure!(
                e.message().contains(&size.to_string()),
                "the error of {len} bytes into memory of {room} does not say {size}: {e}"
            );
        }
        ensure!(!memory.is_taken() && memory.capacity() == room, "after an error the memory is not back: {memory:?}");
    }
    s.expect_into(&key, &mut MemoryObjMut::zeroed(len), &value).await
}

pub(super) async fn get_into_of_a_miss_leaves_the_memory(s: &Subject) -> Checked {
    let (key, value) = s.put_new(LEN).await?;
    let mut memory = s.memory(&value.layout)?;
    let capacity = memory.capacity();
    let n = s.store.get_into(&s.key(), &mut memory).await?;
    ensure!(n.is_none(), "`get_into` gives {n:?} for a key that was never put");
    ensure!(!memory.is_taken() && memory.capacity() == capacity, "after a miss the memory is not back: {memory:?}");
    s.expect_into(&key, &mut memory, &value).await
}
