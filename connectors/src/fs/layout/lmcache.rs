//! LMCache's file names.
//!
//! Source: `fs_connector.py` and `fs_l2_adapter.py` of LMCache 0.5.6; vectors in `storage_names.json` and
//! `object_keys.json`.

use connector_core::{CacheKey, Error, ErrorKind, KeyKind, ObjectKey, Result};

use super::{NAME_MAX, check_length};

/// Replaces `/` in a file name.
pub const SLASH: &str = "-SEP-";
/// The end of every chunk's file name.
pub const EXTENSION: &str = ".data";

/// The name of the key's file.
///
/// # Errors
/// `InvalidKey` for a name of more than 255 bytes (with both lengths) and for a key with a NUL character.
pub fn file_name(key: &CacheKey) -> Result<String> {
    checked_name(key, NAME_MAX)
}

/// The name of the key's file, on a file system whose names have at most `max` bytes.
///
/// # Errors
/// Like [`file_name`]; and `InvalidKey` if another key has the same file name and [`key_of_file`] gives that one.
pub(super) fn reversible_name(key: &CacheKey, max: usize) -> Result<String> {
    let name = checked_name(key, max)?;
    // Without `SEP` in the key, every `-SEP-` of the name was a slash.
    if !key.as_str().contains("SEP") {
        return Ok(name);
    }
    let read_back = key_of_file(&name);
    if read_back.as_ref() == Some(key) {
        return Ok(name);
    }
    let other = read_back.map_or_else(|| "no key".to_owned(), |other| format!("`{other}`"));
    let why = format!("the store cannot name it: LMCache's file name `{name}` would be read back as {other}");
    Err(Error::new(ErrorKind::InvalidKey, why).with_hint("give the model a name without `-SEP-`"))
}

fn checked_name(key: &CacheKey, max: usize) -> Result<String> {
    super::check_nul(key.as_str())?;
    let mut name = key.as_str().replace('/', SLASH) + EXTENSION;
    if key.kind() == KeyKind::Object {
        // The rank is the second field: `01050805` becomes `0x01050805`, `-0000001` becomes `-0x0000001`.
        let rank = name.find('@').map_or(0, |at| at + 1);
        let digits = if name[rank..].starts_with('-') { rank + 1 } else { rank };
        name.insert_str(digits, "0x");
    }
    check_length(&name, max)?;
    Ok(name)
}

/// The key of a file whose name [`file_name`] gives. If several keys have that name, the one with `/`.
pub fn key_of_file(name: &str) -> Option<CacheKey> {
    // `m@1@0@ff@half.data` can be read as an object key with a salt. Only the `0x` in LMCache's spelling shows that
    // it is one.
    let rank = name.split('@').nth(1).unwrap_or_default();
    let key = match object_key_of_file(name) {
        Some(key) if rank.trim_start_matches('-').starts_with("0x") => CacheKey::from(key),
        _ => CacheKey::parse(&name.strip_suffix(EXTENSION)?.replace(SLASH, "/"), KeyKind::Engine).ok()?,
    };
    // A list must not give the key of another spelling (`m@1@2@0a.data`): a get of that key looks for another name.
    (file_name(&key).ok()? == name).then_some(key)
}

/// The key of a multiprocess file, with every spelling that LMCache accepts: `m@1@2@0a.data` is rank 1.
pub fn object_key_of_file(name: &str) -> Option<ObjectKey> {
    let stem = name.strip_suffix(EXTENSION)?;
    let parts: Vec<&str> = stem.split('@').collect();
    let (model, rank, group, hash, salt) = match parts[..] {
        [model, rank, group, hash] => (model, rank, group, hash, ""),
        [model, rank, group, hash, salt] => (model, rank, group, hash, salt),
        _ => return None,
    };
    if hash.is_empty() || !hash.len().is_multiple_of(2) || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let hash: Option<Vec<u8>> =
        (0..hash.len()).step_by(2).map(|i| u8::from_str_radix(&hash[i..i + 2], 16).ok()).collect();
    let (rank, group) = (python_hex(rank)?.try_into().ok()?, python_hex(group)?.try_into().ok()?);
    ObjectKey::new(model.replace(SLASH, "/"), rank, group, hash?, salt).ok()
}

/// Python's `int(text, 16)`, without its underscores and spaces.
fn python_hex(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let value = i128::from_str_radix(digits, 16).ok()?;
    Some(if negative { -value } else { value })
}

/// Whether LMCache gives this name to a file that it is writing: `.tmp` in place of `.data`.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|stem| key_of_file(&format!("{stem}{EXTENSION}")).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_over_the_limit_are_refused_with_both_sizes() {
        let key: CacheKey = format!("{}@1@0@ff@half", "m".repeat(300)).parse().unwrap();
        let e = file_name(&key).unwrap_err();
        assert!(e.to_string().contains("317") && e.to_string().contains("255"), "{e}");
    }

    #[test]
    fn a_store_refuses_exactly_the_keys_whose_names_are_read_back_as_another() {
        // All models of up to five of these parts.
        let parts = ["/", "-", "SEP", "a"];
        let mut models = vec![String::new()];
        let mut last = models.clone();
        for _ in 0..5 {
            last = last.iter().flat_map(|model| parts.map(|part| format!("{model}{part}"))).collect();
            models.extend(last.iter().cloned());
        }
        for model in models.iter().filter(|model| !model.is_empty()) {
            for tail in ["@1@0@1@half", "@1@0@1@half@7", "@1@0@1@half@t%-SEP-/", "@01050805@0@1f2e@-SEP-"] {
                let key: CacheKey = format!("{model}{tail}").parse().unwrap();
                let is_read_back = key_of_file(&file_name(&key).unwrap()).as_ref() == Some(&key);
                let name = reversible_name(&key, NAME_MAX);
                assert_eq!(name.is_ok(), is_read_back, "{key}");
                assert!(name.is_ok_and(|name| name == file_name(&key).unwrap()) || !is_read_back, "{key}");
            }
        }
    }

    #[test]
    fn a_refused_key_says_why_and_what_to_do() {
        for (key, other) in [("a-SEP-b@1@0@1@half", "a/b@1@0@1@half"), ("x-SEP/y@1@0@1@half", "x/SEP-y@1@0@1@half")] {
            let key: CacheKey = key.parse().unwrap();
            let e = reversible_name(&key, NAME_MAX).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidKey);
            let text = e.to_string();
            assert!(text.contains("the store cannot name it") && text.contains(other), "{text}");
            assert!(text.contains("without `-SEP-`"), "{text}");
        }
    }

    #[test]
    fn a_name_in_another_spelling_is_not_listed() {
        assert!(object_key_of_file("m@1@2@0a.data").is_some());
        assert_eq!(key_of_file("m@1@2@0a.data"), None);
        assert_eq!(object_key_of_file("m@1@0x+2@0a.data"), None);
        assert_eq!(key_of_file("notes.txt"), None);
        assert_eq!(key_of_file(".kvconn-1-2-3.tmp"), None);
        assert_eq!(key_of_file("a-SEP-b@1@0@ff@half.data").unwrap().as_str(), "a/b@1@0@ff@half");
        assert_eq!(key_of_file("m@-0x0000001@0@ff.data").unwrap().as_str(), "m@-0000001@0@ff");
    }
}
