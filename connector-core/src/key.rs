//! Keys: the names of chunks. kvconn writes and parses them byte for byte as LMCache does.
//!
//! | kind | text | LMCache's class |
//! |---|---|---|
//! | engine | `model@world_size@worker_id@hash@dtype[@tag%value..]` | `CacheEngineKey` |
//! | layer | `model@world_size@worker_id@hash@dtype@layer_id[@tag%value..]` | `LayerCacheEngineKey` |
//! | object | `model@%08x(kv_rank)@%x(object_group)@hash_hex[@salt]` | `ObjectKey` (multiprocess mode) |
//!
//! **The text is the key's identity.** LMCache's own parser turns the bytes hash `00ff10` into the number `ff10`. A
//! store that lists `00ff10` must still be asked for `00ff10`. So [`CacheKey`] compares, hashes and stores by text.
//!
//! A model's name, and a tag, may contain `@` in an engine or layer key: LMCache writes such a text and never splits it
//! on the way to a store. The fields are derived from the text only where it has exactly one reading. In an object key
//! only the salt may follow the hash, and no field contains `@`.
//!
//! Source: `lmcache/utils.py` and `lmcache/v1/distributed/api.py` of LMCache 0.5.6; vectors in `cache_keys.json` and
//! `object_keys.json`.

mod engine;
mod hash;
mod object;
mod prefix;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

pub use engine::{CacheEngineKey, LayerCacheEngineKey};
pub use hash::ChunkHash;
pub use object::ObjectKey;
pub use prefix::{chain_object_prefix, chain_prefix, chain_prefix_from, none_hash_of};

use crate::url::{is_like_a_url, redact};
use crate::{Error, ErrorKind, Result};

/// The kind of a key. The caller knows it: LMCache's in-process classes write engine keys, its server object keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// In-process mode: [`CacheEngineKey`], one chunk of all layers, or [`LayerCacheEngineKey`], one chunk of one
    /// layer.
    Engine,
    /// Multiprocess mode: [`ObjectKey`].
    Object,
}

/// A chunk's name, of any kind.
///
/// [`parse`](Self::parse) one from a text, or convert a [`CacheEngineKey`], [`LayerCacheEngineKey`] or [`ObjectKey`].
/// For its parts, parse its text: `key.as_str().parse::<ObjectKey>()`. [`as_str`](Self::as_str) and `clone` allocate
/// nothing. Equality, order and hash use the text.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::{CacheKey, KeyKind};
/// let key = CacheKey::parse("ann@example.com/opt@1@0@1f2e3d@bfloat16", KeyKind::Engine)?;
/// assert_eq!((key.model_name(), key.chunk_hash_hex()), (Some("ann@example.com/opt"), Some("1f2e3d")));
///
/// // Two readings: the tag's value may be a part of the model's name.
/// let key = CacheKey::parse("m@1@0@ff@half@user%a@1@0@ee@half", KeyKind::Engine)?;
/// assert_eq!(key.model_name(), None);
///
/// let e = CacheKey::parse("m@01@0@ff@half", KeyKind::Engine).unwrap_err();
/// assert!(e.to_string().contains("field 2 (world size) is `01`; write `1`"), "{e}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CacheKey {
    text: Arc<str>,
    kind: KeyKind,
}

impl CacheKey {
    /// Parses a key of a known kind.
    ///
    /// # Errors
    /// `InvalidKey`, which names the field and says what to write. A spelling that LMCache never writes (`FF`, `01`,
    /// `+1`, a leading space) is an error that shows the right spelling.
    pub fn parse(text: &str, kind: KeyKind) -> Result<Self> {
        match kind {
            KeyKind::Engine => engine::validate(text)?,
            KeyKind::Object if object::is_usual(text) => {}
            KeyKind::Object => object::validate(text).map(drop)?,
        }
        Ok(Self { text: text.into(), kind })
    }

    /// A key from a text that a typed key wrote. Checks nothing.
    fn from_typed(text: String, kind: KeyKind) -> Self {
        Self { text: text.into(), kind }
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key's kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The model's name. `None` if the text has several readings, because a name or a tag contains `@`.
    pub fn model_name(&self) -> Option<&str> {
        match self.kind {
            KeyKind::Engine => engine::unique(&self.text).ok().map(|reading| reading.model),
            KeyKind::Object => self.text.split('@').next(),
        }
    }

    /// The chunk's hash as the text has it: hex, with `-` if negative, with leading zeros if it is a bytes hash. `None`
    /// if the text has several readings.
    pub fn chunk_hash_hex(&self) -> Option<&str> {
        match self.kind {
            KeyKind::Engine => engine::unique(&self.text).ok().map(|reading| reading.hash),
            KeyKind::Object => self.text.split('@').nth(3),
        }
    }

    /// The layer of a [`LayerCacheEngineKey`]. `None` for other keys, and if the text has several readings.
    pub fn layer_id(&self) -> Option<u32> {
        match self.kind {
            KeyKind::Engine => engine::unique(&self.text).ok()?.layer_id,
            KeyKind::Object => None,
        }
    }

    /// `abs(hash) mod n`: LMCache's `fs` store picks one of `n` base paths by it. `n` must not be 0.
    ///
    /// If the text has several readings, the one with the shortest model name counts. LMCache takes the same one,
    /// unless the name itself contains the fields of a key.
    pub fn hash_modulo(&self, n: usize) -> usize {
        let hash = match self.kind {
            KeyKind::Engine => engine::readings(&self.text).next().map(|reading| reading.hash),
            KeyKind::Object => self.text.split('@').nth(3),
        };
        hash::hex_modulo(hash.unwrap_or_default(), n)
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CacheKey {}

impl PartialOrd for CacheKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CacheKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// For a text whose kind the caller does not know. A second field of exactly eight hex digits makes it an object key:
/// in an engine key that field is the world size, which LMCache never pads. A text that is a valid engine key, but not
/// a valid object key, is an engine key all the same.
impl FromStr for CacheKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !object::looks_like_object(text) {
            return Self::parse(text, KeyKind::Engine);
        }
        Self::parse(text, KeyKind::Object)
            .or_else(|as_object| Self::parse(text, KeyKind::Engine).map_err(|_| as_object))
    }
}

impl AsRef<str> for CacheKey {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({:?}, {:?})", self.kind, &*self.text)
    }
}

fn bad_key(text: &str, why: impl fmt::Display) -> Error {
    if is_like_a_url(text) {
        // The URL may contain a password, and `why` may show the field that contains it.
        return Error::new(ErrorKind::InvalidKey, format!("`{}` is a URL, not a key", redact(text)));
    }
    Error::new(ErrorKind::InvalidKey, format!("`{text}` is not a key: {why}"))
}

fn bad_field(text: &str, number: usize, name: &str, value: &str, want: impl fmt::Display) -> Error {
    bad_key(text, format_args!("field {number} ({name}) is `{value}`; {want}"))
}

/// Checks a model's name: `text` is the key, or the name alone before it becomes part of a key.
pub(crate) fn check_model(text: &str, model: &str) -> Result<()> {
    if model.is_empty() {
        return Err(bad_field(text, 1, "model", model, "write the model's name"));
    }
    if model.trim_start() != model {
        return Err(outer_space(text));
    }
    Ok(())
}

fn outer_space(text: &str) -> Error {
    bad_key(text, format_args!("it starts or ends with a space; write `{}`", text.trim()))
}
