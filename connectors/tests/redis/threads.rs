//! The threads that move one batch.

use std::collections::HashSet;
use std::thread;

use connectors::Result;
use connectors::runtime::batch_threads;

use super::*;
use crate::threaded;

#[tokio::test]
async fn several_threads_move_a_large_batch_and_one_thread_a_small_one() {
    assert!(batch_threads() > 1, "this test needs two CPUs, or KVCONN_THREADS=2");
    let server = RedisServer::start(&[]);
    let (backend, seen) = threaded::backend();
    let store = connectors::builder(&server.url("redis")).local_cpu_backend(backend).open().await.unwrap();
    let large: Vec<_> = (0..32).map(|n| (key(n), MemoryObj::from(vec![n as u8; 1 << 20]))).collect();
    let small: Vec<_> = (100..164).map(|n| (key(n), kv(5, n as usize))).collect();
    for items in [&large, &small] {
        assert!(store.batched_put(items).await.iter().all(Result::is_ok));
    }
    let get = async |items: &[(CacheKey, MemoryObj)]| {
        let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
        seen.lock().unwrap().clear();
        let chunks = store.batched_get(&keys).await;
        assert!(chunks.iter().zip(items).all(|(chunk, (_, put))| chunk.as_ref().unwrap().as_ref() == Some(put)));
        seen.lock().unwrap().clone()
    };
    // Two chunks may come one after the other. In a hundred batches, some come at the same time.
    let mut threads = HashSet::new();
    for _ in 0..100 {
        threads.extend(get(&large).await);
        if threads.len() > 1 {
            break;
        }
    }
    assert!(threads.len() > 1 && threads.contains(&thread::current().id()), "{threads:?}");
    // The last chunk's length says how much a batch moves.
    get(&small).await;
    for _ in 0..20 {
        assert_eq!(get(&small).await, HashSet::from([thread::current().id()]));
    }
}
