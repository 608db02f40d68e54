//! Round trips: a chunk that `put` takes comes back.

use super::subject::{Checked, Subject, ensure, failed, skip};
use crate::chunk::Groups;
use crate::{ChunkLayout, Dtype, Group, KeyKind, MemoryFormat, MemoryObjMut, Shape};

/// Sizes in bytes where stores may change their method: around a byte, a word, a page, a chunk and the largest chunk.
const SIZES: [usize; 12] = [1, 2, 7, 511, 4095, 4096, 4097, 65_537, 1 << 20, (4 << 20) + 1, 16 << 20, 64 << 20];

pub(super) async fn bytes_come_back(s: &Subject) -> Checked {
    for &kind in s.kinds() {
        let (key, value) = (s.names.key(kind), s.value_for(kind, 10_000)?);
        s.put_and_get(&key, &value).await?;
        s.expect(&key, &value).await?;
    }
    Ok(())
}

pub(super) async fn every_dtype_comes_back(s: &Subject) -> Checked {
    needs_free_layouts(s)?;
    for dtype in Dtype::ALL.into_iter().filter(|d| s.stores(*d)) {
        comes_back(s, ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 2, 16, 8])?, dtype)?).await?;
    }
    Ok(())
}

pub(super) async fn every_format_comes_back(s: &Subject) -> Checked {
    needs_free_layouts(s)?;
    for format in MemoryFormat::ALL {
        let (dims, dtype): (&[usize], _) = match format {
            MemoryFormat::Binary | MemoryFormat::BinaryBuffer => (&[300, 0, 0, 0], Dtype::Uint8),
            MemoryFormat::KvT2d => (&[16, 2, 8], s.dtype()),
            MemoryFormat::Kv2td => (&[2, 16, 8], s.dtype()),
            MemoryFormat::KvMlaFmt => (&[1, 2, 16, 8], s.dtype()),
            MemoryFormat::EcTd | MemoryFormat::HsTd => (&[16, 8], s.dtype()),
            _ => (&[2, 2, 16, 8], s.dtype()),
        };
        if s.stores(dtype) {
            comes_back(s, ChunkLayout::new(format, Shape::new(dims)?, dtype)?).await?;
        }
    }
    Ok(())
}

pub(super) async fn every_rank_comes_back(s: &Subject) -> Checked {
    needs_free_layouts(s)?;
    for dims in [&[64][..], &[16, 8], &[16, 2, 8], &[2, 2, 16, 8], &[1], &[1, 1, 1, 1], &[3, 1, 1]] {
        comes_back(s, ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(dims)?, s.dtype())?).await?;
    }
    Ok(())
}

pub(super) async fn several_groups_come_back(s: &Subject) -> Checked {
    if !s.keeps_layout() {
        skip!("the store keeps no layout, and so no groups");
    }
    let dtypes: Vec<_> = Dtype::ALL.into_iter().filter(|d| s.stores(*d)).collect();
    let mut kept = 0;
    for n in [2, 3, 9] {
        let group = |i: usize| -> Checked<Group> {
            Ok(Group { shape: Shape::new(&[2, i + 1, 16, 8])?, dtype: Some(dtypes[i % dtypes.len()]) })
        };
        let groups = (0..n).map(group).collect::<Checked<Vec<_>>>()?;
        let (key, value) = (s.key(), s.value_of(ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &groups)?));
        if !s.put_or_refused(&key, &value).await? {
            s.expect_none(&key).await?;
            continue;
        }
        s.expect(&key, &value).await?;
        // A reader that expects the header of one group would take the rest of the header for the chunk's bytes.
        s.expect_into(&key, &mut MemoryObjMut::zeroed(value.layout.len), &value).await?;
        kept += 1;
    }
    if kept == 0 {
        skip!("the store refuses a chunk of several groups");
    }
    Ok(())
}

pub(super) async fn every_size_comes_back(s: &Subject) -> Checked {
    for &kind in s.kinds() {
        // A store may treat kinds differently, but not by size: the largest chunks of one kind are enough.
        for size in SIZES.into_iter().filter(|size| kind == KeyKind::Engine || *size <= 1 << 20) {
            let (key, value) = (s.names.key(kind), s.value_for(kind, size)?);
            s.put_and_get(&key, &value).await?;
            if s.can.remove {
                s.store.remove(&key).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn puts_are_refused_or_come_back(s: &Subject) -> Checked {
    needs_free_layouts(s)?;
    let group = |dims: &[usize], dtype| -> Checked<Groups> { Ok(Group { shape: Shape::new(dims)?, dtype }.into()) };
    let dtype = Some(s.dtype());
    let odd = [
        ("an empty chunk", ChunkLayout::binary(0)),
        ("dimensions of 0", layout(MemoryFormat::Kv2ltd, group(&[16, 0, 0, 0], dtype)?, 32)),
        ("a dimension of 0 at the end", layout(MemoryFormat::KvT2d, group(&[16, 2, 0], dtype)?, 0)),
        (
            "a length that does not follow from shape and dtype",
            layout(MemoryFormat::Kv2ltd, group(&[2, 2, 4, 4], dtype)?, 100),
        ),
        ("a group without a dtype", layout(MemoryFormat::Kv2ltd, group(&[2, 2, 4, 4], None)?, 64)),
        ("a binary chunk of one dimension", layout(MemoryFormat::Binary, group(&[64], Some(Dtype::Uint8))?, 64)),
        ("a binary chunk without a shape", layout(MemoryFormat::BinaryBuffer, group(&[0], Some(Dtype::Uint8))?, 64)),
    ];
    for (what, layout) in odd {
        for old in [None, Some(s.value(200)?)] {
            if let Some((key, value)) = s.put_over(old.as_ref(), what, &layout).await? {
                s.expect(&key, &value).await.map_err(|e| failed(format!("`put` took {what}, but {}", e.why())))?;
            }
        }
    }
    Ok(())
}

pub(super) async fn put_keeps_exactly_len_bytes(s: &Subject) -> Checked {
    let (key, value) = (s.key(), s.value(5000)?);
    s.store.put(&key, s.chunk_in_longer_memory(&value, 3000)?).await?;
    s.expect(&key, &value).await.map_err(|e| failed(format!("a chunk in longer memory: {}", e.why())))?;
    let odd = match s.layout_of_raw_values() {
        Some(raw) => {
            let full = &raw.full;
            let of = |len| ChunkLayout { len, ..full.clone() };
            let groups = Groups::new(&[full.groups[0], full.groups[0]])?;
            vec![
                ("a chunk of two full chunks of the metadata", of(2 * full.len)),
                ("a chunk of one token more than a full one", of(full.len + raw.token_bytes)),
                ("a chunk that is not a whole number of tokens", of(raw.token_bytes + 1)),
                ("a chunk with other groups than the metadata", layout(full.format, groups, full.len)),
                ("an empty chunk", of(0)),
            ]
        }
        None => {
            let group = Group { shape: Shape::new(&[2, 2, 16, 8])?, dtype: Some(s.dtype()) };
            let bytes = ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &[group])?.len;
            let groups = Groups::new(&[group, group])?;
            vec![
                ("a chunk shorter than its shape", layout(MemoryFormat::Kv2ltd, group.into(), bytes / 2)),
                ("a chunk longer than its shape", layout(MemoryFormat::Kv2ltd, group.into(), bytes * 3)),
                ("a chunk whose last group is cut short", layout(MemoryFormat::Kv2ltd, groups, bytes + bytes / 4)),
            ]
        }
    };
    for (what, layout) in odd {
        for old in [None, Some(s.value(200)?)] {
            if let Some((key, value)) = s.put_over(old.as_ref(), what, &layout).await? {
                s.expect(&key, &value).await.map_err(|e| failed(format!("`put` took {what}, but {}", e.why())))?;
            }
        }
    }
    Ok(())
}

pub(super) async fn exists_agrees_with_get(s: &Subject) -> Checked {
    for &kind in s.kinds() {
        let (key, other) = (s.names.key(kind), s.names.key(kind));
        ensure!(!s.store.exists(&key).await?, "`exists` is true for `{key}`, which was never put");
        s.put(&key, &s.value_for(kind, 500)?).await?;
        s.expect_exists(&key).await?;
        ensure!(!s.store.exists(&other).await?, "`exists` is true for `{other}`, which was never put");
    }
    Ok(())
}

pub(super) async fn misses_are_not_errors(s: &Subject) -> Checked {
    let miss = |call: &str, e: crate::Error| failed(format!("`{call}` of a key that is not stored is an error: {e}"));
    for &kind in s.kinds() {
        let key = s.names.key(kind);
        let got = s.store.get(&key).await.map_err(|e| miss("get", e))?;
        ensure!(got.is_none(), "`get` gives {got:?} for a key that was never put");
        let exists = s.store.exists(&key).await.map_err(|e| miss("exists", e))?;
        ensure!(!exists, "`exists` is true for a key that was never put");
        let n = s.store.get_into(&key, &mut MemoryObjMut::zeroed(64)).await.map_err(|e| miss("get_into", e))?;
        ensure!(n.is_none(), "`get_into` gives {n:?} for a key that was never put");
        let keys = [key];
        for answer in s.store.batched_get(&keys).await {
            ensure!(answer.map_err(|e| miss("batched_get", e))?.is_none(), "`batched_get` gives a chunk for a miss");
        }
        let n = s.store.batched_contains(&keys).await.map_err(|e| miss("batched_contains", e))?;
        ensure!(n == 0, "`batched_contains` counts {n} of a key that was never put");
        let n = s.store.get_prefix(&keys).await.map_err(|e| miss("get_prefix", e))?.len();
        ensure!(n == 0, "`get_prefix` gives {n} chunks for a key that was never put");
        if s.can.remove {
            let removed = s.store.remove(&keys[0]).await.map_err(|e| miss("remove", e))?;
            ensure!(!removed, "`remove` is true for a key that was never put");
        }
    }
    Ok(())
}

fn layout(format: MemoryFormat, groups: Groups, len: usize) -> ChunkLayout {
    ChunkLayout { format, groups, len }
}

async fn comes_back(s: &Subject, layout: ChunkLayout) -> Checked {
    let (key, value) = (s.key(), s.value_of(layout));
    s.put_and_get(&key, &value).await?;
    s.expect_into(&key, &mut MemoryObjMut::zeroed(value.layout.len), &value).await
}

/// Skips the check if only the metadata's layout can be put.
fn needs_free_layouts(s: &Subject) -> Checked {
    if s.takes_layout_from_metadata() {
        skip!("values are raw and have the layout of the metadata");
    }
    Ok(())
}
