//! Each layer over a store that fails, on tokio's paused clock.

use std::time::Duration;

use crate::layered::over;
use crate::scripted::{CHUNK, LOST, Scripted, Step};
use connector_core::{
    BoxStream, CacheKey, ChunkAllocator, ChunkLayout, Connector, ConnectorAdapter, ConnectorContext, ErrorKind,
    ErrorStatus, LMCacheEngineConfig, LocalCpuBackend, MemoryObj, MemoryObjMut, RemoteConnector, RemoteUrl, Result,
};
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

fn key() -> CacheKey {
    "m@1@0@ff@half".parse().unwrap()
}

fn keys(n: usize) -> Vec<CacheKey> {
    (1..=n).map(|i| format!("m@1@0@{i:x}@half").parse().unwrap()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

mod breaker;
/// The behaviour of the handle without layers.
mod handle;
mod limit;
mod retry;
/// The layers as URL, configuration and builder set them.
mod settings;
mod timeout;
