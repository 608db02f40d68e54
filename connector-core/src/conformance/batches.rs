//! Batches.

use super::subject::{Checked, Subject, ensure, failed, is_refusal, skip};
use super::value::Value;
use crate::{CacheKey, ChunkLayout, Dtype, ErrorKind, KeyKind, MemoryFormat, MemoryObjMut, Shape};

const THOUSANDS: usize = 2000;
/// The kit does not try a larger limit of keys or chunks in a batch.
const MAX_TRIED: usize = 16 << 20;

/// The keys of a batch and the answers to expect: keys of every kind, stored ones and holes, and some of both twice.
async fn mixed(s: &Subject) -> Checked<(Vec<CacheKey>, Vec<Option<Value>>)> {
    let (mut keys, mut expected) = (Vec::new(), Vec::new());
    for (i, kind) in s.kinds().iter().copied().cycle().take(15).enumerate() {
        let key = s.names.key(kind);
        let value = if i % 4 == 1 { None } else { Some(s.value_for(kind, 300 * (15 - i))?) };
        if let Some(value) = &value {
            s.put(&key, value).await?;
        }
        keys.push(key);
        expected.push(value);
    }
    for i in [3, 0, 1, 14, 3] {
        keys.push(keys[i].clone());
        expected.push(expected[i].clone());
    }
    Ok((keys, expected))
}

pub(super) async fn batches_of_none_and_one(s: &Subject) -> Checked {
    let store = &s.store;
    let (key, value) = s.put_new(900).await?;
    let new = s.key();
    let mut request = [(key.clone(), s.memory(&value.layout)?)];
    let lengths = [
        ("batched_get", store.batched_get(&[]).await.len()),
        ("batched_exists", store.batched_exists(&[]).await.len()),
        ("batched_put", store.batched_put(&[]).await.len()),
        ("batched_get_into", store.batched_get_into(&mut []).await.len()),
        ("batched_contains", store.batched_contains(&[]).await?),
        ("get_prefix", store.get_prefix(&[]).await?.len()),
        ("batched_remove", if s.can.remove { store.batched_remove(&[]).await.len() } else { 0 }),
    ];
    for (call, n) in lengths {
        ensure!(n == 0, "`{call}` without keys answers {n}");
    }
    let key = std::slice::from_ref(&key);
    s.expect_answer(&key[0], only("batched_get", store.batched_get(key).await)??, &value)?;
    ensure!(
        only("batched_exists", store.batched_exists(key).await)??,
        "`batched_exists` is false for a key that was put"
    );
    ensure!(store.batched_contains(key).await? == 1, "`batched_contains` of one key that was put is not 1");
    let n = only("batched_get_into", store.batched_get_into(&mut request).await)??;
    ensure!(n == Some(value.layout.len), "`batched_get_into` gives {n:?} for {} bytes", value.layout.len);
    s.expect_bytes(&request[0].0, &request[0].1, request[0].1.layout(), &value)?;
    only("batched_put", store.batched_put(&[(new.clone(), s.chunk(&value)?)]).await)??;
    s.expect(&new, &value).await?;
    if s.can.remove {
        ensure!(
            only("batched_remove", store.batched_remove(key).await)??,
            "`batched_remove` is false for a stored key"
        );
    }
    Ok(())
}

pub(super) async fn batched_get_keeps_order_and_holes(s: &Subject) -> Checked {
    let (keys, expected) = mixed(s).await?;
    let answers = s.store.batched_get(&keys).await;
    ensure!(answers.len() == keys.len(), "`batched_get` of {} keys gives {} answers", keys.len(), answers.len());
    for ((key, answer), expected) in keys.iter().zip(answers).zip(expected) {
        match (answer?, expected) {
            (None, None) => {}
            (got, Some(value)) => s.expect_answer(key, got, &value)?,
            (Some(got), None) => {
                return Err(failed(format!("`batched_get` gives {got:?} for `{key}`, which is not stored")));
            }
        }
    }
    Ok(())
}

pub(super) async fn batched_exists_keeps_order_and_holes(s: &Subject) -> Checked {
    let (keys, expected) = mixed(s).await?;
    let answers = s.store.batched_exists(&keys).await.into_iter().collect::<crate::Result<Vec<_>>>()?;
    let expected: Vec<_> = expected.iter().map(Option::is_some).collect();
    ensure!(answers == expected, "`batched_exists` gives {answers:?}, not {expected:?}");
    Ok(())
}

pub(super) async fn batched_contains_counts_the_leading_run(s: &Subject) -> Checked {
    let stored: Vec<_> = s.put_many(12).await?.into_iter().map(|(key, _)| key).collect();
    for hole in [0, 1, 5, 9, 11] {
        let mut keys = stored.clone();
        keys[hole] = s.key();
        let n = s.store.batched_contains(&keys).await?;
        ensure!(n == hole, "`batched_contains` is {n} for 12 keys, of which the one at index {hole} is not stored");
    }
    let n = s.store.batched_contains(&stored).await?;
    ensure!(n == 12, "`batched_contains` is {n} for 12 stored keys");
    Ok(())
}

pub(super) async fn get_prefix_gives_the_leading_run(s: &Subject) -> Checked {
    let stored = s.put_many(12).await?;
    for hole in [0, 1, 5, 11, 12] {
        let mut keys: Vec<_> = stored.iter().map(|(key, _)| key.clone()).collect();
        if let Some(key) = keys.get_mut(hole) {
            *key = s.key();
        }
        let chunks = s.store.get_prefix(&keys).await?;
        let n = chunks.len();
        ensure!(n == hole, "`get_prefix` gives {n} chunks for 12 keys, of which the one at index {hole} is not stored");
        for ((key, value), chunk) in stored.iter().zip(chunks) {
            s.expect_answer(key, Some(chunk), value)?;
        }
    }
    Ok(())
}

pub(super) async fn batched_put_stores_each_chunk(s: &Subject) -> Checked {
    let (mut items, mut values) = (Vec::new(), Vec::new());
    for (i, kind) in s.kinds().iter().copied().cycle().take(20).enumerate() {
        let value = s.value_for(kind, 1 + 700 * i)?;
        items.push((s.names.key(kind), s.chunk(&value)?));
        values.push(value);
    }
    // Puts one key a second time: either value may be left.
    let second = s.value(444)?;
    items.push((items[0].0.clone(), s.chunk(&second)?));
    let answers = s.store.batched_put(&items).await;
    ensure!(answers.len() == items.len(), "`batched_put` of {} chunks gives {} answers", items.len(), answers.len());
    for answer in answers {
        answer?;
    }
    let got = s.store.get(&items[0].0).await?;
    ensure!(got.is_some(), "`{}` was put twice in one batch, but is a miss", items[0].0);
    s.expect_none_or_one_of(&items[0].0, got, &[&values[0], &second])?;
    for ((key, _), value) in items.iter().zip(&values).skip(1) {
        s.expect(key, value).await?;
    }
    Ok(())
}

pub(super) async fn batched_get_into_fills_each_memory(s: &Subject) -> Checked {
    let (keys, expected) = mixed(s).await?;
    // Some memory is too short, some is too long.
    let room = |i: usize, value: &Option<Value>| match (i % 5, value) {
        (_, None) => 64,
        (2, Some(value)) => value.layout.len / 2,
        (3, Some(value)) => value.layout.len * 2,
        (_, Some(value)) => value.layout.len,
    };
    let rooms: Vec<_> = expected.iter().enumerate().map(|(i, value)| room(i, value)).collect();
    let mut requests: Vec<_> = keys.into_iter().zip(rooms.iter().map(|n| MemoryObjMut::zeroed(*n))).collect();
    let answers = s.store.batched_get_into(&mut requests).await;
    ensure!(answers.len() == rooms.len(), "`batched_get_into` of {} keys gives {} answers", rooms.len(), answers.len());
    for (((key, memory), answer), (value, room)) in requests.iter().zip(answers).zip(expected.iter().zip(rooms)) {
        match (answer, value) {
            (Ok(None), None) => {}
            (Ok(None), Some(value)) if s.can.exact_length && room != value.layout.len => {}
            (Ok(Some(n)), Some(value)) if room >= value.layout.len => {
                ensure!(n == value.layout.len, "`batched_get_into` gives {n} for {} bytes", value.layout.len);
                s.expect_bytes(key, memory, memory.layout(), value)?;
            }
            (Err(e), Some(value)) if room < value.layout.len && e.kind() == ErrorKind::SizeMismatch => {}
            (answer, value) => {
                let stored = value.as_ref().map_or("not stored".into(), |v| format!("{} bytes", v.layout.len));
                let what = format!("`{key}` ({stored}) into memory of {room} bytes");
                return Err(failed(format!("`batched_get_into` of {what} gives {answer:?}")));
            }
        }
        ensure!(memory.capacity() == room, "memory of {room} bytes has a capacity of {} afterwards", memory.capacity());
    }
    Ok(())
}

pub(super) async fn a_refused_item_fails_alone(s: &Subject) -> Checked {
    let refused = refused(s).await?;
    if refused.is_empty() {
        skip!("the store refuses no key and no chunk of this check");
    }
    let (mut keys, mut values, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in refused {
        items.push((key.clone(), s.chunk(&value)?));
        keys.push(key);
        values.push(None);
        let (key, value) = (s.key(), s.value(900)?);
        items.push((key.clone(), s.chunk(&value)?));
        keys.push(key);
        values.push(Some(value));
    }
    let answers = s.store.batched_put(&items).await;
    ensure!(answers.len() == items.len(), "`batched_put` of {} chunks gives {} answers", items.len(), answers.len());
    for ((key, answer), value) in keys.iter().zip(answers).zip(&values) {
        match (answer, value) {
            (Ok(()), Some(value)) => s.expect(key, value).await?,
            (Err(e), None) if is_refusal(&e) => {}
            (answer, Some(_)) => return Err(beside("batched_put", key, &answer)),
            (answer, None) => return Err(failed(format!("`put` refuses `{key}`, but `batched_put` gives {answer:?}"))),
        }
    }
    for ((key, answer), value) in keys.iter().zip(s.store.batched_get(&keys).await).zip(&values) {
        match (answer, value) {
            (Ok(got), Some(value)) => s.expect_answer(key, got, value)?,
            (Err(e), None) if is_refusal(&e) => {}
            (Ok(None), None) => {}
            (answer, _) => return Err(beside("batched_get", key, &answer)),
        }
    }
    for ((key, answer), value) in keys.iter().zip(s.store.batched_exists(&keys).await).zip(&values) {
        match (answer, value) {
            (Err(e), None) if is_refusal(&e) => {}
            (Ok(there), value) if there == value.is_some() => {}
            (answer, _) => return Err(beside("batched_exists", key, &answer)),
        }
    }
    Ok(())
}

fn beside(call: &str, key: &CacheKey, answer: &impl std::fmt::Debug) -> super::subject::End {
    failed(format!("`{call}` of `{key}`, beside keys and chunks that the store refuses, gives {answer:?}"))
}

/// Keys with values that a single `put` refuses.
async fn refused(s: &Subject) -> Checked<Vec<(CacheKey, Value)>> {
    let n = s.names.number();
    let long = s.can.max_key_bytes.filter(|limit| *limit <= MAX_TRIED).map_or(300, |limit| limit + 1);
    let mut tried = Vec::new();
    for odd in ["m".repeat(long), "\0".to_owned(), "-SEP-".to_owned()] {
        let text = format!("{}{odd}{}", s.names.model(), s.tail(&format!("{n:016x}")));
        tried.push((s.names.named(&text, s.kind())?, s.value(800)?));
    }
    if s.can.object_keys_only {
        tried.push((s.names.key(KeyKind::Engine), s.value(800)?));
    }
    let limit = s.can.max_chunk_bytes.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit <= MAX_TRIED);
    if let Some(limit) = limit {
        let elements = limit / s.dtype().size() + 1;
        let layout = ChunkLayout::new(MemoryFormat::Undefined, Shape::new(&[elements])?, s.dtype())?;
        tried.push((s.key(), s.value_of(layout)));
    }
    if let Some(dtype) = Dtype::ALL.into_iter().find(|dtype| !s.stores(*dtype)) {
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 2, 16, 8])?, dtype)?;
        tried.push((s.key(), s.value_of(layout)));
    }
    let mut refused = Vec::new();
    for (key, value) in tried {
        if !s.put_or_refused(&key, &value).await? {
            refused.push((key, value));
        }
    }
    Ok(refused)
}

pub(super) async fn batched_remove_answers_for_each_key(s: &Subject) -> Checked {
    s.needs_remove()?;
    let stored = s.put_many(10).await?;
    let (kept, removed) = stored.split_at(4);
    let mut keys: Vec<_> = removed.iter().map(|(key, _)| key.clone()).collect();
    keys.insert(3, s.key());
    let stored: Vec<_> = (0..keys.len()).map(|i| i != 3).collect();
    for (expected, when) in [(stored, "first"), (vec![false; keys.len()], "second")] {
        let answers = s.store.batched_remove(&keys).await.into_iter().collect::<crate::Result<Vec<_>>>()?;
        ensure!(answers == expected, "the {when} `batched_remove` gives {answers:?}, not {expected:?}");
    }
    for key in &keys {
        s.expect_none(key).await?;
    }
    for (key, value) in kept {
        s.expect(key, value).await?;
    }
    Ok(())
}

pub(super) async fn thousands_of_keys_in_one_batch(s: &Subject) -> Checked {
    let keys = s.keys(THOUSANDS);
    let values = keys.iter().map(|_| s.value(48)).collect::<Checked<Vec<_>>>()?;
    let mut items = Vec::new();
    for (key, value) in keys.iter().zip(&values) {
        items.push((key.clone(), s.chunk(value)?));
    }
    for answer in s.store.batched_put(&items).await {
        answer?;
    }
    drop(items);
    let n = s.store.batched_contains(&keys).await?;
    ensure!(n == THOUSANDS, "`batched_contains` is {n} for {THOUSANDS} stored keys");
    let exists = s.store.batched_exists(&keys).await.into_iter().filter(|a| matches!(a, Ok(true))).count();
    ensure!(exists == THOUSANDS, "`batched_exists` is true for {exists} of {THOUSANDS} stored keys");
    let answers = s.store.batched_get(&keys).await;
    ensure!(answers.len() == THOUSANDS, "`batched_get` of {THOUSANDS} keys gives {} answers", answers.len());
    for ((key, answer), value) in keys.iter().zip(answers).zip(&values) {
        s.expect_answer(key, answer?, value)?;
    }
    Ok(())
}

/// The only answer of a batch of one key.
fn only<T>(call: &str, answers: Vec<T>) -> Checked<T> {
    let n = answers.len();
    let mut answers = answers.into_iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => Ok(answer),
        _ => Err(failed(format!("`{call}` of one key gives {n} answers"))),
    }
}
