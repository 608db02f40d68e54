//! Listings.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::stream::TryStreamExt;

use super::subject::{Checked, Subject, ensure, failed, spawn};
use crate::CacheKey;

const KEYS: usize = 60;
/// The keys that the kit lists in pages of this length.
const PAGED_KEYS: usize = 1000;
const PAGE: usize = 64;
/// The most bytes that a store keeps for a chunk besides the chunk: a header, and the unit of a block device.
const MAX_EXTRA: u64 = 4096;
/// How far the store's clock may be from this one.
const MAX_SKEW: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn list_gives_each_key_once(s: &Subject) -> Checked {
    s.needs_list()?;
    let model = s.names.model().to_owned();
    ensure!(listed(s, &model).await?.is_empty(), "`list` gives keys that were never put");
    let mut keys: Vec<_> = s.kinds().iter().copied().cycle().take(KEYS).map(|kind| s.names.key(kind)).collect();
    for tail in ["/org/name@1@0@-1f@half", "-模型@1@0@001f@half@t%a b/c", " x@01000100@a@00ff@salt"] {
        let text = format!("{model}{tail}");
        keys.push(s.names.named(&text, text.parse::<CacheKey>()?.kind())?);
    }
    let mut kept = Vec::new();
    for key in keys {
        if s.put_or_refused(&key, &s.value_for(key.kind(), 300)?).await? {
            kept.push(key);
        }
    }
    let found = listed(s, &model).await?;
    for key in &kept {
        let n = found.get(key).copied().unwrap_or(0);
        ensure!(n == 1, "`list` gives `{key}` {n} times");
        s.expect_exists(key).await?;
    }
    for key in found.keys() {
        let put = kept.iter().find(|k| *k == key);
        ensure!(put.is_some(), "`list` gives `{key}`, which was never put");
        let (is, was) = (key.kind(), put.map(CacheKey::kind));
        ensure!(Some(is) == was, "`list` gives `{key}` as a key of the kind {is:?}, but it was put as {was:?}");
    }
    if s.can.remove {
        s.store.remove(&kept[0]).await?;
        ensure!(!listed(s, &model).await?.contains_key(&kept[0]), "`list` gives a key that was removed");
    }
    Ok(())
}

pub(super) async fn list_keeps_to_the_prefix(s: &Subject) -> Checked {
    s.needs_list()?;
    let model = s.names.model();
    let mut keys = Vec::new();
    let engine = ["@1@0@ab@half", "@1@0@abc@half", "@1@0@b@half", "@1@1@ab@half", "x@1@0@ab@half", "x/y@1@0@ab@half"];
    let object = [
        "@00000000@0@ab",
        "@00000000@0@abcd",
        "@00000000@0@bb",
        "@00000000@0@00ab",
        "x@00000000@0@ab",
        "x y@00000000@0@ab",
    ];
    for tail in if s.can.object_keys_only { object } else { engine } {
        let key = s.names.named(&format!("{model}{tail}"), s.kind())?;
        s.put(&key, &s.value(300)?).await?;
        keys.push(key);
    }
    let mut prefixes = Vec::new();
    for prefix in [
        "@",
        "",
        "x",
        "x@",
        "x/",
        "x/y@1",
        "@1@0@",
        "@1@0@ab",
        "@1@0@ab@half",
        "@2",
        "@1@0@ab@half@",
        "X",
        "x y@",
        "@00000000@0@a",
        "@00000000@0@abcd",
        "@00000000@0@abcde",
        "@00000001",
        // Patterns of other systems.
        "*",
        "%",
        "?1@0",
        "_1@0",
    ] {
        prefixes.push(format!("{model}{prefix}"));
    }
    // Each key contains it, and none starts with it.
    prefixes.push(model[1..].to_owned());
    for prefix in prefixes {
        let mut expected: Vec<_> = keys.iter().filter(|k| k.as_str().starts_with(&prefix)).cloned().collect();
        expected.sort();
        let found: Vec<_> = listed(s, &prefix).await?.into_keys().collect();
        ensure!(found == expected, "`list` of `{prefix}` gives {found:?}, not {expected:?}");
    }
    Ok(())
}

pub(super) async fn list_entries_gives_sizes(s: &Subject) -> Checked {
    s.needs_list()?;
    let mut lengths = BTreeMap::new();
    for (kind, len) in s.kinds().iter().copied().cycle().zip([300, 1, 5000, 70_000]) {
        let (key, value) = (s.names.key(kind), s.value_for(kind, len)?);
        s.put(&key, &value).await?;
        lengths.insert(key, value.layout.len as u64);
    }
    let mut found = Vec::new();
    let mut entries = s.store.list_entries(s.names.model());
    while let Some(entry) = entries.try_next().await? {
        let Some(&len) = lengths.get(&entry.key) else {
            return Err(failed(format!("`list_entries` gives `{}`, which was never put", entry.key)));
        };
        if let Some(size) = entry.size {
            let fits = (len..=len + MAX_EXTRA).contains(&size);
            ensure!(fits, "`list_entries` gives the size {size} for `{}`, a chunk of {len} bytes", entry.key);
        }
        if let Some(time) = entry.modified {
            let now = SystemTime::now();
            let skew = now.duration_since(time).unwrap_or_else(|future| future.duration());
            ensure!(skew < MAX_SKEW, "`list_entries` gives the time {time:?} for `{}`, put at {now:?}", entry.key);
        }
        found.push(entry.key);
    }
    found.sort();
    let expected: Vec<_> = lengths.into_keys().collect();
    ensure!(found == expected, "`list_entries` gives {found:?}, not {expected:?}");
    Ok(())
}

pub(super) async fn pages_are_in_order_and_complete(s: &Subject) -> Checked {
    s.needs_list()?;
    let mut expected = s.keys(PAGED_KEYS);
    let value = s.value(48)?;
    let items = expected.iter().map(|key| Ok((key.clone(), s.chunk(&value)?))).collect::<Checked<Vec<_>>>()?;
    for answer in s.store.batched_put(&items).await {
        answer?;
    }
    expected.sort();
    let all = listed(s, s.names.model()).await?;
    if let Some((key, n)) = all.iter().find(|(_, n)| **n != 1) {
        return Err(failed(format!("`list` gives `{key}` {n} times among {PAGED_KEYS} keys")));
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = s.store.list_page(s.names.model(), after.as_deref(), PAGE).await?;
        let n = page.entries.len();
        ensure!(n <= PAGE && found.len() <= PAGED_KEYS, "a page of {PAGE} keys has {n} after {} keys", found.len());
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure!(found.is_sorted(), "the pages of `list_page` are not in the order of the keys' texts");
    let (n, same) = (found.len(), found == expected);
    ensure!(same, "the pages of `list_page` have {n} keys, which are not the {PAGED_KEYS} that were put");
    Ok(())
}

pub(super) async fn list_works_while_others_write(s: &Subject) -> Checked {
    s.needs_list()?;
    let stay: Vec<_> = s.put_many(KEYS).await?.into_iter().map(|(key, _)| key).collect();
    let writing = {
        let s = s.clone();
        spawn(async move {
            for i in 0..2 * KEYS {
                let (key, _) = s.put_new(200).await?;
                if s.can.remove && i % 2 == 0 {
                    s.store.remove(&key).await?;
                }
            }
            Ok(())
        })
    };
    let mut lists = Vec::new();
    for _ in 0..5 {
        lists.push(listed(s, s.names.model()).await?);
    }
    writing.await?;
    lists.push(listed(s, s.names.model()).await?);
    for found in lists {
        for key in &stay {
            let n = found.get(key).copied().unwrap_or(0);
            ensure!(n == 1, "`list` gives `{key}` {n} times while other keys come and go");
        }
    }
    Ok(())
}

/// All keys under the prefix, in order, and how often `list` gives each.
async fn listed(s: &Subject, prefix: &str) -> Checked<BTreeMap<CacheKey, usize>> {
    let mut found = BTreeMap::new();
    let mut keys = s.store.list(prefix);
    while let Some(key) = keys.try_next().await? {
        *found.entry(key).or_default() += 1;
    }
    Ok(found)
}
