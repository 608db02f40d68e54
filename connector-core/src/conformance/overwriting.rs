//! Keys that are put more than once, by one caller or by several.

use futures::future::{join, try_join_all};

use super::subject::{Checked, Subject, ensure, skip, spawn};
use super::value::Value;
use crate::{ChunkLayout, MemoryFormat, Shape};

/// The number of races for one key.
const RACES: usize = 20;
/// The number of concurrent tasks.
const TASKS: usize = 16;
const KEYS_PER_TASK: usize = 16;

pub(super) async fn put_replaces(s: &Subject) -> Checked {
    for &kind in s.kinds() {
        let key = s.names.key(kind);
        for len in [5000, 5000, 300, 70_000, 1, 4096] {
            let value = s.value_for(kind, len)?;
            s.put_and_get(&key, &value).await?;
        }
    }
    Ok(())
}

pub(super) async fn put_replaces_the_layout(s: &Subject) -> Checked {
    if !s.keeps_layout() {
        skip!("the store keeps no layout");
    }
    let key = s.key();
    // All layouts have the same length: a store that compares only lengths does not replace them.
    for (format, dims) in [
        (MemoryFormat::Kv2ltd, &[2, 2, 16, 8][..]),
        (MemoryFormat::Kv2ltd, &[2, 4, 16, 4]),
        (MemoryFormat::KvMlaFmt, &[1, 4, 16, 8]),
        (MemoryFormat::EcTd, &[64, 8]),
    ] {
        let value = s.value_of(ChunkLayout::new(format, Shape::new(dims)?, s.dtype())?);
        s.put_and_get(&key, &value).await?;
    }
    Ok(())
}

pub(super) async fn two_writers_leave_one_whole_value(s: &Subject) -> Checked {
    if s.can.puts_in_parts {
        skip!("the store puts chunks in parts");
    }
    for race in 0..RACES {
        let key = s.key();
        let (a, b) = (s.value(20_000 + race)?, s.value(35_000)?);
        let writer = |value: &Value| {
            let (s, key, value) = (s.clone(), key.clone(), value.clone());
            spawn(async move { s.put(&key, &value).await })
        };
        // A scheduler may always start with the last task.
        let (earlier, later) = if race % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (first, second) = join(writer(earlier), writer(later)).await;
        first?;
        second?;
        let got = s.store.get(&key).await?;
        ensure!(got.is_some(), "two tasks have put `{key}`, but it is a miss");
        s.expect_none_or_one_of(&key, got, &[&a, &b])?;
    }
    Ok(())
}

pub(super) async fn readers_see_whole_values(s: &Subject) -> Checked {
    if s.can.puts_in_parts {
        skip!("the store puts chunks in parts");
    }
    let key = s.key();
    let (a, b) = (s.value(30_000)?, s.value(50_000)?);
    s.put(&key, &a).await?;
    let writing = {
        let (s, key, a, b) = (s.clone(), key.clone(), a.clone(), b.clone());
        spawn(async move {
            for _ in 0..RACES {
                s.put(&key, &b).await?;
                s.put(&key, &a).await?;
            }
            Ok(())
        })
    };
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (s, key, a, b) = (s.clone(), key.clone(), a.clone(), b.clone());
            spawn(async move {
                for _ in 0..2 * RACES {
                    let got = s.store.get(&key).await?;
                    ensure!(got.is_some(), "`{key}` is a miss during a `put` that replaces it");
                    s.expect_none_or_one_of(&key, got, &[&a, &b])?;
                }
                Ok(())
            })
        })
        .collect();
    writing.await?;
    for reader in readers {
        reader.await?;
    }
    Ok(())
}

pub(super) async fn hundreds_of_calls_at_once(s: &Subject) -> Checked {
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let s = s.clone();
            spawn(async move {
                let calls = (0..KEYS_PER_TASK).map(|i| all_calls_of_one_key(&s, 1000 + 100 * i));
                try_join_all(calls).await
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

async fn all_calls_of_one_key(s: &Subject, len: usize) -> Checked {
    let (key, value) = s.put_new(len).await?;
    s.expect(&key, &value).await?;
    s.expect_exists(&key).await?;
    let value = s.value(len / 2)?;
    s.put_and_get(&key, &value).await?;
    if s.can.remove {
        s.remove(&key).await?;
    }
    Ok(())
}
