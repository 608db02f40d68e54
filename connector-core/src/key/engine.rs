//! The keys of in-process mode: a chunk of all layers, or a chunk of one layer.

use std::fmt;
use std::str::FromStr;

use super::{
    CacheKey, ChunkHash, KeyKind, bad_field, bad_key, check_model, check_model_alone, check_outer_spaces, decimal, hash,
};
use crate::chunk::Dtype;
use crate::{Error, Result};

/// `model@world_size@worker_id@hash@dtype[@tag%value..]`: one chunk of all layers.
///
/// [`new`](Self::new) and [`with_tag`](Self::with_tag) check their arguments, so that every key's text parses back to
/// the same key.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::{CacheEngineKey, Dtype, LayerCacheEngineKey};
/// let key = CacheEngineKey::new("facebook/opt-125m", 2, 1, 0x1f2e3d_u64, Dtype::Float16)?.with_tag("user", "a")?;
/// assert_eq!(key.to_string(), "facebook/opt-125m@2@1@1f2e3d@half@user%a");
/// assert_eq!((key.world_size(), key.worker_id(), key.dtype()), (2, 1, Dtype::Float16));
/// let layer = LayerCacheEngineKey { key, layer_id: 7 };
/// assert_eq!(layer.to_string(), "facebook/opt-125m@2@1@1f2e3d@half@7@user%a");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheEngineKey {
    model_name: String,
    world_size: u32,
    worker_id: u32,
    chunk_hash: ChunkHash,
    dtype: Dtype,
    tags: Vec<(String, String)>,
}

impl CacheEngineKey {
    /// The key, without tags, of a chunk that worker `worker_id` of `world_size` workers wrote.
    ///
    /// # Errors
    /// `InvalidKey` if the model's name is empty, contains `@` or starts with a space. Also for a world size of eight
    /// digits, because the text would parse as an [`ObjectKey`](super::ObjectKey).
    pub fn new(
        model_name: impl Into<String>,
        world_size: u32,
        worker_id: u32,
        chunk_hash: impl Into<ChunkHash>,
        dtype: Dtype,
    ) -> Result<Self> {
        let model_name = model_name.into();
        check_model_alone(&model_name)?;
        let key = Self { model_name, world_size, worker_id, chunk_hash: chunk_hash.into(), dtype, tags: Vec::new() };
        check_world_size(&key, world_size)?;
        Ok(key)
    }

    /// The same key with one more tag.
    ///
    /// # Errors
    /// `InvalidKey` if the name contains `@` or `%`, or if the value contains `@` or ends with a space.
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let (name, value) = (name.into(), value.into());
        if name.contains(['@', '%']) || value.contains('@') || value.trim_end() != value {
            return Err(bad_key(
                &format!("{name}%{value}"),
                "a tag's name contains no `@` and no `%`, its value no `@` and no trailing space",
            ));
        }
        self.tags.push((name, value));
        Ok(self)
    }

    /// The model's name, which contains no `@`.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// Number of workers.
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    /// The worker that wrote the chunk.
    pub fn worker_id(&self) -> u32 {
        self.worker_id
    }

    /// Hash of the chunk's tokens and of all tokens before them.
    pub fn chunk_hash(&self) -> &ChunkHash {
        &self.chunk_hash
    }

    /// Type of the cache's elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// `(name, value)` of each `lmcache.tag.<name>` of the request, in the order of the key's text.
    pub fn tags(&self) -> &[(String, String)] {
        &self.tags
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, layer_id: Option<u32>) -> fmt::Result {
        let Self { model_name, world_size, worker_id, chunk_hash, dtype, tags } = self;
        write!(f, "{model_name}@{world_size}@{worker_id}@{chunk_hash}@{}", dtype.key_name())?;
        if let Some(id) = layer_id {
            write!(f, "@{id}")?;
        }
        tags.iter().try_for_each(|(name, value)| write!(f, "@{name}%{value}"))
    }
}

/// `model@world_size@worker_id@hash@dtype@layer_id[@tag%value..]`: one chunk of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerCacheEngineKey {
    /// The key without the layer, which names the chunk of all layers.
    pub key: CacheEngineKey,
    /// The layer, counted from 0.
    pub layer_id: u32,
}

impl fmt::Display for CacheEngineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

impl fmt::Display for LayerCacheEngineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.write(f, Some(self.layer_id))
    }
}

impl FromStr for CacheEngineKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match read(text)? {
            (key, None) => Ok(key),
            (_, Some(_)) => Err(bad_key(text, "as an engine key, its field 6 is a layer id")),
        }
    }
}

impl FromStr for LayerCacheEngineKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match read(text)? {
            (key, Some(layer_id)) => Ok(Self { key, layer_id }),
            (_, None) => Err(bad_key(text, "as a layer key, it has no layer id in field 6")),
        }
    }
}

impl From<CacheEngineKey> for CacheKey {
    fn from(key: CacheEngineKey) -> Self {
        Self::from_typed(key.to_string(), KeyKind::Engine)
    }
}

impl From<LayerCacheEngineKey> for CacheKey {
    fn from(key: LayerCacheEngineKey) -> Self {
        Self::from_typed(key.to_string(), KeyKind::Layer)
    }
}

/// The fields of a valid text, borrowed. Validation and parsing share them, and validation allocates nothing.
struct Fields<'a> {
    model: &'a str,
    world_size: u32,
    worker_id: u32,
    hash: &'a str,
    dtype: Dtype,
    layer_id: Option<u32>,
    /// The text after the dtype and the layer id: `tag%value[@tag%value..]`, or empty.
    tags: &'a str,
}

fn fields(text: &str) -> Result<Fields<'_>> {
    check_outer_spaces(text)?;
    let mut rest = text.splitn(6, '@');
    let mut next = |number: usize| {
        rest.next().ok_or_else(|| {
            bad_key(text, format_args!("it has {} of the 5 fields `model@world_size@worker_id@hash@dtype`", number - 1))
        })
    };
    let (model, world_size, worker_id, hash_text, dtype) = (next(1)?, next(2)?, next(3)?, next(4)?, next(5)?);
    let tail = rest.next();
    check_model(text, model)?;
    let world_size = decimal(text, 2, "world size", world_size)?;
    check_world_size(text, world_size)?;
    let worker_id = decimal(text, 3, "worker id", worker_id)?;
    hash::check(text, hash_text)?;
    let dtype = Dtype::from_key_name(dtype).ok_or_else(|| {
        bad_field(text, 5, "dtype", dtype, format_args!("write one of {}", Dtype::ALL.map(Dtype::key_name).join(" ")))
    })?;
    let (layer_id, tags) = match tail {
        None => (None, None),
        Some(tail) => {
            let (first, others) = tail.split_once('@').map_or((tail, None), |(a, b)| (a, Some(b)));
            if !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit()) {
                (Some(decimal(text, 6, "layer id", first)?), others)
            } else {
                (None, Some(tail))
            }
        }
    };
    let first_tag = if layer_id.is_some() { 7 } else { 6 };
    for (i, tag) in tags.into_iter().flat_map(|t| t.split('@')).enumerate() {
        if !tag.contains('%') {
            let want = if layer_id.is_none() && i == 0 {
                "write `tag%value`, or a layer id in digits"
            } else {
                "write `tag%value`"
            };
            return Err(bad_field(text, first_tag + i, "tag", tag, want));
        }
    }
    Ok(Fields { model, world_size, worker_id, hash: hash_text, dtype, layer_id, tags: tags.unwrap_or_default() })
}

/// Refuses a world size of eight digits: `CacheKey::parse` would take it for an object key's rank. LMCache does not run
/// ten million workers.
fn check_world_size(key: impl fmt::Display, world_size: u32) -> Result<()> {
    if (10_000_000..100_000_000).contains(&world_size) {
        let want = "eight digits there make it an object key";
        return Err(bad_field(&key.to_string(), 2, "world size", &world_size.to_string(), want));
    }
    Ok(())
}

pub(super) fn validate(text: &str) -> Result<KeyKind> {
    fields(text).map(|f| if f.layer_id.is_some() { KeyKind::Layer } else { KeyKind::Engine })
}

fn read(text: &str) -> Result<(CacheEngineKey, Option<u32>)> {
    let f = fields(text)?;
    let tags =
        f.tags.split('@').filter_map(|tag| tag.split_once('%')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let key = CacheEngineKey {
        model_name: f.model.to_owned(),
        world_size: f.world_size,
        worker_id: f.worker_id,
        chunk_hash: ChunkHash::parse(text, f.hash)?,
        dtype: f.dtype,
        tags,
    };
    Ok((key, f.layer_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn parts_whose_text_would_not_parse_back_are_refused() {
        let new = |model, world_size| CacheEngineKey::new(model, world_size, 0, 0xff_u64, Dtype::Float16);
        for (made, why) in [
            (new("", 1), "write the model's name"),
            (new("a@b", 1), "contains no `@`"),
            (new(" m", 1), "starts with no space"),
            (new("m", 12_345_678), "field 2 (world size) is `12345678`; eight digits there make it an object key"),
            (new("m", 1).unwrap().with_tag("a%b", "c"), "no `%`"),
            (new("m", 1).unwrap().with_tag("a", "b@c"), "its value no `@`"),
            (new("m", 1).unwrap().with_tag("a", "b "), "no trailing space"),
        ] {
            let e = made.unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains(why), "{e}");
        }
        assert!("m@12345678@0@ff@half".parse::<CacheEngineKey>().is_err());
        assert_eq!(new("m", 123_456_789).unwrap().to_string(), "m@123456789@0@ff@half");
    }
}
