//! Chunks that reveal whether they are whole, and waits that end.

use std::future::Future;
use std::time::{Duration, Instant};

use connectors::{CacheKey, ErrorKind, MemoryObj, Result};
use tokio::time::timeout;

/// Longer than every timeout here, even on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// Ends a test that hangs.
pub(crate) async fn within(test: impl Future<Output = ()>) {
    timeout(SOON, test).await.expect("nothing hangs");
}

/// # Panics
/// If it is not true after a minute.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The call failed because the server is gone or silent.
#[track_caller]
pub(crate) fn is_lost<T: std::fmt::Debug>(answer: Result<T>) {
    let e = answer.expect_err("the server is gone");
    assert!(matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{:?}: {e}", e.kind());
    assert!(e.is_temporary(), "a retry may help: {e}");
}

/// The key of a number.
pub(crate) fn key(n: u64) -> CacheKey {
    format!("faults@1@0@{n:x}@bfloat16").parse().expect("a valid key")
}

/// Bytes that name their key, version and length, and that differ from every other chunk's at each offset.
pub(crate) fn chunk(n: u64, version: u64, len: usize) -> MemoryObj {
    MemoryObj::from(content(n, version, len))
}

fn content(n: u64, version: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n.rotate_left(32) ^ version ^ ((len as u64) << 16));
    let mut block = [n, version, len as u64].map(u64::to_le_bytes).concat();
    // A prime length, so that a missing or doubled piece shifts the rest visibly.
    block.resize_with(1021, || random.u8(..));
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    bytes
}

/// The version of a chunk.
///
/// # Panics
/// If the bytes are not this key's chunk, or not whole.
#[track_caller]
pub(crate) fn version(n: u64, bytes: &[u8]) -> u64 {
    let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes"));
    let (of, version, len) = (word(0), word(1), word(2));
    assert!((of, len) == (n, bytes.len() as u64), "{} bytes of key {n} say that they are {len} of {of}", bytes.len());
    assert!(content(n, version, bytes.len()) == bytes, "the chunk of key {n} is torn");
    version
}
