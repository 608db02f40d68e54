//! Keys of multiprocess mode.

use connector_core::{CacheKey, KeyKind, ObjectKey};

use crate::text;

/// Reads the text as an object key.
///
/// # Panics
/// If the key differs from its text, or the second parser gives another result.
pub fn object_key(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let expected = second_reading(text);
    let any = CacheKey::parse(text, KeyKind::Object).ok();
    assert_eq!(any.is_some(), expected.is_some(), "{text:?} as a `CacheKey`");
    match (text.parse::<ObjectKey>(), expected) {
        (Ok(key), Some((model, rank, group, hash, salt))) => {
            assert_eq!(key.to_string(), text);
            assert_eq!((key.model_name(), key.kv_rank(), key.object_group_id()), (model, rank, group));
            assert_eq!((key.chunk_hash(), key.cache_salt()), (&hash[..], salt));
            assert_eq!(CacheKey::from(key.clone()).as_str().parse().ok(), Some(key.clone()));
            assert_eq!(ObjectKey::new(model, rank, group, hash, salt).expect("read parts are valid"), key);
        }
        (Err(_), None) => {}
        (read, expected) => panic!("{text:?} is {read:?} instead of {expected:?}"),
    }
}

type Parts<'a> = (&'a str, i64, u64, Vec<u8>, &'a str);

/// `model@%08x(kv_rank)@%x(object_group)@hash_hex[@salt]`, each as Python prints it.
fn second_reading(text: &str) -> Option<Parts<'_>> {
    let fields: Vec<&str> = text.split('@').collect();
    let (model, rank, group, hash, salt) = match fields[..] {
        [model, rank, group, hash] => (model, rank, group, hash, ""),
        [model, rank, group, hash, salt] if !salt.is_empty() => (model, rank, group, hash, salt),
        _ => return None,
    };
    let fits = text.trim_start() == text && !model.is_empty() && salt.chars().count() <= 128;
    if !fits || salt.contains(['/', '\\', '\0']) {
        return None;
    }
    let kv_rank = match rank.strip_prefix('-') {
        // The sign takes one of the eight characters. -0 is invalid.
        Some(digits) => -i64::try_from(lower_hex(digits).filter(|n| digits.len() == 7 && *n > 0)?).ok()?,
        None => i64::try_from(lower_hex(rank).filter(|_| rank.len() == 8)?).ok()?,
    };
    let group = lower_hex(group).filter(|n| format!("{n:x}") == group)?;
    let hash: Option<Vec<u8>> = (!hash.is_empty())
        .then(|| hash.as_bytes().chunks(2))?
        .map(|pair| lower_hex(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?)?.try_into().ok())
        .collect();
    Some((model, kv_rank, group, hash?, salt))
}

fn lower_hex(text: &str) -> Option<u64> {
    let is_hex = !text.is_empty() && text.chars().all(|c| "0123456789abcdef".contains(c));
    is_hex.then(|| u64::from_str_radix(text, 16).ok())?
}
