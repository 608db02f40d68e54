//! Tells the keys apart that LMCache's layout gives one file: the file's extended attribute holds its key.

use std::fs::File;
use std::path::Path;

use connector_core::CacheKey;

use super::layout;

/// Holds the key of a file whose name another key could have, too.
const KEY_ATTRIBUTE: &str = "user.kvconn.key";

/// No key that has a file is longer.
const KEY_MAX: usize = layout::NAME_MAX;

/// Records the key of a file whose name another key could have, too. Best effort: not every file system has extended
/// attributes.
pub(super) fn record(key: &CacheKey, file: &File) {
    if layout::shares_its_name(key) {
        let flags = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::fsetxattr(file, KEY_ATTRIBUTE, key.as_str().as_bytes(), flags);
    }
}

/// Whether the file's record names another key.
pub(super) fn is_others_file(key: &CacheKey, file: &File) -> bool {
    is_others(key, |buffer| rustix::fs::fgetxattr(file, KEY_ATTRIBUTE, buffer).ok())
}

/// As [`is_others_file`], of a file that is not open.
pub(super) fn is_others_path(key: &CacheKey, path: &Path) -> bool {
    is_others(key, |buffer| rustix::fs::getxattr(path, KEY_ATTRIBUTE, buffer).ok())
}

/// The key of a file in a directory: by its record, else by its name.
pub(super) fn key_of_entry(name: &str, path: &Path) -> Option<CacheKey> {
    let key = layout::key_of_file(name)?;
    if !layout::shares_its_name(&key) {
        return Some(key);
    }
    let mut buffer = [0; KEY_MAX];
    let recorded = rustix::fs::getxattr(path, KEY_ATTRIBUTE, &mut buffer[..]).ok();
    let recorded = recorded.and_then(|len| CacheKey::parse(std::str::from_utf8(&buffer[..len]).ok()?).ok());
    Some(recorded.filter(|r| layout::file_name(r).is_ok_and(|n| n == name)).unwrap_or(key))
}

fn is_others(key: &CacheKey, read: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
    let mut buffer = [0; KEY_MAX];
    layout::shares_its_name(key) && read(&mut buffer).is_some_and(|len| &buffer[..len] != key.as_str().as_bytes())
}
