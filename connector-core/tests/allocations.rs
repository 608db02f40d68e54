//! Counts the allocations of a lookup and of a call.
#![expect(unsafe_code, reason = "counts by being the global allocator")]

mod entries;
#[path = "handle/layered.rs"]
mod layered;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use connector_core::layer::LayerOptions;
use connector_core::{CacheKey, Connector, MemoryObj};

struct Counting;

thread_local! {
    // Counts only this thread: the test harness has other threads.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps `alloc`'s promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.get();
    let value = work();
    (value, COUNT.get() - before)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| black_box(Box::new(7))).1, 1);
}

#[test]
fn a_lookup_allocates_nothing() {
    let index = entries::index_of(10_000);
    let (module, name) = entries::name_of(5_000);
    let (found, n) = allocations(|| index.find(&module, &name));
    assert_eq!((found.map(|e| e.name()).ok(), n), (Some("Connector5000"), 0));
}

/// Allocations of one `get` that is ready, after a first one: metrics are registered by an operation's first call.
async fn of_a_get(connector: &Connector) -> usize {
    let key: CacheKey = "facebook/opt-125m@1@0@1f2e3d@half".parse().unwrap();
    connector.get(&key).await.unwrap();
    let before = COUNT.get();
    let chunk = connector.get(&key).await.unwrap();
    let n = COUNT.get() - before;
    assert_eq!(chunk.as_deref(), Some(&[7; 64][..]));
    n
}

fn ready() -> entries::Ready {
    entries::Ready(MemoryObj::from(vec![7; 64]))
}

#[tokio::test(flavor = "current_thread")]
async fn an_erased_get_allocates_at_most_twice() {
    let n = of_a_get(&Connector::new("test", ready())).await;
    assert!(n <= 2, "{n} allocations");
}

#[tokio::test(flavor = "current_thread")]
async fn all_layers_together_add_one_allocation() {
    let mut all = LayerOptions::default();
    (all.timeout_ms, all.retries, all.max_in_flight, all.breaker_failures) = (Some(1000), Some(2), Some(64), Some(5));
    let none = of_a_get(&Connector::new("test", ready())).await;
    let layered = of_a_get(&layered::over(all, &ready()).await).await;
    assert!(layered <= none + 1, "{none} without, {layered} with all layers");
}
