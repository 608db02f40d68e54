//! Capabilities: the store does everything that it declares, and refuses everything else.

use futures::stream::TryStreamExt;

use super::subject::{Checked, Subject, ensure, failed, skip};
use crate::{ChunkLayout, Dtype, Error, ErrorKind, MemoryFormat, ServerInfo, Shape};

/// The kit does not try a larger limit, because a store that ignores its limit would store the chunk.
const MAX_TRIED: u64 = 128 << 20;

pub(super) async fn declared_operations_work(s: &Subject) -> Checked {
    let (key, _) = s.put_new(400).await?;
    let broken = |call: &str, e: Error| failed(format!("the store declares `{call}`, but it fails: {e}"));
    if s.can.ping {
        s.store.ping().await.map_err(|e| broken("ping", e))?;
    }
    if s.can.list {
        let found: Vec<_> = s.store.list(key.as_str()).try_collect().await.map_err(|e| broken("list", e))?;
        ensure!(found == [key.clone()], "the store declares `list`, but it gives {found:?} for `{key}`");
        let page = s.store.list_page(key.as_str(), None, 1).await.map_err(|e| broken("list", e))?;
        let found: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
        ensure!(found == [key.clone()], "the store declares `list`, but `list_entries` gives {found:?} for `{key}`");
    }
    if s.can.remove {
        ensure!(s.store.remove(&key).await.map_err(|e| broken("remove", e))?, "`remove` is false for a stored key");
        for answer in s.store.batched_remove(&[key]).await {
            answer.map_err(|e| broken("remove", e))?;
        }
    }
    let now = s.store.capabilities();
    ensure!(now == s.can, "the store declares {now:?} now, but declared {:?} when it was opened", s.can);
    if !(s.can.ping || s.can.list || s.can.remove) {
        skip!("the store declares no `remove`, `list` or `ping`");
    }
    Ok(())
}

pub(super) async fn undeclared_operations_are_unsupported(s: &Subject) -> Checked {
    let (key, value) = s.put_new(400).await?;
    let mut checked = 0;
    let mut refused = |call: &str, answer: Result<String, Error>| {
        checked += 1;
        match answer {
            Ok(answer) => Err(failed(format!("the store does not declare `{call}`, but it answers {answer}"))),
            Err(e) if e.kind() != ErrorKind::Unsupported => Err(failed(format!(
                "the store does not declare `{call}`, but its error is `{}`, not unsupported: {e}",
                e.kind()
            ))),
            Err(e) if !e.to_string().contains(call) => Err(failed(format!("the error does not name `{call}`: {e}"))),
            Err(_) => Ok(()),
        }
    };
    if !s.can.ping {
        refused("ping", s.store.ping().await.map(|()| "success".into()))?;
    }
    if !s.can.list {
        let found: Result<Vec<_>, _> = s.store.list(key.as_str()).try_collect().await;
        refused("list", found.map(|found| format!("{found:?}")))?;
        let found: Result<Vec<_>, _> = s.store.list_entries(key.as_str()).try_collect().await;
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

pub(super) async fn servers_are_named(s: &Subject) -> Checked {
    let servers = s.store.servers().await.map_err(|e| failed(format!("`servers` fails: {e}")))?;
    if servers.is_empty() {
        skip!("the store has no servers");
    }
    for server in servers {
        let ServerInfo { address, role, details, .. } = &server;
        let texts = [address].into_iter().chain(role).chain(details.iter().flat_map(|(name, value)| [name, value]));
        for text in texts {
            ensure!(!text.is_empty(), "`servers` gives an empty text: {server:?}");
            ensure!(!text.contains(char::is_control), "`servers` gives a text that is not one line: {server:?}");
        }
        let login = address.split('/').any(|part| part.contains('@'));
        ensure!(!login, "`servers` gives an address that may hold a user and a password: {server:?}");
    }
    Ok(())
}

pub(super) async fn undeclared_dtypes_are_refused(s: &Subject) -> Checked {
    if s.can.dtypes.is_none() {
        skip!("the store declares every dtype");
    }
    for dtype in Dtype::ALL.into_iter().filter(|d| !s.stores(*d)) {
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 2, 16, 8])?, dtype)?;
        refuses(s, layout, &format!("a chunk of {dtype}, which it does not declare")).await?;
    }
    Ok(())
}

pub(super) async fn chunks_over_the_limit_are_refused(s: &Subject) -> Checked {
    let limit = match s.can.max_chunk_bytes {
        None => skip!("the store declares no largest chunk"),
        Some(limit) if limit > MAX_TRIED => skip!("the largest chunk of {limit} bytes is too long to try"),
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let (key, value) = s.put_new(limit).await?;
    s.expect(&key, &value).await?;
    for over in [1, 4096] {
        let len = limit + over;
        let layout = if s.stores(Dtype::Uint8) {
            ChunkLayout::binary(len)
        } else {
            let elements = len.div_ceil(s.dtype().size());
            ChunkLayout::new(MemoryFormat::Undefined, Shape::new(&[elements])?, s.dtype())?
        };
        refuses(s, layout, &format!("a chunk of {len} bytes, over its limit of {limit}")).await?;
    }
    Ok(())
}

/// Checks that `put` refuses the chunk, and keeps the old value or none.
async fn refuses(s: &Subject, layout: ChunkLayout, what: &str) -> Checked {
    for old in [None, Some(s.value(300)?)] {
        ensure!(s.put_over(old.as_ref(), what, &layout).await?.is_none(), "the store takes {what}");
    }
    Ok(())
}
