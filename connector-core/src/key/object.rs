//! The key of multiprocess mode.

use std::fmt;
use std::str::FromStr;

use super::hash::to_hex;
use super::{CacheKey, KeyKind, bad_field, bad_key, check_model};
use crate::{Error, Result};

/// `model@%08x(kv_rank)@%x(object_group)@hash_hex[@salt]`: a chunk in LMCache's multiprocess mode.
///
/// [`new`](Self::new) checks its arguments, so that every key's text parses back to the same key.
///
/// ```
/// # fn main() -> connector_core::Result<()> {
/// use connector_core::ObjectKey;
/// let key = ObjectKey::new("facebook/opt-125m", 0x0105_0805, 2, [0x1f, 0x2e], "user-a")?;
/// assert_eq!(key.to_string(), "facebook/opt-125m@01050805@2@1f2e@user-a");
/// assert_eq!((key.kv_rank(), key.chunk_hash(), key.cache_salt()), (0x0105_0805, &[0x1f, 0x2e][..], "user-a"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    chunk_hash: Vec<u8>,
    model_name: String,
    kv_rank: i64,
    object_group_id: u64,
    cache_salt: String,
}

/// The characters that a salt must not contain, and its largest length. LMCache has the same checks.
const SALT_FORBIDDEN: [char; 4] = ['@', '/', '\\', '\0'];
const SALT_MAX_CHARS: usize = 128;

impl ObjectKey {
    /// A key from its parts, with the checks of LMCache's constructor. An empty salt means a key without a salt.
    ///
    /// # Errors
    /// `InvalidKey` if the model's name is empty or contains `@`, the rank needs more than eight hex digits, the hash is
    /// empty, or the salt contains `@`, `/`, `\` or NUL or has more than 128 characters.
    pub fn new(
        model_name: impl Into<String>,
        kv_rank: i64,
        object_group_id: u64,
        chunk_hash: impl Into<Vec<u8>>,
        cache_salt: impl Into<String>,
    ) -> Result<Self> {
        let (model_name, chunk_hash, cache_salt) = (model_name.into(), chunk_hash.into(), cache_salt.into());
        let key = Self { chunk_hash, model_name, kv_rank, object_group_id, cache_salt };
        key.check()?;
        Ok(key)
    }

    /// Hash of the chunk's tokens and of all tokens before them.
    pub fn chunk_hash(&self) -> &[u8] {
        &self.chunk_hash
    }

    /// The model's name, which contains no `@`.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// `world_size << 24 | rank << 16 | local_world_size << 8 | local_rank`. Signed, because LMCache accepts `-1` in a
    /// file name.
    pub fn kv_rank(&self) -> i64 {
        self.kv_rank
    }

    /// The object group that the chunk belongs to.
    pub fn object_group_id(&self) -> u64 {
        self.object_group_id
    }

    /// The salt, which separates the chunks of different users. Empty if there is none.
    pub fn cache_salt(&self) -> &str {
        &self.cache_salt
    }

    fn check(&self) -> Result<()> {
        let text = self.to_string();
        check_model(&text, &self.model_name)?;
        if self.model_name.contains('@') {
            return Err(bad_field(&text, 1, "model", &self.model_name, "a model's name contains no `@`"));
        }
        if !(-0x0fff_ffff..=0xffff_ffff).contains(&self.kv_rank) {
            return Err(bad_field(
                &text,
                2,
                "kv rank",
                &self.kv_rank.to_string(),
                "a rank has at most eight hex digits",
            ));
        }
        if self.chunk_hash.is_empty() {
            return Err(bad_field(&text, 4, "chunk hash", "", "a hash has at least one byte"));
        }
        check_salt(&text, &self.cache_salt)
    }
}

/// Python's `%08x`, where the sign counts as one of the eight characters.
pub(crate) fn python_08x(value: i64) -> String {
    if value < 0 { format!("-{:07x}", value.unsigned_abs()) } else { format!("{value:08x}") }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model_name, kv_rank, object_group_id, cache_salt, .. } = self;
        write!(f, "{model_name}@{}@{object_group_id:x}@{}", python_08x(*kv_rank), to_hex(&self.chunk_hash))?;
        if !cache_salt.is_empty() {
            write!(f, "@{cache_salt}")?;
        }
        Ok(())
    }
}

impl FromStr for ObjectKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        validate(text)
    }
}

impl From<ObjectKey> for CacheKey {
    fn from(key: ObjectKey) -> Self {
        Self::from_typed(key.to_string(), KeyKind::Object)
    }
}

/// Whether the second field is a rank as `%08x` writes it. A world size is not, because LMCache does not pad it.
pub(super) fn looks_like_object(text: &str) -> bool {
    text.split('@').nth(1).is_some_and(|rank| {
        rank.len() == 8 && rank.strip_prefix('-').unwrap_or(rank).bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Whether this is an object key of the usual form: no salt, and only printable ASCII in the model's name. This check
/// allocates nothing and takes a fifth of the time of [`validate`], which decides about all other texts.
pub(super) fn is_usual(text: &str) -> bool {
    let mut fields = text.split('@');
    let (Some(model), Some(rank), Some(group), Some(hash), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    let is_hex = |field: &str| field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_number = group == "0" || (!group.starts_with('0') && (1..=16).contains(&group.len()) && is_hex(group));
    let is_hash = !hash.is_empty() && hash.len().is_multiple_of(2) && is_hex(hash);
    let is_model = !model.is_empty() && model.bytes().all(|b| b.is_ascii_graphic());
    is_model && rank.len() == 8 && is_hex(rank) && is_number && is_hash
}

pub(super) fn validate(text: &str) -> Result<ObjectKey> {
    let parts: Vec<&str> = text.split('@').collect();
    let (model, rank, group, hash, salt) = match parts[..] {
        [model, rank, group, hash] => (model, rank, group, hash, ""),
        [_, _, _, _, ""] => return Err(bad_field(text, 5, "salt", "", "leave out the last `@`")),
        [model, rank, group, hash, salt] => (model, rank, group, hash, salt),
        _ => {
            let n = parts.len();
            return Err(bad_key(
                text,
                format_args!(
                    "it has {n} fields; write `model@kv_rank@object_group@hash[@salt]`, and no `@` in a field"
                ),
            ));
        }
    };
    check_model(text, model)?;
    let kv_rank = hex_number(rank).filter(|_| looks_like_object(text)).ok_or_else(|| {
        bad_field(text, 2, "kv rank", rank, "write exactly eight hex digits, and no `@` in the model")
    })?;
    if python_08x(kv_rank) != rank {
        return Err(bad_field(text, 2, "kv rank", rank, format_args!("write `{}`", python_08x(kv_rank))));
    }
    let object_group_id = Some(group)
        .filter(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|group| u64::from_str_radix(group, 16).ok())
        .ok_or_else(|| bad_field(text, 3, "object group", group, "write hex digits"))?;
    if format!("{object_group_id:x}") != group {
        return Err(bad_field(text, 3, "object group", group, format_args!("write `{object_group_id:x}`")));
    }
    let chunk_hash = from_hex(hash)
        .ok_or_else(|| bad_field(text, 4, "chunk hash", hash, "write the hash's bytes, two hex digits each"))?;
    if to_hex(&chunk_hash) != hash {
        return Err(bad_field(text, 4, "chunk hash", hash, format_args!("write `{}`", to_hex(&chunk_hash))));
    }
    check_salt(text, salt)?;
    Ok(ObjectKey { chunk_hash, model_name: model.to_owned(), kv_rank, object_group_id, cache_salt: salt.to_owned() })
}

fn check_salt(text: &str, salt: &str) -> Result<()> {
    if let Some(c) = salt.chars().find(|c| SALT_FORBIDDEN.contains(c)) {
        return Err(bad_field(text, 5, "salt", salt, format_args!("a salt must not contain {c:?}")));
    }
    let chars = salt.chars().count();
    if chars > SALT_MAX_CHARS {
        return Err(bad_field(
            text,
            5,
            "salt",
            salt,
            format_args!("a salt has at most {SALT_MAX_CHARS} characters, not {chars}"),
        ));
    }
    Ok(())
}

fn hex_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    i64::from_str_radix(text, 16).ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_wrong_field() {
        for (text, why) in [
            ("m@0105080@0@ff", "field 2"),
            ("m@01050805@00@ff", "field 3 (object group) is `00`; write `0`"),
            ("m@01050805@0@fff", "field 4"),
            ("m@01050805@0@FF", "write `ff`"),
            ("m@0105080F@0@ff", "write `0105080f`"),
            ("@01050805@0@ff", "field 1"),
            ("m@01050805@0@ff@a/b", "must not contain '/'"),
            ("m@01050805@0@ff@", "leave out the last `@`"),
            ("m@01050805@0@ff@s@t", "6 fields"),
        ] {
            let message = text.parse::<ObjectKey>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn the_check_for_the_usual_form_agrees_with_the_full_check() {
        for (text, usual) in [
            ("meta-llama/Llama-3.1-8B@01050805@0@1f2e", true),
            ("m@ffffffff@ffffffffffffffff@00", true),
            ("m@01050805@2@1f2e@salt", false),
            ("model with spaces@01050805@0@ff", false),
            ("模型@01050805@0@ff", false),
            ("m@-0000001@0@ff", false),
        ] {
            assert_eq!(is_usual(text), usual, "{text}");
            assert_eq!(validate(text).unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "m",
            "@01050805@0@ff",
            " m@01050805@0@ff",
            "m@01050805@0@ff ",
            "m@0105080F@0@ff",
            "m@105080@0@ff",
            "m@01050805@00@ff",
            "m@01050805@@ff",
            "m@01050805@10000000000000000@ff",
            "m@01050805@0@",
            "m@01050805@0@f",
            "m@01050805@0@FF",
            "m@01050805@0@ff@",
        ] {
            assert!(!is_usual(wrong) && validate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_negative_rank_is_spelled_as_in_python() {
        let key = ObjectKey::new("m", -1, 0, [0xff], "").unwrap();
        assert_eq!(key.to_string(), "m@-0000001@0@ff");
        assert_eq!("m@-0000001@0@ff".parse::<ObjectKey>().unwrap(), key);
    }
}
