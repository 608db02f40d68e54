//! The keys of in-process mode: a chunk of all layers, or of one.

use std::fmt;
use std::str::FromStr;

use super::{CacheKey, ChunkHash, KeyKind, bad_field, bad_key, check_model, check_outer_spaces, decimal, hash};
use crate::chunk::Dtype;
use crate::{Error, Result};

/// `model@world_size@worker_id@hash@dtype[@tag%value..]`: one chunk of all layers.
///
/// [`new`](Self::new), [`with_tag`](Self::with_tag) and parsing check that LMCache reads the text back; who writes to a
/// field keeps to what stands at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CacheEngineKey {
    /// The model's name; holds no `@`.
    pub model_name: String,
    /// Number of workers.
    pub world_size: u32,
    /// Which of them wrote the chunk.
    pub worker_id: u32,
    /// Hash of the chunk's tokens and all before them.
    pub chunk_hash: ChunkHash,
    /// Type of the cache's elements.
    pub dtype: Dtype,
    /// `(name, value)` of each `lmcache.tag.<name>` of the request. A name holds no `%`, neither holds `@`.
    pub tags: Vec<(String, String)>,
}

impl CacheEngineKey {
    /// A key without tags.
    ///
    /// # Errors
    /// `InvalidKey` if the model's name is empty, holds `@`, or starts with a space.
    pub fn new(
        model_name: impl Into<String>,
        world_size: u32,
        worker_id: u32,
        chunk_hash: impl Into<ChunkHash>,
        dtype: Dtype,
    ) -> Result<Self> {
        let model_name = model_name.into();
        check_model(&model_name, &model_name)?;
        if model_name.contains('@') || model_name.trim_start() != model_name {
            return Err(bad_field(
                &model_name,
                1,
                "model",
                &model_name,
                "a model's name holds no `@` and starts with no space",
            ));
        }
        Ok(Self { model_name, world_size, worker_id, chunk_hash: chunk_hash.into(), dtype, tags: Vec::new() })
    }

    /// The same key with one more tag.
    ///
    /// # Errors
    /// `InvalidKey` if the name holds `@` or `%`, or the value `@` or a trailing space.
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let (name, value) = (name.into(), value.into());
        if name.contains(['@', '%']) || value.contains('@') || value.trim_end() != value {
            return Err(bad_key(
                &format!("{name}%{value}"),
                "a tag's name holds no `@` and no `%`, its value no `@` and no trailing space",
            ));
        }
        self.tags.push((name, value));
        Ok(self)
    }

    /// The key of one layer of this chunk.
    pub fn layer(&self, layer_id: u32) -> LayerCacheEngineKey {
        LayerCacheEngineKey { key: self.clone(), layer_id }
    }

    /// LMCache's `split_layers`: the keys of all `num_layers` layers.
    pub fn split_layers(&self, num_layers: u32) -> impl Iterator<Item = LayerCacheEngineKey> + '_ {
        (0..num_layers).map(|id| self.layer(id))
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
#[non_exhaustive]
pub struct LayerCacheEngineKey {
    /// All but the layer.
    pub key: CacheEngineKey,
    /// Which layer, from 0.
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
        Self::trusted(key.to_string(), KeyKind::Engine)
    }
}

impl From<LayerCacheEngineKey> for CacheKey {
    fn from(key: LayerCacheEngineKey) -> Self {
        Self::trusted(key.to_string(), KeyKind::Layer)
    }
}

/// The fields of a valid text, borrowed. One walk serves validation (which allocates nothing) and reading.
struct Fields<'a> {
    model: &'a str,
    world_size: u32,
    worker_id: u32,
    hash: &'a str,
    dtype: Dtype,
    layer_id: Option<u32>,
    /// Everything behind the dtype and layer, starting with `@`, or empty.
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
