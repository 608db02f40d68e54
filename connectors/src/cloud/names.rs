//! The name of a key's object, and the key of a name.
//!
//! | names | key | object |
//! |---|---|---|
//! | flat | engine, layer | the key's text with `/` as `_`, as LMCache's connector writes it |
//! | flat | object | the key's text, as LMCache's server writes it |
//! | encoded | any | the same with every byte but letters, digits and `-._~` percent-encoded |
//!
//! An HTTP client changes some names on the way: it removes a leading `/`, an empty or dot segment, and outer spaces.
//! kvconn percent-encodes such a name before it writes the object, and LMCache does not find that object.
//!
//! Two keys can have one name, such as `a/b@..` and `a_b@..`. A put then records its key in the object's metadata,
//! and a read of the other key is a miss. An object without the entry is LMCache's, and belongs to each of the keys.

use std::borrow::Cow;

use connector_core::{CacheKey, KeyKind};
use opendal::Metadata;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::entries::entry;

/// The entry of the metadata that holds the key. Its name has only letters, because Azure refuses hyphens and proxies
/// drop underscores.
const KEY_ENTRY: &str = "kvconnkey";
/// The bytes that change in a percent-encoded text, as in Python's `quote(text, safe="")`.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The bytes that change in a flat name that the HTTP client would change.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'/');

/// How a store names its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// The texts of keys: S3, GCS.
    Flat,
    /// Percent-encoded texts: Azure.
    #[cfg_attr(not(feature = "azure"), allow(dead_code))]
    Encoded,
}

/// The key of an object's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The one key with this name.
    Key(CacheKey),
    /// Another key may have the name, too. The object's metadata holds the key, or the object is LMCache's, and this
    /// is its key.
    Unless(CacheKey),
}

impl Names {
    /// The name of the key's object, below the store's prefix.
    pub(super) fn name(self, key: &CacheKey) -> Cow<'_, str> {
        let text = flat(key);
        match self {
            Self::Encoded => Cow::Owned(utf8_percent_encode(&text, QUOTED).to_string()),
            Self::Flat if is_kept(&text) => text,
            Self::Flat => Cow::Owned(escape(&text)),
        }
    }

    /// The entry of the metadata that a put of the key writes. `None` if no other key has its name.
    pub(super) fn identity(self, key: &CacheKey) -> Option<(&'static str, String)> {
        self.is_shared(key).then(|| (KEY_ENTRY, utf8_percent_encode(key.as_str(), QUOTED).to_string()))
    }

    /// Whether the object with the key's name holds the key's chunk.
    pub(super) fn is_of(self, key: &CacheKey, metadata: &Metadata) -> bool {
        recorded(metadata).is_none_or(|text| text == key.as_str())
    }

    /// The key of the object with this name. `None` if the object is not a chunk.
    pub(super) fn key_of(self, name: &str) -> Option<Named> {
        let text = match self {
            Self::Flat => Cow::Borrowed(name),
            Self::Encoded => percent_decode_str(name).decode_utf8().ok()?,
        };
        let key: CacheKey = text.parse().ok()?;
        if self.name(&key) != name {
            return None;
        }
        Some(if self.is_shared(&key) { Named::Unless(key) } else { Named::Key(key) })
    }

    /// The key that the object's metadata records for this name.
    pub(super) fn recorded_key(self, name: &str, metadata: &Metadata) -> Option<CacheKey> {
        let key: CacheKey = recorded(metadata)?.parse().ok()?;
        (self.name(&key) == name).then_some(key)
    }

    /// The beginnings of the names of all keys whose texts start with `prefix`. No name starts with two of them.
    pub(super) fn prefixes(self, prefix: &str) -> Vec<String> {
        let flat = prefix.replace('/', "_");
        let mut all = match self {
            Self::Encoded => [prefix, &*flat].map(|text| utf8_percent_encode(text, QUOTED).to_string()).to_vec(),
            Self::Flat => {
                let kept = [prefix, &*flat].into_iter().filter(|text| may_be_kept(text)).map(str::to_owned);
                kept.chain([escape(prefix), escape(&flat)]).collect()
            }
        };
        all.sort();
        all.dedup_by(|later, earlier| later.starts_with(&**earlier));
        all
    }

    /// Whether another key can have the key's name.
    fn is_shared(self, key: &CacheKey) -> bool {
        let is_flattened = key.kind() != KeyKind::Object && has_separator(key);
        is_flattened || (self == Self::Flat && (!is_kept(&flat(key)) || is_escaped(key.as_str())))
    }
}

/// The text of the key that the metadata records.
fn recorded(metadata: &Metadata) -> Option<String> {
    percent_decode_str(entry(metadata, KEY_ENTRY)?).decode_utf8().ok().map(Cow::into_owned)
}

fn flat(key: &CacheKey) -> Cow<'_, str> {
    match key.kind() {
        KeyKind::Object => Cow::Borrowed(key.as_str()),
        _ if key.as_str().contains('/') => Cow::Owned(key.as_str().replace('/', "_")),
        _ => Cow::Borrowed(key.as_str()),
    }
}

/// Whether a valid key differs from this engine key only in `/` and `_`. The `_` of a dtype, as in `fp8_e5m2`, cannot
/// be a `/`.
fn has_separator(key: &CacheKey) -> bool {
    let has = |text: &str| text.contains(['/', '_']);
    let Some(model) = key.model_name() else { return has(key.as_str()) };
    let behind_dtype = key.as_str()[model.len()..].splitn(6, '@').nth(5);
    has(model) || behind_dtype.is_some_and(has)
}

/// Whether an HTTP client and OpenDAL pass the name on as it is.
fn is_kept(name: &str) -> bool {
    may_be_kept(name) && name.trim_end() == name && !name.rsplit('/').next().is_some_and(is_dots)
}

/// Whether a name that starts with this text may be [kept](is_kept).
fn may_be_kept(start: &str) -> bool {
    let mut whole_segments = start.rsplit('/').skip(1);
    start.trim_start() == start
        && !start.contains(|c: char| c.is_control())
        && whole_segments.all(|segment| !segment.is_empty() && !is_dots(segment))
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn escape(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// Whether [`escape`] gives this name for a name that is not kept.
fn is_escaped(name: &str) -> bool {
    let unescaped = percent_decode_str(name).decode_utf8();
    name.contains('%') && unescaped.is_ok_and(|text| !is_kept(&text) && escape(&text) == name)
}
