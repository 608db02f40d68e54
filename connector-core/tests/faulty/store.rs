//! The chunks of the connector in memory, and how a fault damages them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use connector_core::{
    CacheKey, ChunkLayout, Dtype, Error, ErrorKind, Group, KeyKind, MemoryFormat, MemoryObj, Region, Result, Shape,
};
use tokio::task::yield_now;

use super::lent::Lent;
use super::{Fault, Faulty, Stored};

impl Faulty {
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(super) fn chunks(&self) -> MutexGuard<'_, HashMap<CacheKey, Stored>> {
        self.store.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name under which the store keeps the chunk.
    pub(super) fn place(&self, key: &CacheKey) -> CacheKey {
        let text = key.as_str();
        let named = |text: String| CacheKey::parse(&text, key.kind()).unwrap_or_else(|_| key.clone());
        let mut fields: Vec<&str> = text.split('@').collect();
        match self.fault {
            Some(Fault::HashAsNumber) => {
                let digits = fields[3].trim_start_matches(['-', '0']);
                fields[3] = if digits.is_empty() { "0" } else { digits };
                named(fields.join("@"))
            }
            Some(Fault::ForgetsTags) if key.kind() == KeyKind::Engine => named(fields[..5].join("@")),
            Some(Fault::SlashAsUnderscore) => named(text.replace('/', "_")),
            Some(Fault::CutsNames) if text.len() > 200 => {
                // Cuts the model's name, which is the long field.
                fields[0] = &fields[0][..100];
                named(fields.join("@"))
            }
            Some(Fault::CutsLongerNames) if text.len() > 255 => {
                fields[0] = &fields[0][..200];
                named(fields.join("@"))
            }
            _ => key.clone(),
        }
    }

    /// Whether the store takes no keys of this kind.
    pub(super) fn is_of_another_kind(&self, key: &CacheKey) -> bool {
        let only = self.profile.capabilities().object_keys_only && !self.has(Fault::TakesEngineKeys);
        only && key.kind() != KeyKind::Object
    }

    /// Refuses a key or chunk that the store could not give back.
    pub(super) fn check(&self, key: &CacheKey, layout: &ChunkLayout) -> Result<()> {
        let can = self.profile.capabilities();
        let refuse = |kind, why: &'static str| Err(Error::new(kind, why));
        if self.is_of_another_kind(key) {
            return refuse(ErrorKind::InvalidKey, "the store takes only object keys");
        }
        if can.max_key_bytes.is_some_and(|n| key.as_str().len() > n) && !self.has(Fault::TakesLongKeys) {
            return refuse(ErrorKind::InvalidKey, "the key is too long");
        }
        if can.max_chunk_bytes.is_some_and(|n| layout.len as u64 > n) && !self.has(Fault::TakesLongChunks) {
            return refuse(ErrorKind::Unsupported, "the chunk is too long");
        }
        let known = |dtype| can.dtypes.is_none_or(|all| all.contains(&dtype));
        if !layout.groups.iter().all(|g| g.dtype.is_some_and(known)) && !self.has(Fault::TakesEveryDtype) {
            return refuse(ErrorKind::Unsupported, "the dtype is not known");
        }
        let odd = key.as_str().contains(['\n', '\t']);
        if odd && !self.has(Fault::OddKeysBecomeOthers) {
            return refuse(ErrorKind::InvalidKey, "the key has a control character");
        }
        Ok(())
    }

    pub(super) fn find(&self, key: &CacheKey) -> Option<(Vec<u8>, ChunkLayout)> {
        let place = self.place(key);
        let chunks = self.chunks();
        let another = || {
            let others = chunks.iter().filter(|(other, _)| **other != place && chunks.contains_key(&place));
            others.min_by_key(|(other, _)| other.as_str()).map(|(_, stored)| stored)
        };
        let another = if self.has(Fault::GivesAnotherKeysChunk) { another() } else { None };
        let stored = another.or_else(|| chunks.get(&place)).or_else(|| {
            let odd = key.as_str().contains(['\n', '\t']) && self.has(Fault::OddKeysBecomeOthers);
            odd.then(|| chunks.values().next()).flatten()
        })?;
        let (mut bytes, mut layout) = (stored.bytes.clone(), stored.layout.clone());
        drop(chunks);
        if !self.profile.capabilities().keeps_layout_of(key.kind()) {
            layout = ChunkLayout::binary(bytes.len());
        }
        self.damage(key, &mut bytes, &mut layout);
        Some((bytes, layout))
    }

    /// Damages a chunk as the fault says.
    pub(super) fn damage(&self, key: &CacheKey, bytes: &mut [u8], layout: &mut ChunkLayout) {
        let relabel = |dtype: Dtype, shape: Shape| ChunkLayout::new(MemoryFormat::Kv2ltd, shape, dtype);
        match self.fault {
            Some(Fault::FlipsABit) if key.kind() == KeyKind::Object => bytes[0] ^= 1,
            Some(Fault::FlipsABitOfLongChunks) if bytes.len() > 1 << 20 => bytes[1 << 20] ^= 1,
            Some(Fault::Float64IsForgotten) if layout.dtype() == Some(Dtype::Float64) => {
                let shape = Shape::new(&[bytes.len()]).expect("one dimension");
                *layout = relabel(Dtype::Uint8, shape).expect("a layout");
            }
            Some(Fault::HiddenStatesAreForgotten) if layout.format == MemoryFormat::HsTd => {
                layout.format = MemoryFormat::EcTd;
            }
            Some(Fault::RanksArePadded) if layout.shape().len() == 3 && !layout.format.is_binary() => {
                let mut dims = layout.shape().to_vec();
                dims.push(1);
                let shape = Shape::new(&dims).expect("four dimensions");
                layout.groups = Group { shape, dtype: layout.dtype() }.into();
            }
            Some(Fault::SecondGroupIsLost) if layout.groups.len() > 1 => {
                layout.groups = layout.groups[0].into();
            }
            Some(Fault::DimensionsOfZeroAreLost) if layout.shape().contains(&0) && !layout.format.is_binary() => {
                layout.groups = Group { shape: layout.shape().stripped(), dtype: layout.dtype() }.into();
            }
            _ => {}
        }
    }

    pub(super) fn store(&self, key: &CacheKey, chunk: &MemoryObj) {
        let place = self.place(key);
        let mut stored = Stored { bytes: chunk.to_vec(), layout: chunk.layout().clone(), kept: None, lent: None };
        let mut chunks = self.chunks();
        if let Some(old) = chunks.get(&place) {
            match self.fault {
                Some(Fault::KeepsTheFirst) => return,
                Some(Fault::KeepsTheFirstLayout) if old.bytes.len() == stored.bytes.len() => {
                    stored.layout = old.layout.clone();
                }
                _ => {}
            }
        }
        if self.has(Fault::IgnoresLen) && !stored.layout.format.is_binary() {
            let of_group = |group: &Group| group.shape.iter().product::<usize>() * group.dtype.map_or(1, Dtype::size);
            stored.layout.len = stored.layout.groups.iter().map(of_group).sum();
            stored.bytes.resize(stored.layout.len, 0);
        }
        if self.has(Fault::CutsLongChunks) && stored.bytes.len() > 1 << 20 {
            stored.bytes.truncate(1 << 20);
            stored.layout = ChunkLayout::binary(1 << 20);
        }
        if self.has(Fault::KeepsItsChunk) {
            stored.kept = Some(chunk.clone());
        }
        if self.has(Fault::WritesToWhatItGaveOut) {
            let old = chunks.remove(&place).and_then(|old| old.lent);
            let lent = old.filter(|old| old.len() >= stored.bytes.len()).unwrap_or_else(|| Lent::new(&stored.bytes));
            lent.overwrite(&stored.bytes);
            stored.lent = Some(lent);
        }
        chunks.insert(place, stored);
    }

    /// Writes a deferred put into the store.
    pub(super) fn write_deferred(&self) {
        let waiting = self.waiting.lock().expect("no test panics here").take();
        if let Some((key, bytes, layout)) = waiting {
            self.chunks().insert(key, Stored { bytes, layout, kept: None, lent: None });
        }
    }

    /// Stores the chunk in two halves, so that two writers, or a writer and a reader, can meet between them.
    pub(super) async fn store_in_halves(&self, key: &CacheKey, chunk: &MemoryObj) {
        let half = chunk.len() / 2;
        for part in [0..half, half..chunk.len()] {
            {
                let mut chunks = self.chunks();
                let empty = || Stored { bytes: Vec::new(), layout: chunk.layout().clone(), kept: None, lent: None };
                let stored = chunks.entry(key.clone()).or_insert_with(empty);
                stored.bytes.resize(chunk.len(), 0);
                stored.layout = chunk.layout().clone();
                stored.bytes[part.clone()].copy_from_slice(&chunk[part]);
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
    }

    /// The start of each call. Fails if a dropped call has left the connection busy.
    pub(super) async fn begin(&self, fault: Fault) -> Result<()> {
        self.write_deferred();
        if self.has(fault) {
            if self.busy.swap(true, Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Other, "a call that was dropped has left the connection busy"));
            }
            yield_now().await;
            self.busy.store(false, Ordering::SeqCst);
        }
        // Every call can be dropped here.
        yield_now().await;
        if self.has(Fault::ClosesAllAtOnce) && self.store.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the connection that all share is closed"));
        }
        Ok(())
    }

    /// The error of a chunk that does not fit.
    pub(super) fn does_not_fit(&self, chunk: usize, room: usize) -> Error {
        match self.fault {
            Some(Fault::SaysOneSize) => Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit")),
            Some(Fault::NamesAnotherKey) => {
                Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit {room}")).with_key("another")
            }
            _ => Error::new(ErrorKind::SizeMismatch, format!("{chunk} bytes do not fit {room}")),
        }
    }
}
