//! What is put twice, by one or by several, and what others see meanwhile.

use futures::future::{join, try_join_all};

use super::subject::{Checked, Subject, ensure, skip, spawn};
use crate::{ChunkLayout, KeyKind, MemoryFormat, Shape};

/// How often two race for one key.
const RACES: usize = 20;
/// Tasks at once, and keys of each.
const TASKS: usize = 16;
const KEYS_OF_A_TASK: usize = 16;

pub(super) async fn put_replaces(s: &Subject) -> Checked {
    for kind in [KeyKind::Engine, KeyKind::Layer, KeyKind::Object] {
        let key = s.names.key(kind);
        for len in [5000, 5000, 300, 70_000, 1, 4096] {
            let value = s.value_for(kind, len)?;
            s.put(&key, &value).await?;
            s.expect(&key, &value).await?;
        }
    }
    Ok(())
}

pub(super) async fn put_replaces_the_layout(s: &Subject) -> Checked {
    if !s.keeps_layout() {
        skip!("the store keeps no layout");
    }
    let key = s.key();
    // All of one length: a store that compares lengths must see the difference.
    for (format, dims) in [
        (MemoryFormat::Kv2ltd, &[2, 2, 16, 8][..]),
        (MemoryFormat::Kv2ltd, &[2, 4, 16, 4]),
        (MemoryFormat::KvMlaFmt, &[1, 4, 16, 8]),
        (MemoryFormat::EcTd, &[64, 8]),
    ] {
        let value = s.value_of(ChunkLayout::new(format, Shape::new(dims)?, s.dtype())?);
        s.put(&key, &value).await?;
        s.expect(&key, &value).await?;
    }
    Ok(())
}

pub(super) async fn two_writers_leave_one_whole_value(s: &Subject) -> Checked {
    for race in 0..RACES {
        let key = s.key();
        let (a, b) = (s.value(20_000 + race)?, s.value(35_000)?);
        let writer = |value: &super::subject::Value| {
            let (s, key, value) = (s.clone(), key.clone(), value.clone());
            spawn(async move { s.put(&key, &value).await })
        };
        // A scheduler may always begin with the one that came last.
        let (earlier, later) = if race % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (first, second) = join(writer(earlier), writer(later)).await;
        first?;
        second?;
        let got = s.store.get(&key).await?;
        ensure!(got.is_some(), "`{key}` was put by two at once, and is a miss");
        s.is_none_or_one_of(&key, got, &[&a, &b])?;
    }
    Ok(())
}

pub(super) async fn readers_see_whole_values(s: &Subject) -> Checked {
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
                    ensure!(got.is_some(), "`{key}` is a miss while it is replaced");
                    s.is_none_or_one_of(&key, got, &[&a, &b])?;
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
                let calls = (0..KEYS_OF_A_TASK).map(|i| life_of_a_key(&s, 1000 + 100 * i));
                try_join_all(calls).await
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

async fn life_of_a_key(s: &Subject, len: usize) -> Checked {
    let (key, value) = s.stored(len).await?;
    s.expect(&key, &value).await?;
    ensure!(s.store.exists(&key).await?, "`exists` is false of `{key}`, which was put");
    let value = s.value(len / 2)?;
    s.put(&key, &value).await?;
    s.expect(&key, &value).await?;
    if s.can.remove {
        ensure!(s.store.remove(&key).await?, "`remove` is false of `{key}`, which was put");
        s.expect_none(&key).await?;
    }
    Ok(())
}
