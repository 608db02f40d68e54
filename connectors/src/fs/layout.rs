//! Names of files, as LMCache makes them.
//!
//! | key | file name |
//! |---|---|
//! | engine, layer | the key's text with `/` as `-SEP-`, and `.data` |
//! | object | `model@0x%08x(kv_rank)@%x(group)@hash_hex[@salt].data`, `/` in the model as `-SEP-` |
//!
//! Source: `fs_connector.py` and `fs_l2_adapter.py` of LMCache 0.5.6; vectors in `storage_names.json` and
//! `object_keys.json`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use connector_core::{CacheKey, Error, ErrorKind, KeyKind, ObjectKey, Result};

/// What stands for `/` in a file name.
pub const SLASH: &str = "-SEP-";
/// What every chunk's file ends with.
pub const EXTENSION: &str = ".data";
/// Longest file name of Linux's file systems, in bytes.
pub const NAME_MAX: usize = 255;

/// The name of the key's file.
///
/// # Errors
/// `InvalidKey` for a name of more than 255 bytes (saying both sizes) and for a key that holds NUL.
pub fn file_name(key: &CacheKey) -> Result<String> {
    let mut name = String::with_capacity(check(key, NAME_MAX)?);
    each_part(key, |part| name.push_str(part));
    Ok(name)
}

/// The path of the key's file below `base`, on a file system whose names have at most `max` bytes. One allocation: it is made
/// for every chunk.
pub(super) fn path(base: &Path, key: &CacheKey, max: usize) -> Result<PathBuf> {
    let len = check(key, max)?;
    let mut path = OsString::with_capacity(base.as_os_str().len() + 1 + len);
    path.push(base);
    if !path.is_empty() && !path.as_bytes().ends_with(b"/") {
        path.push("/");
    }
    each_part(key, |part| path.push(part));
    Ok(path.into())
}

/// The length of the name of the key's file.
///
/// # Errors
/// As [`file_name`], for a limit of `max` bytes.
pub(super) fn check(key: &CacheKey, max: usize) -> Result<usize> {
    if key.as_str().contains('\0') {
        return Err(Error::new(ErrorKind::InvalidKey, "a key with a NUL character cannot be a file's name"));
    }
    let mut len = 0;
    each_part(key, |part| len += part.len());
    if len > max {
        return Err(Error::new(
            ErrorKind::InvalidKey,
            format!("the key's file name has {len} bytes, and the file system takes at most {max}"),
        ));
    }
    Ok(len)
}

/// The parts of the name, one behind the other.
fn each_part<'k>(key: &'k CacheKey, mut part: impl FnMut(&'k str)) {
    let text = key.as_str();
    // The rank is the second field: `01050805` becomes `0x01050805`, `-0000001` becomes `-0x0000001`.
    let digits = (key.kind() == KeyKind::Object).then(|| {
        let rank = text.find('@').map_or(0, |at| at + 1);
        if text[rank..].starts_with('-') { rank + 1 } else { rank }
    });
    let mut without_slashes = |text: &'k str| {
        for (n, between) in text.split('/').enumerate() {
            if n > 0 {
                part(SLASH);
            }
            part(between);
        }
    };
    match digits {
        Some(digits) => {
            without_slashes(&text[..digits]);
            without_slashes("0x");
            without_slashes(&text[digits..]);
        }
        None => without_slashes(text),
    }
    part(EXTENSION);
}

/// The key of a file, if it is one that [`file_name`] gives. Of the two keys that share a file name, the one with `/`.
pub fn key_of_file(name: &str) -> Option<CacheKey> {
    // `m@1@0@ff@half.data` reads as an object key with a salt, too: only the `0x` of LMCache's own spelling tells.
    let rank = name.split('@').nth(1).unwrap_or_default();
    let key = match object_key_of_file(name) {
        Some(key) if rank.trim_start_matches('-').starts_with("0x") => CacheKey::from(key),
        _ => CacheKey::parse(&name.strip_suffix(EXTENSION)?.replace(SLASH, "/")).ok()?,
    };
    // A name in another spelling (`m@1@2@0a.data`) would be listed, and then not be found under its key.
    (file_name(&key).ok()? == name).then_some(key)
}

/// The key of a multiprocess file, read as freely as LMCache reads it: `m@1@2@0a.data` is rank 1.
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
    ObjectKey::from_parts(model.replace(SLASH, "/"), rank, group, hash?, salt).ok()
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

/// Whether LMCache gives this name to a file that it is writing: the chunk's with another ending.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|stem| key_of_file(&format!("{stem}{EXTENSION}")).is_some())
}

/// Whether LMCache's layout writes another key to the same file.
pub(super) fn shares_its_name(key: &CacheKey) -> bool {
    key.as_str().contains('/') || key.as_str().contains(SLASH)
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
    fn a_path_is_that_of_the_name_below_its_base() {
        for key in ["org/sub/m@1@0@ff@half", "m@1@0@ff@half@t%a/b", "org/m@01050805@2@0a@salt", "m@-0000001@0@ff"] {
            let key: CacheKey = key.parse().unwrap();
            let name = file_name(&key).unwrap();
            for base in ["/kv", "/kv/", "kv", "", "/"] {
                assert_eq!(path(Path::new(base), &key, NAME_MAX).unwrap(), Path::new(base).join(&name));
            }
            assert_eq!(check(&key, name.len()).unwrap(), name.len());
            assert!(path(Path::new("/kv"), &key, name.len() - 1).is_err());
        }
        assert_eq!(file_name(&"m@-0000001@0@ff".parse().unwrap()).unwrap(), "m@-0x0000001@0@ff.data");
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
