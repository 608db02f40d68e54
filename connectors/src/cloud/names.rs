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

/// Other characters that an XML document cannot have, so that no server can list them or remove them in bulk.
const NOT_IN_XML: [char; 2] = ['\u{fffe}', '\u{ffff}'];

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
                let kept = [prefix, &*flat].into_iter().filter(|text| may_be_kept(text));
                // OpenDAL trims the text, too.
                let kept = kept.map(|text| text.trim_end().to_owned());
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
        && !start.contains(|c: char| c.is_control() || NOT_IN_XML.contains(&c))
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

#[cfg(test)]
mod tests {
    use opendal::MetadataBuilder;

    use super::*;

    fn key(text: &str) -> CacheKey {
        text.parse().unwrap()
    }

    /// The metadata of an object that a put of the key wrote.
    fn written(names: Names, key: &CacheKey) -> Metadata {
        let entry = names.identity(key).map(|(entry, value)| (entry.to_owned(), value));
        let mut metadata = MetadataBuilder::file(1);
        metadata.user_metadata(entry);
        metadata.build()
    }

    const KEYS: [(&str, &str, &str); 13] = [
        ("m@1@0@ff@half", "m@1@0@ff@half", "m%401%400%40ff%40half"),
        ("org/m@1@0@ff@half", "org_m@1@0@ff@half", "org_m%401%400%40ff%40half"),
        ("org_m@1@0@ff@half", "org_m@1@0@ff@half", "org_m%401%400%40ff%40half"),
        ("m@1@0@ff@fp8_e5m2", "m@1@0@ff@fp8_e5m2", "m%401%400%40ff%40fp8_e5m2"),
        ("m@1@0@ff@half@7@user%a/b", "m@1@0@ff@half@7@user%a_b", "m%401%400%40ff%40half%407%40user%25a_b"),
        ("m@1@0@ff@half@t%x ", "m@1@0@ff@half@t%25x%20", "m%401%400%40ff%40half%40t%25x%20"),
        ("org/m@01050805@0@ff", "org/m@01050805@0@ff", "org%2Fm%4001050805%400%40ff"),
        ("org_m@01050805@0@ff@salt", "org_m@01050805@0@ff@salt", "org_m%4001050805%400%40ff%40salt"),
        ("/models/m@01050805@0@ff", "%2Fmodels%2Fm@01050805@0@ff", "%2Fmodels%2Fm%4001050805%400%40ff"),
        ("./m@01050805@0@ff", ".%2Fm@01050805@0@ff", ".%2Fm%4001050805%400%40ff"),
        ("a//m@01050805@0@ff", "a%2F%2Fm@01050805@0@ff", "a%2F%2Fm%4001050805%400%40ff"),
        ("%2Fm@01050805@0@ff", "%2Fm@01050805@0@ff", "%252Fm%4001050805%400%40ff"),
        ("模型@01050805@0@ff", "模型@01050805@0@ff", "%E6%A8%A1%E5%9E%8B%4001050805%400%40ff"),
    ];

    #[test]
    fn each_key_has_its_name_and_is_read_back() {
        for (text, flat, encoded) in KEYS {
            let key = key(text);
            for (names, name) in [(Names::Flat, flat), (Names::Encoded, encoded)] {
                assert_eq!(names.name(&key), name);
                let metadata = written(names, &key);
                let read = match names.key_of(name).unwrap() {
                    Named::Key(key) => key,
                    Named::Unless(key) => names.recorded_key(name, &metadata).unwrap_or(key),
                };
                assert_eq!((read, names.is_of(&key, &metadata)), (key.clone(), true), "{names:?} {text}");
            }
        }
    }

    #[test]
    fn keys_of_one_name_are_told_apart_by_the_metadata() {
        for (names, one, other) in [
            (Names::Flat, "org/m@1@0@ff@half", "org_m@1@0@ff@half"),
            (Names::Encoded, "org/m@1@0@ff@half", "org_m@1@0@ff@half"),
            (Names::Flat, "m@1@0@ff@half@t%a/b", "m@1@0@ff@half@t%a_b"),
            (Names::Flat, "/m@01050805@0@ff", "%2Fm@01050805@0@ff"),
            (Names::Flat, "a@1@0@ee@half/b@1@0@ff@half", "a@1@0@ee@half_b@1@0@ff@half"),
        ] {
            let (one, other) = (key(one), key(other));
            assert_eq!(names.name(&one), names.name(&other));
            assert!(
                !names.is_of(&other, &written(names, &one)) && !names.is_of(&one, &written(names, &other)),
                "{one}"
            );
            // LMCache writes no entry.
            let by_lmcache = MetadataBuilder::file(1).build();
            assert!(names.is_of(&one, &by_lmcache) && names.is_of(&other, &by_lmcache));
        }
    }

    #[test]
    fn a_usual_key_needs_no_entry() {
        for text in ["m@1@0@ff@half", "m@1@0@ff@fp8_e4m3fn", "org/m@01050805@0@ff", "org_m@01050805@0@ff@salt"] {
            assert_eq!(Names::Flat.identity(&key(text)), None, "{text}");
        }
    }

    #[test]
    fn other_objects_are_not_chunks() {
        for name in ["readme.md", "org/m@1@0@ff@half", "backup/", "m@1@0@FF@half", "m@1@0@ff", ""] {
            assert_eq!(Names::Flat.key_of(name), None, "{name}");
        }
        for name in ["m@1@0@ff@half", "org/m%401%400%40ff%40half", "%ff"] {
            assert_eq!(Names::Encoded.key_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_listing_asks_for_the_beginnings_of_all_names() {
        for (prefix, flat) in [
            ("", &[""][..]),
            ("org", &["org"]),
            ("org/m", &["org%2Fm", "org/m", "org_m"]),
            ("/models", &["%2Fmodels", "_models"]),
            ("a//", &["a%2F%2F", "a__"]),
            ("a\u{ffff}", &["a%EF%BF%BF"]),
            ("m@1@0@ff@half@t%", &["m@1@0@ff@half@t%"]),
            ("a b ", &["a b", "a%20b%20"]),
            ("a ", &["a"]),
        ] {
            assert_eq!(Names::Flat.prefixes(prefix), flat, "{prefix}");
        }
        for (text, flat, encoded) in KEYS {
            for (end, _) in text.char_indices() {
                for (names, name) in [(Names::Flat, flat), (Names::Encoded, encoded)] {
                    let found = names.prefixes(&text[..end]);
                    let asked = found.iter().filter(|start| name.starts_with(&***start)).count();
                    assert_eq!(asked, 1, "{names:?}: {name} in {found:?}");
                }
            }
        }
    }
}
