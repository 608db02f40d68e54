//! The engine's metadata: the shape of a chunk that a store keeps as bare bytes.

use crate::chunk::{ChunkLayout, Dtype, Group, Groups, MemoryFormat, Shape};
use crate::key::check_model;
use crate::{Error, ErrorKind, Result};

/// Layers of equal structure. [`LMCacheMetadata::new`] checks the values.
///
/// Source: `KVLayerGroupsManager` of LMCache 0.5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerGroup {
    /// 2 for keys and values, 1 for multi-head latent attention.
    pub kv_size: usize,
    /// Layers in the group.
    pub num_layers: usize,
    /// Heads times head size.
    pub hidden_dim: usize,
    /// Type of the elements.
    pub dtype: Dtype,
}

/// LMCache's `LMCacheMetadata`: the serving engine's description of the model and of this worker.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::{Dtype, LMCacheMetadata, LayerGroup};
/// // facebook/opt-125m: 12 layers of 12 heads of 64, float16.
/// let group = LayerGroup { kv_size: 2, num_layers: 12, hidden_dim: 12 * 64, dtype: Dtype::Float16 };
/// let metadata = LMCacheMetadata::new("facebook/opt-125m", 1, 0, 256, &[group])?;
/// let chunk = metadata.chunk_layout();
/// assert_eq!((chunk.full.shape().to_string(), chunk.full.len), ("[2, 12, 256, 768]".into(), 9_437_184));
/// assert_eq!(chunk.for_bytes(chunk.token_bytes * 17)?.shape().to_string(), "[2, 12, 17, 768]");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LMCacheMetadata {
    /// The model's name.
    pub model_name: String,
    /// Number of workers.
    pub world_size: u32,
    /// The number of this worker, counted from 0.
    pub worker_id: u32,
    layout: RawLayout,
}

impl LMCacheMetadata {
    /// Metadata of a model with these groups of layers. If all groups have the `kv_size` 1, the model uses multi-head
    /// latent attention.
    ///
    /// # Errors
    /// `InvalidKey` for a model's name that a key cannot contain. `InvalidInput` for 0 workers, an empty `groups`, a
    /// `kv_size` other than 1 and 2, a dimension of 0, and a chunk whose length overflows.
    pub fn new(
        model_name: impl Into<String>,
        world_size: u32,
        worker_id: u32,
        chunk_size: usize,
        groups: &[LayerGroup],
    ) -> Result<Self> {
        let model_name = model_name.into();
        check_model(&model_name, &model_name)?;
        if world_size == 0 {
            return Err(bad("`world_size` is at least 1, not 0"));
        }
        let layout = RawLayout::new(groups, chunk_size)?;
        Ok(Self { model_name, world_size, worker_id, layout })
    }

    /// The layout of a chunk: shapes, dtypes, and the bytes of a full chunk and of one token.
    pub fn chunk_layout(&self) -> &RawLayout {
        &self.layout
    }
}

/// The layout of raw values: of a full chunk, and of shorter ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawLayout {
    /// A full chunk: format, shapes, dtypes and bytes.
    pub full: ChunkLayout,
    /// Tokens in a full chunk.
    pub chunk_size: usize,
    /// Bytes of one token in all groups together.
    pub token_bytes: usize,
}

/// The axis of the tokens in `KV_2LTD` and `KV_MLA_FMT`.
const TOKEN_AXIS: usize = 2;

impl RawLayout {
    fn new(groups: &[LayerGroup], chunk_size: usize) -> Result<Self> {
        let use_mla = !groups.is_empty() && groups.iter().all(|g| g.kv_size == 1);
        let format = if use_mla { MemoryFormat::KvMlaFmt } else { MemoryFormat::Kv2ltd };
        let groups = groups
            .iter()
            .map(|g| {
                let dims = [g.kv_size, g.num_layers, chunk_size, g.hidden_dim];
                if dims.contains(&0) {
                    return Err(bad(&format!("no dimension may be 0: {dims:?}")));
                }
                if g.kv_size > 2 {
                    return Err(bad(&format!("`kv_size` is 2 (keys and values) or 1, not {}", g.kv_size)));
                }
                Ok(Group { shape: Shape::new(&dims)?, dtype: Some(g.dtype) })
            })
            .collect::<Result<Vec<_>>>()?;
        let full = ChunkLayout::from_groups(format, &groups)?;
        let token_bytes = full.len / chunk_size;
        Ok(Self { full, chunk_size, token_bytes })
    }

    /// The layout of a raw value of `bytes` bytes: a full chunk's layout with the number of tokens that fits the
    /// length.
    ///
    /// # Errors
    /// `Corrupt` if the length is 0, is not a multiple of [`token_bytes`](Self::token_bytes), or exceeds a full chunk.
    pub fn for_bytes(&self, bytes: usize) -> Result<ChunkLayout> {
        if bytes == self.full.len {
            return Ok(self.full.clone());
        }
        if bytes == 0 || bytes > self.full.len || !bytes.is_multiple_of(self.token_bytes) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a value of {bytes} bytes is not a chunk of this model: one token has {} bytes, a full chunk {}",
                    self.token_bytes, self.full.len
                ),
            ));
        }
        Ok(self.with_tokens(bytes / self.token_bytes))
    }

    /// The layout of a chunk of `tokens` tokens.
    ///
    /// # Errors
    /// `InvalidInput` for 0 tokens or more than a full chunk has.
    pub fn for_tokens(&self, tokens: usize) -> Result<ChunkLayout> {
        if tokens == 0 || tokens > self.chunk_size {
            return Err(bad(&format!("a chunk has 1 to {} tokens, not {tokens}", self.chunk_size)));
        }
        Ok(self.with_tokens(tokens))
    }

    fn with_tokens(&self, tokens: usize) -> ChunkLayout {
        let shorter = |g: &Group| Group { shape: g.shape.with_axis(TOKEN_AXIS, tokens), dtype: g.dtype };
        let groups = match &self.full.groups[..] {
            [one] => Groups::from(shorter(one)),
            many => {
                Groups::new(&many.iter().map(shorter).collect::<Vec<_>>()).unwrap_or_else(|_| self.full.groups.clone())
            }
        };
        ChunkLayout { format: self.full.format, groups, len: tokens * self.token_bytes }
    }
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the metadata describes no chunk: {why}"))
}

/// The layout of a raw value of `bytes` bytes: from the engine's metadata, or BINARY without metadata.
///
/// # Errors
/// As [`RawLayout::for_bytes`].
pub fn raw_layout(metadata: Option<&LMCacheMetadata>, bytes: usize) -> Result<ChunkLayout> {
    metadata.map_or_else(|| Ok(ChunkLayout::binary(bytes)), |m| m.chunk_layout().for_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(kv_size: usize) -> LayerGroup {
        LayerGroup { kv_size, num_layers: 1, hidden_dim: 8, dtype: Dtype::Float16 }
    }

    #[test]
    fn all_groups_have_the_same_number_of_tokens() {
        let group = |num_layers, dtype| LayerGroup { kv_size: 2, num_layers, hidden_dim: 8, dtype };
        let m = LMCacheMetadata::new("m", 1, 0, 16, &[group(3, Dtype::Float16), group(1, Dtype::Float32)]).unwrap();
        let raw = m.chunk_layout();
        assert_eq!((raw.full.groups.len(), raw.token_bytes, raw.full.len), (2, 2 * 8 * (3 * 2 + 4), 16 * 160));
        let five = raw.for_bytes(5 * 160).unwrap();
        assert_eq!(five.groups.iter().map(|g| g.shape[2]).collect::<Vec<_>>(), [5, 5]);
        assert_eq!(five.len, 800);
    }

    #[test]
    fn a_length_that_no_chunk_has_is_corrupt() {
        let m = LMCacheMetadata::new("m", 1, 0, 16, &[group(2)]).unwrap();
        for bytes in [0, 1, m.chunk_layout().token_bytes + 1, m.chunk_layout().full.len * 2] {
            assert_eq!(raw_layout(Some(&m), bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{bytes}");
        }
        assert_eq!(raw_layout(None, 7).unwrap(), ChunkLayout::binary(7));
    }

    #[test]
    fn metadata_that_no_engine_has_is_refused() {
        for (model, world_size, groups, kind, why) in [
            ("", 1, vec![group(2)], ErrorKind::InvalidKey, "write the model's name"),
            (" m", 1, vec![group(2)], ErrorKind::InvalidKey, "starts or ends with a space"),
            ("m", 0, vec![group(2)], ErrorKind::InvalidInput, "`world_size` is at least 1"),
            ("m", 1, vec![], ErrorKind::InvalidInput, "at least one group"),
            ("m", 1, vec![group(0)], ErrorKind::InvalidInput, "no dimension may be 0"),
            ("m", 1, vec![group(2), group(3)], ErrorKind::InvalidInput, "`kv_size` is 2 (keys and values) or 1, not 3"),
        ] {
            let e = LMCacheMetadata::new(model, world_size, 0, 16, &groups).unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains(why), "{e}");
        }
    }

    #[test]
    fn multi_head_latent_attention_has_its_own_format() {
        let m = LMCacheMetadata::new("m", 1, 0, 16, &[group(1)]).unwrap();
        assert_eq!(m.chunk_layout().full.format, MemoryFormat::KvMlaFmt);
    }
}
