//! `mock://`: calls take the configured time. tokio's clock is paused, so that times are exact.

use std::future::Future;
use std::time::Duration;

use connectors::{CacheKey, Connector, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, PoolAllocator};
use futures::StreamExt;
use futures::future::{join_all, poll_immediate};
use tokio::time::Instant;

const MIB: usize = 1 << 20;

/// To read 1 MiB takes 2 ms, to write it takes 4 ms, and a call without a chunk takes 3 ms.
const URL: &str = "mock://1/?peeking_latency=3&read_throughput=0.48828125&write_throughput=0.244140625";

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn chunk(len: usize, seed: u8) -> MemoryObj {
    MemoryObj::from((0..len).map(|i| (i * 31 % 251) as u8 ^ seed).collect::<Vec<_>>())
}

async fn takes<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let answer = work.await;
    (start.elapsed(), answer)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn holding(chunks: u32) -> Connector {
    let connector = connectors::open(URL).await.unwrap();
    for n in 0..chunks {
        connector.put(&key(n), chunk(MIB, n as u8)).await.unwrap();
    }
    connector
}

#[tokio::test(start_paused = true)]
async fn reads_and_writes_take_their_bytes_divided_by_the_throughput() {
    let connector = connectors::open(URL).await.unwrap();
    assert_eq!(takes(connector.put(&key(1), chunk(5 * MIB, 1))).await.0, ms(20));
    let (time, got) = takes(connector.get(&key(1))).await;
    assert_eq!((time, got.unwrap().unwrap()), (ms(10), chunk(5 * MIB, 1)));
    let mut memory = MemoryObjMut::zeroed(5 * MIB);
    let (time, got) = takes(connector.get_into(&key(1), &mut memory)).await;
    assert_eq!((time, got.unwrap()), (ms(10), Some(5 * MIB)));
    assert_eq!(&*memory, &*chunk(5 * MIB, 1));
    assert_eq!(takes(connector.get(&key(2))).await.0, ms(0), "a miss moves no bytes");
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_chunk_take_the_latency_and_a_batch_takes_it_once() {
    let connector = holding(2).await;
    assert_eq!(takes(connector.exists(&key(1))).await.0, ms(3));
    assert_eq!(takes(connector.exists(&key(9))).await.0, ms(3));
    let keys = [key(0), key(1), key(2)];
    let (time, there) = takes(connector.batched_exists(&keys)).await;
    assert_eq!((time, there.into_iter().map(Result::unwrap).collect::<Vec<_>>()), (ms(3), vec![true, true, false]));
    let (time, n) = takes(connector.batched_contains(&keys)).await;
    assert_eq!((time, n.unwrap()), (ms(3), 2));
    assert_eq!(takes(connector.ping()).await.0, ms(3));
    assert_eq!(takes(connector.list("").count()).await, (ms(3), 2));
    let keys: Vec<_> = (0..50).map(key).collect();
    let concurrent = join_all(keys.iter().map(|key| connector.exists(key)));
    assert_eq!(takes(concurrent).await.0, ms(3), "they do not wait for each other");
    let (time, gone) = takes(connector.remove(&key(0))).await;
    assert_eq!((time, gone.unwrap()), (ms(3), true));
}

#[tokio::test(start_paused = true)]
async fn all_reads_share_one_throughput_and_all_writes_another() {
    let connector = holding(6).await;
    let keys: Vec<_> = (0..6).map(key).collect();
    let reads = join_all(keys.iter().map(|key| connector.get(key)));
    assert_eq!(takes(reads).await.0, ms(12));
    assert_eq!(takes(connector.batched_get(&keys)).await.0, ms(12), "a batch moves as many bytes");
    let items: Vec<_> = keys.iter().map(|k| (k.clone(), chunk(MIB, 7))).collect();
    assert_eq!(takes(connector.batched_put(&items)).await.0, ms(24));
    let both = futures::future::join(connector.batched_get(&keys), connector.batched_put(&items));
    assert_eq!(takes(both).await.0, ms(24), "reads do not wait for writes");
}

#[tokio::test(start_paused = true)]
async fn reads_end_in_the_order_of_the_calls() {
    let connector = holding(3).await;
    let start = Instant::now();
    let keys: Vec<_> = (0..3).map(key).collect();
    let ends = join_all(keys.iter().map(|key| async {
        connector.get(key).await.unwrap();
        start.elapsed()
    }));
    assert_eq!(ends.await, [ms(2), ms(4), ms(6)]);
}

#[tokio::test(start_paused = true)]
async fn rounding_to_clock_ticks_does_not_add_up() {
    // Each put takes 1.5 ms. They end at 1.5 -> 2, 3, 4.5 -> 5, 6, ..
    let connector = connectors::open("mock://1/?write_throughput=0.6510416666666666").await.unwrap();
    let puts = async {
        for n in 0..100 {
            connector.put(&key(n), chunk(MIB, 1)).await.unwrap();
        }
    };
    assert_eq!(takes(puts).await.0, ms(150));
}

#[tokio::test(start_paused = true)]
async fn a_read_after_an_idle_time_is_not_faster() {
    let connector = holding(1).await;
    for idle in [1, 2, 50] {
        tokio::time::sleep(ms(idle)).await;
        assert_eq!(takes(connector.get(&key(0))).await.0, ms(2), "after {idle} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_move_up_when_an_earlier_one_is_dropped() {
    let connector = holding(2).await;
    connector.put(&key(9), MemoryObj::from(vec![1; 50 * MIB])).await.unwrap();
    let keys = [key(9), key(9), key(0)];
    let [first, second, third] = keys.each_ref().map(|key| Box::pin(connector.get(key)));
    let (mut first, mut second, mut third) = (first, second, third);
    for get in [&mut first, &mut second, &mut third] {
        assert!(poll_immediate(get).await.is_none());
    }
    tokio::time::sleep(ms(5)).await;
    drop(second);
    drop(first);
    let (time, got) = takes(third).await;
    assert_eq!((time, got.unwrap().unwrap()), (ms(2), chunk(MIB, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_put_leaves_the_old_chunk() {
    let connector = holding(1).await;
    let old = key(0);
    let mut put = Box::pin(connector.put(&old, chunk(MIB, 77)));
    assert!(poll_immediate(&mut put).await.is_none());
    tokio::time::sleep(ms(1)).await;
    drop(put);
    assert_eq!(connector.get(&key(0)).await.unwrap().unwrap(), chunk(MIB, 0));
    assert_eq!(takes(connector.put(&key(0), chunk(MIB, 5))).await.0, ms(4));
}

#[tokio::test(start_paused = true)]
async fn a_read_takes_memory_from_the_pool_and_gives_it_back() {
    let pool = PoolAllocator::new(4 * MIB);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let connector = connectors::builder(URL).local_cpu_backend(backend).open().await.unwrap();
    connector.put(&key(1), chunk(MIB, 1)).await.unwrap();
    let got = connector.get(&key(1)).await.unwrap();
    assert_eq!(pool.stats().in_use, MIB);
    drop(got);
    assert_eq!(pool.stats().in_use, 0);
    let there = key(1);
    let mut get = Box::pin(connector.get(&there));
    assert!(poll_immediate(&mut get).await.is_none());
    drop(get);
    assert_eq!(pool.stats().in_use, 0, "also if the call is dropped");
    let small = LocalCpuBackend::with_capacity(100);
    let connector = connectors::builder("mock://1").local_cpu_backend(small).open().await.unwrap();
    connector.put(&key(1), chunk(MIB, 1)).await.unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn of_two_batches_at_once_one_is_whole_if_the_pool_holds_one() {
    let pool = PoolAllocator::new(10 * MIB);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let connector = connectors::builder(URL).local_cpu_backend(backend).open().await.unwrap();
    let keys: Vec<_> = (0..9).map(key).collect();
    for key in &keys[..8] {
        connector.put(key, chunk(MIB, 1)).await.unwrap();
    }
    let (a, b) = futures::future::join(connector.batched_get(&keys), connector.batched_get(&keys)).await;
    assert!(a[..8].iter().all(|got| matches!(got, Ok(Some(_)))) && matches!(a[8], Ok(None)), "{a:?}");
    let e = b[2].as_ref().unwrap_err();
    assert!(b[..2].iter().all(|got| matches!(got, Ok(Some(_)))) && e.kind() == ErrorKind::PoolFull, "{b:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_store_evicts_the_least_recently_used_chunk() {
    // 4 MiB.
    let connector = connectors::open("mock://0.00390625").await.unwrap();
    for n in 0..4 {
        connector.put(&key(n), chunk(MIB, n as u8)).await.unwrap();
    }
    connector.get(&key(0)).await.unwrap();
    connector.put(&key(4), chunk(MIB, 4)).await.unwrap();
    let keys: Vec<_> = (0..5).map(key).collect();
    let there: Vec<bool> = connector.batched_exists(&keys).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(there, [true, false, true, true, true]);
    let (time, refused) = takes(connector.put(&key(5), chunk(4 * MIB + 1, 1))).await;
    let e = refused.unwrap_err();
    assert_eq!((time, e.kind()), (ms(0), ErrorKind::TooLarge));
    assert_eq!(connector.capabilities().max_chunk_bytes, Some(4 * MIB as u64));
}

#[tokio::test(start_paused = true)]
async fn the_defaults_are_those_of_lmcache() {
    let connector = connectors::open("mock://100").await.unwrap();
    assert_eq!(takes(connector.exists(&key(1))).await.0, ms(1));
    assert_eq!(takes(connector.put(&key(1), MemoryObj::from(vec![1; 128 * MIB]))).await.0, ms(63));
    assert_eq!(takes(connector.get(&key(1))).await.0, ms(63), "62.5, and the clock's tick");
}

#[tokio::test]
async fn the_error_of_a_missing_capacity_or_a_wrong_number_says_what_to_write() {
    for (url, says) in [
        ("mock://", "does not give the store's capacity; write `mock://100/`"),
        ("mock://lots", "must be its capacity, but `lots` is not a number"),
        ("mock://0", "`capacity`: `0` is not a number over 0"),
        ("mock://inf", "`capacity`: `inf` is not"),
        ("mock://1?read_throughput=0", "`read_throughput`: `0` is not"),
        ("mock://1?write_throughput=-1", "`write_throughput`: `-1` is not"),
        ("mock://1?peeking_latency=-1", "`peeking_latency`: `-1` is not"),
        ("mock://1?peeking_latenzy=1", "did you mean `peeking_latency`?"),
        ("external://h:0/kvconn.mock/?connector_name=MockConnector", "does not give the store's capacity"),
    ] {
        let e = connectors::open(url).await.unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::InvalidUrl | ErrorKind::InvalidOption), "{url}: {e:?}");
        assert!(e.to_string().contains(says), "{url}: {e}");
    }
    let external = "external://h:0/kvconn.mock/?connector_name=MockConnector&capacity=1&peeking_latency=0";
    connectors::open(external).await.unwrap().ping().await.unwrap();
}
