//! The promises of the fs store beyond the contract of every store.

mod child;
mod damage;
mod dropped;
mod engines;
mod foreign;
mod killed;
mod layout;
mod namespace;
mod options;
mod quota;
mod refused;
mod scrub;
mod waits;

use std::path::{Path, PathBuf};

use connectors::{CacheKey, ChunkLayout, Connector, Dtype, MemoryFormat, MemoryObj, Result, Shape};
use futures::{StreamExt, TryStreamExt};

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn object_key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@01000100@0@{n:08x}").parse().unwrap()
}

/// The name of `key(n)`'s file.
fn file_name(n: u32) -> String {
    format!("facebook-SEP-opt-125m@1@0@{n:x}@half.data")
}

fn bytes(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 11) as u8).collect()
}

/// A chunk with a shape: 96 bytes a token.
fn kv(tokens: usize, seed: u32) -> MemoryObj {
    let shape = Shape::new(&[2, 3, tokens, 8]).unwrap();
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).unwrap();
    MemoryObj::from_vec(bytes(layout.len, seed), layout).unwrap()
}

/// A directory for a store, which does not exist yet.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.path("fs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The URL with options, such as `?capacity=1000`.
    fn url(&self, options: &str) -> String {
        format!("fs://{}{options}", self.dir().display())
    }

    async fn open(&self, options: &str) -> Connector {
        connectors::open(&self.url(options)).await.unwrap()
    }
}

async fn keys(connector: &Connector, prefix: &str) -> Vec<String> {
    let mut all: Vec<String> = connector.list(prefix).map(|k| k.unwrap().to_string()).collect().await;
    all.sort();
    all
}

/// All keys, or the first error of the listing.
async fn keys_or_error(connector: &Connector) -> Result<Vec<CacheKey>> {
    connector.list("").try_collect().await
}

fn files(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// Bytes of all files that may be chunks. Enters vLLM's directories.
fn chunk_bytes(dir: &Path) -> u64 {
    // The first put makes the directory.
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        // A file that was removed meanwhile counts as empty.
        match entry.metadata() {
            Ok(stat) if stat.is_file() && (name.ends_with(".data") || name.ends_with(".bin")) => stat.len(),
            Ok(stat) if stat.is_dir() && (name.contains("_r") || name.contains("_g") || name.len() == 3) => {
                chunk_bytes(&entry.path())
            }
            _ => 0,
        }
    };
    entries.map(|entry| bytes(entry.unwrap())).sum()
}

/// Pseudo-random numbers. A failed test shows the seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
