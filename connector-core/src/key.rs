//! Keys: the names of chunks. kvconn writes and parses them byte for byte as LMCache does.
//!
//! | kind | text | LMCache's class |
//! |---|---|---|
//! | engine | `model@world_size@worker_id@hash@dtype[@tag%value..]` | `CacheEngineKey` |
//! | layer | `model@world_size@worker_id@hash@dtype@layer_id[@tag%value..]` | `LayerCacheEngineKey` |
//! | object | `model@%08x(kv_rank)@%x(object_group)@hash_hex[@salt]` | `ObjectKey` (multiprocess mode) |
//!
//! **The text is the key's identity.** LMCache's own parser turns the bytes hash `00ff10` into the number `ff10`. A
//! store that lists `00ff10` must still be asked for `00ff10`. So [`CacheKey`] compares, hashes and stores by text, and
//! derives numbers from the text.
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
pub use prefix::chain_prefix;

use crate::url::redact;
use crate::{Error, ErrorKind, Result};

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// [`CacheEngineKey`]: one chunk of all layers, in-process mode.
    Engine,
    /// [`LayerCacheEngineKey`]: one chunk of one layer, in-process mode.
    Layer,
    /// [`ObjectKey`]: multiprocess mode.
    Object,
}

/// A chunk's name, of any kind.
///
/// Parse one from a text (`"..".parse()`), or convert a [`CacheEngineKey`], [`LayerCacheEngineKey`] or [`ObjectKey`].
/// For its parts, parse its text: `key.as_str().parse::<ObjectKey>()`. [`as_str`](Self::as_str) and `clone` allocate nothing. Equality, order and hash use the text.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::{CacheKey, KeyKind};
/// let key: CacheKey = "meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16".parse()?;
/// assert_eq!((key.kind(), key.chunk_hash_hex()), (KeyKind::Engine, "1f2e3d"));
///
/// let e = "m@01@0@ff@half".parse::<CacheKey>().unwrap_err();
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
    /// Parses a key of any kind. A second field of exactly eight hex digits makes it an object key. In other keys that
    /// field is the world size, which LMCache never pads.
    ///
    /// # Errors
    /// `InvalidKey`, which names the field and says what to write. A spelling that LMCache never writes (`FF`, `01`,
    /// `+1`, spaces) is an error that shows the right spelling.
    pub fn parse(text: &str) -> Result<Self> {
        if object::is_usual(text) {
            Ok(Self { text: text.into(), kind: KeyKind::Object })
        } else if object::looks_like_object(text) {
            Self::parse_as(text, KeyKind::Object)
        } else {
            engine::validate(text).map(|kind| Self { text: text.into(), kind })
        }
    }

    /// Parses a key of a known kind.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_as(text: &str, kind: KeyKind) -> Result<Self> {
        let found = match kind {
            KeyKind::Object if object::is_usual(text) => Ok(KeyKind::Object),
            KeyKind::Object => object::validate(text).map(|_| KeyKind::Object),
            KeyKind::Engine | KeyKind::Layer => engine::validate(text),
        }?;
        if found != kind {
            let (want, got) = match kind {
                KeyKind::Layer => ("a layer key", "it has no layer id in field 6"),
                _ => ("an engine key", "its field 6 is a layer id"),
            };
            return Err(bad_key(text, format!("as {want}, {got}")));
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

    /// The model's name.
    pub fn model_name(&self) -> &str {
        self.field(0)
    }

    /// The chunk's hash as the text has it: hex, with `-` if negative, with leading zeros if it is a bytes hash.
    pub fn chunk_hash_hex(&self) -> &str {
        self.field(3)
    }

    /// `abs(hash) mod n`: LMCache's `fs` store picks one of `n` base paths by it. `n` must not be 0.
    pub fn hash_modulo(&self, n: usize) -> usize {
        hash::hex_modulo(self.chunk_hash_hex(), n)
    }

    fn field(&self, index: usize) -> &str {
        self.text.split('@').nth(index).unwrap_or_default()
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

impl FromStr for CacheKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
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
    if text.contains("://") {
        // The URL may contain a password, and `why` may show the field that contains it.
        return Error::new(ErrorKind::InvalidKey, format!("`{}` is a URL, not a key", redact(text)));
    }
    Error::new(ErrorKind::InvalidKey, format!("`{text}` is not a key: {why}"))
}

fn bad_field(text: &str, number: usize, name: &str, value: &str, want: impl fmt::Display) -> Error {
    bad_key(text, format_args!("field {number} ({name}) is `{value}`; {want}"))
}

/// Parses a decimal number as Python writes it: no sign, no padding.
fn decimal(text: &str, number: usize, name: &str, value: &str) -> Result<u32> {
    let parsed: Option<u32> = value.trim().trim_start_matches('+').parse().ok();
    match parsed {
        Some(n) if n.to_string() == value => Ok(n),
        Some(n) => Err(bad_field(text, number, name, value, format_args!("write `{n}`"))),
        None => Err(bad_field(text, number, name, value, format_args!("write a whole number from 0 to {}", u32::MAX))),
    }
}

fn check_outer_spaces(text: &str) -> Result<()> {
    if text.trim() == text {
        Ok(())
    } else {
        Err(bad_key(text, format_args!("it starts or ends with a space; write `{}`", text.trim())))
    }
}

fn check_model(text: &str, model: &str) -> Result<()> {
    if model.is_empty() {
        return Err(bad_field(text, 1, "model", model, "write the model's name"));
    }
    Ok(())
}

/// Checks a model's name before it becomes part of a key.
pub(crate) fn check_model_alone(model: &str) -> Result<()> {
    check_model(model, model)?;
    if model.contains('@') || model.trim_start() != model {
        let want = "a model's name contains no `@` and starts with no space";
        return Err(bad_field(model, 1, "model", model, want));
    }
    Ok(())
}
