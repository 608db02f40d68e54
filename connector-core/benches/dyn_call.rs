//! `dyn/get`: the cost of the handle and its erased call for a future that is ready. Budget: 50 ns over `static/get`,
//! and two allocations (`tests/allocations.rs` asserts them).

#[path = "../tests/entries/mod.rs"]
mod entries;

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use connector_core::{CacheKey, Connector, MemoryObj, RemoteConnector};
use criterion::{Criterion, criterion_group, criterion_main};

/// Polls a future that is ready at once, without an executor.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn get(c: &mut Criterion) {
    let key: CacheKey = "facebook/opt-125m@1@0@1f2e3d@half".parse().expect("a key");
    let bare = entries::Ready(MemoryObj::from(vec![7; 64]));
    let handle = Connector::new("bench", entries::Ready(MemoryObj::from(vec![7; 64])));
    c.bench_function("static/get", |b| b.iter(|| now(RemoteConnector::get(black_box(&bare), black_box(&key)))));
    c.bench_function("dyn/get", |b| b.iter(|| now(black_box(&handle).get(black_box(&key)))));
}

criterion_group!(benches, get);
criterion_main!(benches);
