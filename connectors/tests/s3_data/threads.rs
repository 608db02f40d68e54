//! The threads that move one batch.

use connectors::Result;

use super::*;
use crate::threaded;

#[tokio::test]
async fn the_runtimes_threads_move_a_batch_even_if_the_caller_has_one_thread() {
    let fake = server();
    let (backend, threads) = threaded::backend();
    let store = connectors::builder(&url_at(&fake.endpoint(), "")).local_cpu_backend(backend).open().await.unwrap();
    let items: Vec<_> = (0..16).map(|n| (key(n), MemoryObj::from(bytes(MIB, n as usize)))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
    // Objects may come one after the other. In a hundred batches, some come at the same time.
    for _ in 0..100 {
        let chunks = store.batched_get(&keys).await;
        assert!(chunks.iter().zip(&items).all(|(chunk, (_, put))| chunk.as_ref().unwrap().as_ref() == Some(put)));
        if threads.lock().unwrap().len() > 1 {
            return;
        }
    }
    panic!("one thread moves every chunk");
}
