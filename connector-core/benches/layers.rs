//! `layers/all_on`: the cost of timeout, retry, breaker and limit together for a `get` that is ready. Budget: 1
//! microsecond and four allocations over `layers/none`. `tests/allocations.rs` asserts one allocation.

#[path = "../tests/entries/mod.rs"]
mod entries;
#[path = "../tests/handle/layered.rs"]
mod layered;

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use connector_core::layer::LayerOptions;
use connector_core::{CacheKey, Connector, MemoryObj};
use criterion::{Criterion, criterion_group, criterion_main};

/// Polls a future that is ready at once.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn get(c: &mut Criterion) {
    let key: CacheKey = "facebook/opt-125m@1@0@1f2e3d@half".parse().expect("a key");
    let store = || entries::Ready(MemoryObj::from(vec![7; 64]));
    let mut all = LayerOptions::default();
    (all.timeout_ms, all.retries, all.max_in_flight, all.breaker_failures) = (Some(1000), Some(2), Some(64), Some(5));
    // A timeout needs a timer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let layered = runtime.block_on(layered::over(all, &store()));
    let _inside = runtime.enter();
    for (name, connector) in [("layers/none", Connector::new("bench", store())), ("layers/all_on", layered)] {
        c.bench_function(name, |b| b.iter(|| now(black_box(&connector).get(black_box(&key)))));
    }
}

criterion_group!(benches, get);
criterion_main!(benches);
