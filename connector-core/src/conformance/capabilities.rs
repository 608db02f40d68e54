//! What a store says of itself is true, both ways.

use futures::stream::TryStreamExt;

use super::subject::{Checked, Subject, ensure, failed, is_refusal, skip};
use crate::{ChunkLayout, Dtype, Error, ErrorKind, MemoryFormat, Shape};

/// A larger limit is not tried: the store might take what it should refuse.
const LARGEST_TRIED: u64 = 128 << 20;

pub(super) async fn declared_operations_work(s: &Subject) -> Checked {
    let (key, _) = s.stored(400).await?;
    let broken = |call: &str, e: Error| failed(format!("the store declares `{call}`, but: {e}"));
    if s.can.ping {
        s.store.ping().await.map_err(|e| broken("ping", e))?;
    }
    if s.can.list {
        let found: Vec<_> = s.store.list(key.as_str()).try_collect().await.map_err(|e| broken("list", e))?;
        ensure!(found == [key.clone()], "the store declares `list`, which gives {found:?} for `{key}`");
    }
    if s.can.remove {
        ensure!(s.store.remove(&key).await.map_err(|e| broken("remove", e))?, "`remove` is false of a stored key");
        for answer in s.store.batched_remove(&[key]).await {
            answer.map_err(|e| broken("remove", e))?;
        }
    }
    let now = s.store.capabilities();
    ensure!(now == s.can, "the store declares {now:?} now, and {:?} when it was opened", s.can);
    if !(s.can.ping || s.can.list || s.can.remove) {
        skip!("the store declares no `remove`, `list` or `ping`");
    }
    Ok(())
}

pub(super) async fn undeclared_operations_are_unsupported(s: &Subject) -> Checked {
    let (key, value) = s.stored(400).await?;
    let mut checked = 0;
    let mut refused = |call: &str, answer: Result<String, Error>| {
        checked += 1;
        match answer {
            Ok(answer) => Err(failed(format!("the store does not declare `{call}`, which answers {answer}"))),
            Err(e) if e.kind() != ErrorKind::Unsupported => Err(failed(format!(
                "the store does not declare `{call}`, which is `{}`, not unsupported: {e}",
                e.kind()
            ))),
            Err(e) if !e.to_string().contains(call) => Err(failed(format!("the error does not name `{call}`: {e}"))),
            Err(_) => Ok(()),
        }
    };
    if !s.can.ping {
        refused("ping", s.store.ping().await.map(|()| "well".into()))?;
    }
    if !s.can.list {
        let found: Result<Vec<_>, _> = s.store.list(key.as_str()).try_collect().await;
        refused("list", found.map(|found| format!("{found:?}")))?;
    }
    if !s.can.remove {
        refused("remove", s.store.remove(&key).await.map(|answer| answer.to_string()))?;
        for answer in s.store.batched_remove(std::slice::from_ref(&key)).await {
            refused("remove", answer.map(|answer| answer.to_string()))?;
        }
    }
    s.expect(&key, &value).await?;
    if checked == 0 {
        skip!("the store declares `remove`, `list` and `ping`");
    }
    Ok(())
}

pub(super) async fn undeclared_dtypes_are_refused(s: &Subject) -> Checked {
    if s.can.dtypes.is_none() {
        skip!("the store declares every dtype");
    }
    for dtype in Dtype::ALL.into_iter().filter(|d| !s.stores(*d)) {
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 2, 16, 8])?, dtype)?;
        is_refused(s, layout, &format!("a chunk of {dtype}, which is not declared,")).await?;
    }
    Ok(())
}

pub(super) async fn chunks_over_the_limit_are_refused(s: &Subject) -> Checked {
    let limit = match s.can.max_chunk_bytes {
        None => skip!("the store declares no longest chunk"),
        Some(limit) if limit > LARGEST_TRIED => skip!("the longest chunk of {limit} bytes is too long to try"),
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let (key, value) = s.stored(limit).await?;
    s.expect(&key, &value).await?;
    for over in [1, 4096] {
        let len = limit + over;
        let layout = if s.stores(Dtype::Uint8) {
            ChunkLayout::binary(len)
        } else {
            let elements = len.div_ceil(s.dtype().size());
            ChunkLayout::new(MemoryFormat::Undefined, Shape::new(&[elements])?, s.dtype())?
        };
        is_refused(s, layout, &format!("a chunk of {len} bytes, where {limit} are declared,")).await?;
    }
    Ok(())
}

/// `put` refuses the chunk, and leaves the old value or none.
async fn is_refused(s: &Subject, layout: ChunkLayout, what: &str) -> Checked {
    for there in [false, true] {
        let (key, old, new) = (s.key(), s.value(300)?, s.value_of(layout.clone()));
        if there {
            s.put(&key, &old).await?;
        }
        match s.store.put(&key, s.chunk(&new)?).await {
            Err(e) if is_refusal(&e) => {}
            Err(e) => return Err(failed(format!("{what} is refused with a wrong error: {e}"))),
            Ok(()) => return Err(failed(format!("{what} is taken"))),
        }
        let wanted = if there { &[&old][..] } else { &[] };
        let left = s.is_none_or_one_of(&key, s.store.get(&key).await?, wanted);
        left.map_err(|e| failed(format!("{what} was refused, and yet: {}", e.why())))?;
    }
    Ok(())
}
