//! File names of the `fs` store.

use connector_core::{CacheKey, KeyKind, ObjectKey};
use connectors::fs::{Layout, layout};

use crate::text;

/// Turns a key into a file name, and a file name into a key.
///
/// # Panics
/// If a name is not a valid file name, or a key's file name does not give the key. Also if the second parser of a multiprocess
/// file's name gives another result.
pub fn file_name(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for kind in [KeyKind::Engine, KeyKind::Object] {
        if let Ok(key) = CacheKey::parse(text, kind) {
            of_key(&key);
        }
    }
    if let Some(key) = layout::key_of_file(text) {
        assert_eq!(layout::file_name(&key).as_deref().ok(), Some(text), "the key of a listed file has the file's name");
    }
    for layout in [Layout::Vllm, Layout::Sglang] {
        if let Some(key) = layout.key_of(text)
            && text.split('/').all(|name| name.len() <= layout::NAME_MAX)
        {
            assert_eq!(layout.path_of(&key).as_deref().ok(), Some(text), "the key of a file of {layout:?}");
        }
    }
    assert_eq!(layout::object_key_of_file(text), second_reading(text), "{text:?} as a multiprocess file");
}

fn of_key(key: &CacheKey) {
    let text = key.as_str();
    for layout in [Layout::Vllm, Layout::Sglang] {
        if let Ok(path) = layout.path_of(key) {
            assert!(!path.split('/').any(|name| ["", ".", ".."].contains(&name)) && !path.contains('\0'), "{path:?}");
            assert_eq!(layout.key_of(&path).as_ref(), Some(key), "{path:?} of {layout:?}");
        }
    }
    let plain = text.replace('/', layout::SLASH);
    let name = match layout::file_name(key) {
        Ok(name) => name,
        Err(_) => return assert!(text.contains('\0') || plain.len() + "0x.data".len() > 255, "{text:?} is refused"),
    };
    assert!(name.len() <= 255 && !name.contains(['/', '\0']), "{name:?}");
    // The first `@` is before the rank.
    let without_0x = match key.kind() {
        KeyKind::Object => name.replacen("@0x", "@", 1).replacen("@-0x", "@-", 1),
        _ => name.clone(),
    };
    assert_eq!(without_0x, plain + ".data");
    let back = layout::key_of_file(&name).unwrap_or_else(|| panic!("{name:?} is not listed"));
    assert_eq!(layout::file_name(&back).ok(), Some(name));
    assert_eq!(back.kind(), key.kind());
    // LMCache's layout gives `a/b` and `a-SEP-b` one file name, so the check leaves out keys with a part of `-SEP-`.
    if !text.contains("-SEP") && !text.contains("SEP-") {
        assert_eq!(&back, key);
    }
}

/// `model('/' -> '-SEP-')@0x%08x(kv_rank)@%x(group)@hash_hex[@salt].data`. A number may have any spelling that Python reads,
/// except with `+`, `_`, a space or a capital `X`.
fn second_reading(name: &str) -> Option<ObjectKey> {
    let fields: Vec<&str> = name.strip_suffix(".data")?.split('@').collect();
    let [model, rank, group, hash] = fields.first_chunk()?;
    let salt = match fields[4..] {
        [] => "",
        [salt] => salt,
        _ => return None,
    };
    let hash: Vec<char> = hash.chars().collect();
    let byte = |pair: &[char]| match pair {
        [high, low] => u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok(),
        _ => None,
    };
    let hash: Vec<u8> = hash.chunks(2).map(byte).collect::<Option<_>>()?;
    let rank = i64::try_from(hex(rank)?).ok()?;
    let group = u64::try_from(hex(group)?).ok()?;
    ObjectKey::new(model.replace("-SEP-", "/"), rank, group, hash, salt).ok()
}

/// Python's `int(text, 16)`.
fn hex(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold(0i128, |n, c| n.checked_mul(16)?.checked_add(c.to_digit(16)?.into())).map(|n| sign * n)
}
