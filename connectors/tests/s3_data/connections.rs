//! Connections and runtimes.

use connectors::Connector;
use tokio::runtime::{Builder, Runtime};

use crate::{bytes, key, server, store};

fn many() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn works(store: &Connector, n: u64) {
    store.put(&key(n), bytes(100_000, 1).into()).await.expect("a put");
    assert!(*store.get(&key(n)).await.expect("a get").expect("a chunk") == *bytes(100_000, 1));
    assert!(store.exists(&key(n)).await.expect("a lookup"));
}

#[test]
fn a_store_outlives_the_runtime_that_it_was_opened_on() {
    let fake = server();
    let first = many();
    let opened = first.block_on(async {
        let opened = store(&fake, "").await;
        works(&opened, 1).await;
        opened
    });
    let second = many();
    second.block_on(works(&opened, 2));
    drop(first);
    for n in 3..6 {
        second.block_on(works(&opened, n));
    }
}

#[test]
fn a_store_of_a_runtime_with_one_thread_works_from_everywhere() {
    let fake = server();
    let one = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let opened = one.block_on(store(&fake, ""));
    one.block_on(works(&opened, 1));
    many().block_on(works(&opened, 2));
    let blocking = opened.blocking();
    blocking.put(&key(3), bytes(10, 1).into()).expect("a put");
    assert_eq!(blocking.get(&key(3)).expect("a get").expect("a chunk").len(), 10);
}
