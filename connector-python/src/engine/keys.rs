//! The keys of one submit, as the engine gives them. A worker turns them into names of the store.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use connectors::{CacheKey, Error, ErrorKind, KeyKind, ObjectKey, Result};

/// Bytes at the end of an engine's key that hold the number of its group, big-endian: vLLM's `OffloadKey`.
const GROUP_BYTES: usize = 4;

/// The parts of a name that all keys in bytes of one client share: `model@%08x(kv_rank)@`.
pub(crate) struct Names {
    model: String,
    prefix: String,
}

/// The keys of one submit, one after the other, without an allocation for each.
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// For keys in bytes: the parts of a name before and after the key. None for keys that are whole texts.
    names: Option<(Arc<Names>, String)>,
}

impl Names {
    /// The names of a model's chunks. With an empty model, all keys are texts.
    ///
    /// # Errors
    /// `InvalidKey` for a model or rank that a key cannot hold.
    pub(crate) fn new(model: &str, kv_rank: i64) -> Result<Self> {
        if model.is_empty() {
            return Ok(Self { model: String::new(), prefix: String::new() });
        }
        let example = ObjectKey::new(model, kv_rank, 0, [0], "")?.to_string();
        // Group, hash and the `@` between them: `0@00`.
        let prefix = example[..example.len() - "0@00".len()].to_owned();
        Ok(Self { model: model.to_owned(), prefix })
    }

    /// The model, or an empty text.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }
}

impl Keys {
    /// No keys yet. `names` gives keys in bytes their model, rank and salt; keys that are texts need none.
    ///
    /// # Errors
    /// `InvalidKey` for a salt that a key cannot hold.
    pub(crate) fn new(names: &Arc<Names>, salt: &str) -> Result<Self> {
        if !salt.is_empty() {
            ObjectKey::new("m", 0, 0, [0], salt)?;
        }
        Ok(Self { bytes: Vec::new(), ends: Vec::new(), names: Some((names.clone(), salt.to_owned())) })
    }

    /// The keys are whole texts from now on.
    ///
    /// # Errors
    /// `InvalidInput` after a key in bytes, or with a salt.
    pub(crate) fn set_text(&mut self) -> Result<()> {
        let Some((_, salt)) = &self.names else { return Ok(()) };
        if !self.ends.is_empty() {
            return Err(mixed(self.len()));
        }
        if !salt.is_empty() {
            let message = "a key that is a str has its salt at its end, so `salt` must be empty";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.names = None;
        Ok(())
    }

    /// Adds a key in bytes.
    ///
    /// # Errors
    /// `InvalidInput` after a key that is a text, or for a client without a model.
    pub(crate) fn push_bytes(&mut self, key: &[u8]) -> Result<()> {
        match &self.names {
            None => Err(mixed(self.len())),
            Some((names, _)) if names.model.is_empty() => {
                let message = "a key in bytes has no model; give the client's `model`, or keys of the type str";
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            Some(_) => {
                self.push(key);
                Ok(())
            }
        }
    }

    /// Adds a text. [`set_text`](Self::set_text) comes first.
    pub(crate) fn push_text(&mut self, key: &str) {
        self.push(key.as_bytes());
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    /// The number of keys.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The names in the store of some of the keys.
    pub(super) fn parse(&self, places: Range<usize>) -> impl Iterator<Item = (usize, Result<CacheKey>)> {
        let mut text = String::new();
        places.map(move |i| {
            let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
            (i, self.parse_one(&self.bytes[start..self.ends[i]], &mut text))
        })
    }

    fn parse_one(&self, key: &[u8], text: &mut String) -> Result<CacheKey> {
        let Some((names, salt)) = &self.names else {
            let text = str::from_utf8(key).map_err(|_| Error::new(ErrorKind::InvalidKey, "a key is not UTF-8"))?;
            return CacheKey::parse(text, KeyKind::Object);
        };
        let (hash, group) = match key.split_last_chunk::<GROUP_BYTES>() {
            Some((hash, group)) if !hash.is_empty() => (hash, u32::from_be_bytes(*group)),
            _ => {
                let message =
                    format!("a key in bytes is a hash and {GROUP_BYTES} bytes of a group, not {} bytes", key.len());
                return Err(Error::new(ErrorKind::InvalidKey, message));
            }
        };
        text.clear();
        text.push_str(&names.prefix);
        // Writing to a String never fails.
        let _ = write!(text, "{group:x}@");
        text.extend(
            hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)),
        );
        if !salt.is_empty() {
            text.push('@');
            text.push_str(salt);
        }
        CacheKey::parse(text, KeyKind::Object)
    }
}

fn mixed(place: usize) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("key {place} has another type than the keys before it"))
        .with_hint("give keys that are all bytes, or all str")
}
