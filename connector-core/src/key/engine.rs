//! The keys of in-process mode: a chunk of all layers, or a chunk of one layer.

use std::fmt;
use std::str::FromStr;

use super::{CacheKey, ChunkHash, KeyKind, bad_field, bad_key, check_model, hash, outer_space};
use crate::chunk::Dtype;
use crate::{Error, Hint, Result};

/// `model@world_size@worker_id@hash@dtype[@tag%value..]`: one chunk of all layers.
///
/// [`new`](Self::new) and [`with_tag`](Self::with_tag) check their arguments. So every key's text parses back to the
/// same key, or is refused because it has several readings. Only names with `@` can have several.
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
    /// `tag%value[@tag%value..]`, or empty.
    tags: String,
}

impl CacheEngineKey {
    /// The key, without tags, of a chunk that worker `worker_id` of `world_size` workers wrote.
    ///
    /// # Errors
    /// `InvalidKey` if the model's name is empty or starts with a space.
    pub fn new(
        model_name: impl Into<String>,
        world_size: u32,
        worker_id: u32,
        chunk_hash: impl Into<ChunkHash>,
        dtype: Dtype,
    ) -> Result<Self> {
        let model_name = model_name.into();
        check_model(&model_name, &model_name)?;
        Ok(Self { model_name, world_size, worker_id, chunk_hash: chunk_hash.into(), dtype, tags: String::new() })
    }

    /// The same key with one more tag.
    ///
    /// # Errors
    /// `InvalidKey` if the name contains `@` or `%`.
    pub fn with_tag(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self> {
        let tag = format!("{}%{}", name.as_ref(), value.as_ref());
        if name.as_ref().contains(['@', '%']) {
            return Err(bad_key(&tag, "a tag's name contains no `@` and no `%`"));
        }
        if !self.tags.is_empty() {
            self.tags.push('@');
        }
        self.tags += &tag;
        Ok(self)
    }

    /// The model's name.
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

    /// `(name, value)` of each `lmcache.tag.<name>` of the request, in the order of the key's text, as LMCache reads
    /// them. `None` if a name or a value contains `@` and the text does not show where the next tag starts.
    pub fn tags(&self) -> Option<Vec<(&str, &str)>> {
        if self.tags.is_empty() {
            return Some(Vec::new());
        }
        let parts = self.tags.split('@');
        if parts.clone().filter(|part| part.contains('%')).count() == 1 {
            return self.tags.split_once('%').map(|tag| vec![tag]);
        }
        parts.map(|part| part.split_once('%')).collect()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, layer_id: Option<u32>) -> fmt::Result {
        let Self { model_name, world_size, worker_id, chunk_hash, dtype, tags } = self;
        write!(f, "{model_name}@{world_size}@{worker_id}@{chunk_hash}@{}", dtype.key_name())?;
        if let Some(id) = layer_id {
            write!(f, "@{id}")?;
        }
        if !tags.is_empty() {
            write!(f, "@{tags}")?;
        }
        Ok(())
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
        Self::from_typed(key.to_string(), KeyKind::Engine)
    }
}

/// One way to read a text: its fields.
pub(super) struct Reading<'a> {
    pub(super) model: &'a str,
    world_size: u32,
    worker_id: u32,
    pub(super) hash: &'a str,
    dtype: Dtype,
    pub(super) layer_id: Option<u32>,
    /// The text after the dtype and the layer id: `tag%value[@tag%value..]`, or empty.
    tags: &'a str,
}

/// Every way to read the text, from the shortest model name to the longest. The name, and each tag, may contain `@`.
pub(super) fn readings(text: &str) -> impl Iterator<Item = Reading<'_>> {
    // `None` is less than any position. Each try below is O(1) in the length of the tags.
    let last_percent = text.rfind('%');
    let starts_well = text.trim_start() == text;
    let ats = text.match_indices('@').map(|(at, _)| at);
    ats.filter(move |at| *at > 0 && starts_well).filter_map(move |at| {
        let (model, rest) = (&text[..at], &text[at + 1..]);
        let (world_size, rest) = rest.split_once('@')?;
        let world_size = number(world_size)?;
        let (worker_id, rest) = rest.split_once('@')?;
        let worker_id = number(worker_id)?;
        let (hash, rest) = rest.split_once('@')?;
        let (dtype, tail) = rest.split_once('@').map_or((rest, None), |(dtype, tail)| (dtype, Some(tail)));
        let dtype = Dtype::from_key_name(dtype).filter(|_| hash::is_hash(hash))?;
        let (layer_id, tags) = tail.map_or((None, None), layer_and_tags);
        let well_formed = tags.is_none_or(|tags| last_percent >= Some(text.len() - tags.len()));
        let tags = tags.unwrap_or_default();
        well_formed.then_some(Reading { model, world_size, worker_id, hash, dtype, layer_id, tags })
    })
}

/// If the first field has only digits, it is a layer id. The other fields are tags.
fn layer_and_tags(tail: &str) -> (Option<u32>, Option<&str>) {
    let (first, others) = tail.split_once('@').map_or((tail, None), |(first, others)| (first, Some(others)));
    number(first).map_or((None, Some(tail)), |layer_id| (Some(layer_id), others))
}

/// A decimal number as Python writes it: no sign, no padding.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// The only reading.
pub(super) fn unique(text: &str) -> Result<Reading<'_>> {
    let mut all = readings(text);
    let first = all.next().ok_or_else(|| why_not(text))?;
    match all.next() {
        None => Ok(first),
        Some(other) => Err(bad_key(
            text,
            format_args!(
                "it has several readings: the model's name is `{}` or `{}`; a store takes the text as it is",
                first.model, other.model
            ),
        )),
    }
}

pub(super) fn validate(text: &str) -> Result<()> {
    readings(text).next().map(drop).ok_or_else(|| why_not(text))
}

/// Why a text has no reading.
fn why_not(text: &str) -> Error {
    let wrong = || {
        if text.trim() != text {
            return Err(outer_space(text));
        }
        let fields: Vec<&str> = text.split('@').collect();
        let misses = |n: usize, more: &str| {
            let form = "`model@world_size@worker_id@hash@dtype`";
            let example = "write it as in `meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16`";
            let from_fields = "`kvconn.Key(model=.., world_size=1, worker_id=0, chunk_hash=.., dtype=..)` makes a key";
            Err(bad_key(text, format_args!("it has {n} of the 5 fields {form}{more}")).with_hint(Hint::each(
                "`CacheEngineKey::new` makes a key of its fields",
                from_fields,
                example,
            )))
        };
        match fields[..] {
            [_, _, _, _] => {
                return misses(
                    4,
                    "; in an object key, `model@kv_rank@object_group@hash`, the second field has eight hex digits",
                );
            }
            [ref model @ .., world_size, worker_id, _]
                if model.len() > 1
                    && number(model[1]).is_none()
                    && number(world_size).is_some()
                    && number(worker_id).is_some() =>
            {
                let model = model.join("@");
                return misses(4, &format!(", with the model `{model}`; an object key's model must not contain `@`"));
            }
            [_, _, _, _, _, ..] => {}
            _ => return misses(fields.len(), ""),
        }
        // The model's name may contain `@`, but no other field before the dtype, which is easy to recognize.
        let is_dtype = |i: &usize| Dtype::from_key_name(fields[*i]).is_some();
        let dtype = (4..fields.len()).find(is_dtype).unwrap_or(4);
        check_model(text, &fields[..dtype - 3].join("@"))?;
        check_number(text, 2, "world size", fields[dtype - 3])?;
        check_number(text, 3, "worker id", fields[dtype - 2])?;
        hash::check(text, fields[dtype - 1])?;
        if !is_dtype(&dtype) {
            let names = Dtype::ALL.map(Dtype::key_name).join(" ");
            return Err(bad_field(text, 5, "dtype", fields[dtype], format_args!("write one of {names}")));
        }
        match fields[dtype + 1..] {
            [layer_id, tag, ..] if number(layer_id).is_some() => {
                Err(bad_field(text, 7, "tag", tag, "write `tag%value`"))
            }
            [layer_id, ..] if !layer_id.is_empty() && layer_id.bytes().all(|b| b.is_ascii_digit()) => {
                check_number(text, 6, "layer id", layer_id)
            }
            [tag, ..] => Err(bad_field(text, 6, "tag", tag, "write `tag%value`, or a layer id in digits")),
            [] => Ok(()),
        }
    };
    wrong().err().unwrap_or_else(|| bad_key(text, "write `model@world_size@worker_id@hash@dtype`"))
}

fn check_number(key: &str, field: usize, name: &str, value: &str) -> Result<()> {
    let want = match value.trim().trim_start_matches('+').parse::<u32>() {
        Ok(n) if n.to_string() == value => return Ok(()),
        Ok(n) => format!("write `{n}`"),
        Err(_) => format!("write a whole number from 0 to {}", u32::MAX),
    };
    Err(bad_field(key, field, name, value, want))
}

fn read(text: &str) -> Result<(CacheEngineKey, Option<u32>)> {
    let read = unique(text)?;
    let key = CacheEngineKey {
        model_name: read.model.to_owned(),
        world_size: read.world_size,
        worker_id: read.worker_id,
        chunk_hash: ChunkHash::parse(text, read.hash)?,
        dtype: read.dtype,
        tags: read.tags.to_owned(),
    };
    Ok((key, read.layer_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn new(model: &str) -> Result<CacheEngineKey> {
        CacheEngineKey::new(model, 1, 0, 0xff_u64, Dtype::Float16)
    }

    #[test]
    fn parts_that_no_key_has_are_refused() {
        for (made, why) in [
            (new(""), "write the model's name"),
            (new(" m"), "starts or ends with a space; write `m`"),
            (new("m").unwrap().with_tag("a%b", "c"), "no `%`"),
            (new("m").unwrap().with_tag("a@b", "c"), "no `@`"),
        ] {
            let e = made.unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains(why), "{e}");
        }
    }

    #[test]
    fn a_name_or_a_tag_with_an_at_sign_is_read_where_only_one_reading_is_possible() {
        for (text, model, layer_id, tags) in [
            ("ann@example.com/opt@1@0@ff@half", "ann@example.com/opt", None, &[][..]),
            ("m@1@0@ff@half@user%ann@example.com", "m", None, &[("user", "ann@example.com")]),
            ("m@1@0@ff@half@us@er%ann@example.com", "m", None, &[("us@er", "ann@example.com")]),
            ("m@1@0@ff@half@7@user%ann@example.com", "m", Some(7), &[("user", "ann@example.com")]),
            ("a@1@0@ff@half@1@0@ff@half", "a@1@0@ff@half", None, &[]),
            ("@@a@@1@0@ff@half@07@a%", "@@a@", None, &[("07@a", "")]),
            ("a@12345678@1@0@ff@half", "a@12345678", None, &[]),
            ("m@12345678@0@ff@half", "m", None, &[]),
            ("m@1@0@ff@half@a%b ", "m", None, &[("a", "b ")]),
        ] {
            let (key, layer) = read(text).unwrap();
            assert_eq!((key.model_name(), layer, key.tags().unwrap()), (model, layer_id, tags.to_vec()), "{text}");
            assert_eq!(
                layer.map_or(key.to_string(), |layer_id| LayerCacheEngineKey { key, layer_id }.to_string()),
                text
            );
            let any = CacheKey::parse(text, KeyKind::Engine).unwrap();
            assert_eq!((any.as_str(), any.model_name(), any.chunk_hash_hex()), (text, Some(model), Some("ff")));
            assert_eq!(any.layer_id(), layer_id, "{text}");
        }
    }

    #[test]
    fn a_text_with_several_readings_is_a_key_without_fields() {
        for text in ["m@1@0@ff@half@t%x@1@0@ee@half", "m@1@0@ff@half@1@0@ee@half@t%x"] {
            let key = CacheKey::parse(text, KeyKind::Engine).unwrap();
            assert_eq!(
                (key.as_str(), key.model_name(), key.chunk_hash_hex(), key.layer_id()),
                (text, None, None, None)
            );
            assert_eq!(key.hash_modulo(1000), 0xff, "the shortest model name counts");
            let e = text.parse::<CacheEngineKey>().unwrap_err();
            assert!(e.to_string().contains("several readings: the model's name is `m` or `m@"), "{e}");
        }
        let key = new("m").unwrap().with_tag("user", "ann@example.com").unwrap().with_tag("team", "x").unwrap();
        assert_eq!(key.tags(), None);
        assert_eq!(key.to_string().parse::<CacheEngineKey>().unwrap(), key);
    }

    #[test]
    fn a_wrong_field_is_named_also_after_a_name_with_an_at_sign() {
        for (text, why) in [
            ("a@b.com@01@0@ff@half", "field 2 (world size) is `01`; write `1`"),
            ("a@b.com@1@0@FF@half", "field 4 (chunk hash) is `FF`; write `ff`"),
            ("a@b.com@1@0@ff@half@", "field 6 (tag) is ``"),
            ("a@b.com@1@0@ff@half@07", "field 6 (layer id) is `07`; write `7`"),
            ("a@b.com@1@0@ff@half@7@x", "field 7 (tag) is `x`"),
            ("m@1@0@ff@half ", "starts or ends with a space"),
        ] {
            let e = CacheKey::parse(text, KeyKind::Engine).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }
    }

    /// Not quadratic: each position is tried once, and no try reads the tags.
    #[test]
    fn a_text_with_many_readings_is_read_at_once() {
        let text = format!("m{}@t%x", "@1@0@ff@half".repeat(100_000));
        assert_eq!(readings(&text).count(), 100_000);
        let text = format!("{}{}", " ".repeat(1_000_000), "@".repeat(1_000_000));
        assert!(CacheKey::parse(&text, KeyKind::Engine).is_err());
    }
}
