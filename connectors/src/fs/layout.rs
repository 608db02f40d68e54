//! Names of files, as LMCache, vLLM and SGLang make them.
//!
//! | layout | key | file |
//! |---|---|---|
//! | `lmcache` | engine, layer | the key's text with `/` as `-SEP-`, and `.data` |
//! | `lmcache` | object | `model@0x%08x(kv_rank)@%x(group)@hash_hex[@salt].data`, `/` in the model as `-SEP-` |
//! | `vllm` | object without a salt | `model_r%d(kv_rank)/hhh/hh_g%d(group)/hash_hex.bin`; `hhh` and `hh` are the hash's first five digits |
//! | `sglang` | object of rank 0 and group 0 | `hash_hex[.salt]_model.bin` |
//!
//! In vLLM's names the model is `<model>_<digest>`, the name of the directory beside them that has `config.json`. In
//! SGLang's names the model is all that follows the hash and the pool, such as `org-name_0_1`, and the salt is the
//! pool.

mod lmcache;
mod sglang;
mod vllm;

use connector_core::{CacheKey, Error, ErrorKind, KeyKind, ObjectKey, Result};

pub use lmcache::{EXTENSION, SLASH, file_name, key_of_file, object_key_of_file};

use super::Layout;

/// Longest file name of Linux's file systems, in bytes.
pub const NAME_MAX: usize = 255;

impl Layout {
    /// The path of the key's file below the directory of the chunks.
    ///
    /// # Errors
    /// `InvalidKey` for a key that the layout cannot name, and for a key whose path [`key_of`](Self::key_of) reads as
    /// another one.
    pub fn path_of(self, key: &CacheKey) -> Result<String> {
        self.path_within(key, NAME_MAX)
    }

    /// Like [`path_of`](Self::path_of), on a file system whose names have at most `max` bytes.
    pub(super) fn path_within(self, key: &CacheKey, max: usize) -> Result<String> {
        if self == Self::Lmcache {
            return lmcache::reversible_name(key, max);
        }
        if key.kind() != KeyKind::Object {
            let why = format!("`layout={}` stores only object keys", self.as_str());
            return Err(Error::new(ErrorKind::InvalidKey, why)
                .with_hint("write `model@kv_rank@group@hash[@salt]`, or open the store with `layout=lmcache`"));
        }
        let path = self.path_of_object(&key.as_str().parse()?)?;
        path.split('/').try_for_each(|name| check_length(name, max))?;
        match self.key_of(&path) {
            Some(read_back) if read_back == *key => Ok(path),
            other => {
                let other = other.map_or_else(|| "no key".to_owned(), |other| format!("`{other}`"));
                let writer = self.writer();
                let why = format!("the store cannot name it: {writer}'s file `{path}` would be read back as {other}");
                Err(Error::new(ErrorKind::InvalidKey, why))
            }
        }
    }

    /// The key of the file at a path below the directory of the chunks; `None` if it is not a chunk's.
    pub fn key_of(self, path: &str) -> Option<CacheKey> {
        let key = match self {
            Self::Lmcache => return key_of_file(path),
            Self::Vllm => vllm::key_of(path),
            Self::Sglang => sglang::key_of(path),
        }?;
        // Only the engine's own spelling: a get of the key looks for that name.
        (self.path_of_object(&key).ok()? == path).then(|| key.into())
    }

    /// The path that vLLM or SGLang gives to the key's file, of any length.
    fn path_of_object(self, key: &ObjectKey) -> Result<String> {
        check_nul(key.model_name())?;
        if key.model_name().contains('/') {
            let why = format!("{}'s file names have no place for the `/` in the model's name", self.writer());
            return Err(Error::new(ErrorKind::InvalidKey, why).with_hint(match self {
                Self::Sglang => "SGLang writes `-` in place of `/`",
                _ => "vLLM writes `_` in place of `/`",
            }));
        }
        if self == Self::Sglang { sglang::name_of(key) } else { vllm::path_of(key) }
    }

    /// Whether a directory at this path may hold chunks, or directories of chunks.
    pub(super) fn is_folder(self, path: &str) -> bool {
        self == Self::Vllm && vllm::is_folder(path)
    }

    /// Whether all chunks are in one directory.
    pub(super) fn is_flat(self) -> bool {
        self != Self::Vllm
    }

    /// Whether the engine gives this name to a file that it is writing.
    pub(super) fn is_unfinished(self, path: &str) -> bool {
        match self {
            Self::Lmcache => lmcache::is_unfinished(path),
            Self::Vllm => vllm::unfinished(path).is_some_and(|path| self.key_of(path).is_some()),
            Self::Sglang => sglang::is_unfinished(path),
        }
    }

    /// The program that has this layout.
    pub(super) fn writer(self) -> &'static str {
        match self {
            Self::Lmcache => "LMCache",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
        }
    }

    /// Warns that the files do not say the dtype, page size or layout of their bytes.
    pub(super) fn warn(self) {
        let (layout, writer) = (self.as_str(), self.writer());
        tracing::warn!(
            "fs: `layout={layout}`: the files of {writer} do not say the dtype, page size or layout of their bytes; \
             after a change of these, use another directory unless the file's length changes, too"
        );
    }

    /// The option's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lmcache => "lmcache",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
        }
    }
}

fn check_nul(text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::new(ErrorKind::InvalidKey, "a key with a NUL character cannot be a file's name"));
    }
    Ok(())
}

fn check_length(name: &str, max: usize) -> Result<()> {
    if name.len() > max {
        return Err(Error::new(
            ErrorKind::InvalidKey,
            format!("the key's file name has {} bytes, and the file system takes at most {max}", name.len()),
        ));
    }
    Ok(())
}

/// Lower-case hex digits, two for each byte.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of lower-case hex digits.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(is_hex_digit) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok()).collect()
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_key_gives_is_not_a_key() {
        for (layout, name) in [
            (Layout::Sglang, "1f2e_org-name\0_0_1.bin"),
            (Layout::Sglang, "1f2e_org/name_0_1.bin"),
            (Layout::Vllm, "name\0_0_r0/1f2/e_g0/1f2e.bin"),
            (Layout::Lmcache, "name\0@1@0@ff@half.data"),
        ] {
            assert_eq!(layout.key_of(name), None, "{name:?}");
            let good = name.replace('\0', "").replace("org/", "org-");
            let key = layout.key_of(&good).unwrap_or_else(|| panic!("{good} is a chunk's"));
            assert_eq!(layout.path_of(&key).expect("the key has a name"), good);
        }
    }
}
