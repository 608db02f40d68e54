//! Stores that are open when their process or their runtime ends.

#[path = "controlled/mod.rs"]
mod controlled;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use connectors::runtime::{Spread, batch_threads, close_open_stores};
use connectors::{
    BlockingConnector, CacheKey, Connector, ConnectorAdapter, ConnectorContext, MemoryObj, RemoteUrl, Result,
};
use controlled::control;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn url(name: &str) -> String {
    format!("tiered://?front=memory%3A%2F%2F&back=controlled%3A%2F%2F{name}&mode=write_back")
}

fn open_and_put(name: &str, chunks: u32) -> BlockingConnector {
    let store = connectors::builder(&url(name)).open_blocking().unwrap();
    for n in 0..chunks {
        store.put(&key(n), MemoryObj::from(vec![n as u8; 1000])).unwrap();
    }
    store
}

fn has(name: &str, chunks: u32) -> bool {
    (0..chunks).all(|n| control(name).stored(&key(n)).is_some_and(|chunk| chunk[0] == n as u8))
}

/// `audited://x?behind=URL`: the store behind, behind a wrapper of its own.
struct Wrapped;

impl ConnectorAdapter for Wrapped {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == "wrapped"
    }
    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        let behind = ctx.open_behind(RemoteUrl::parse(ctx.url().query("behind").unwrap())?).await?;
        Ok(Connector::new("wrapped", behind))
    }
}

#[tokio::test]
async fn a_loss_is_on_stderr_also_after_several_threads_moved_a_batch() {
    assert!(batch_threads() > 1, "this test needs two CPUs, or KVCONN_THREADS=2");
    // `say` writes to stderr only without a subscriber of `tracing`.
    assert!(!tracing::dispatcher::has_been_set());
    let threads = Barrier::new(2);
    let mut batch = Spread::new(true);
    (0..2).for_each(|_| batch.push(1 << 20, async { threads.wait() }));
    while batch.next().await.is_some() {}
    assert!(!tracing::dispatcher::has_been_set());
}

/// One test, because it closes every store of this process.
#[test]
fn the_end_of_a_process_writes_every_buffer_within_one_patience_and_says_what_is_lost() {
    assert!(close_open_stores(Duration::from_secs(60)).is_empty(), "none is open");

    // Open, dropped without `close`, and behind another store.
    for name in ["open", "dropped", "behind"] {
        control(name).hold("put");
    }
    let open = open_and_put("open", 50);
    drop(open_and_put("dropped", 50));
    let behind = url("behind").replace('%', "%25").replace('&', "%26").replace('?', "%3F");
    let behind = connectors::builder(&format!("wrapped://x?behind={behind}")).adapter(Wrapped).open_blocking().unwrap();
    behind.put(&key(0), MemoryObj::from(vec![0; 1000])).unwrap();
    let release = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(50));
        for name in ["open", "dropped", "behind"] {
            control(name).release();
        }
    });
    let unclosed = close_open_stores(Duration::MAX);
    release.join().unwrap();
    assert!(unclosed.is_empty(), "{unclosed:?}");
    assert!(has("open", 50) && has("dropped", 50) && has("behind", 1));
    assert!(open.connector().is_closed() && behind.connector().is_closed());

    // Some fail and some hang: all of them together take one patience.
    for name in ["fails-a", "fails-b"] {
        control(name).fail("put");
    }
    for name in ["hangs-a", "hangs-b"] {
        control(name).hold("put");
    }
    let held = ["fails-a", "fails-b", "hangs-a", "hangs-b"].map(|name| open_and_put(name, 3));
    let fine = open_and_put("fine", 3);
    let begun = Instant::now();
    let mut unclosed = close_open_stores(Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    unclosed.sort_by(|a, b| a.store.cmp(&b.store));
    let lost: Vec<_> = unclosed.iter().map(|one| (one.chunks, one.bytes, one.error.is_some())).collect();
    assert_eq!(lost, [(3, 3000, true), (3, 3000, true), (3, 3000, false), (3, 3000, false)], "{unclosed:?}");
    assert!(unclosed[0].store.contains("fails-a"), "{unclosed:?}");
    assert!(unclosed[0].to_string().contains("3 chunks of 3000 bytes are lost"), "{}", unclosed[0]);
    assert!(has("fine", 3) && fine.connector().is_closed());
    assert_eq!(control("fine").count("close"), 1);
    ["fails-a", "fails-b"].iter().for_each(|name| control(name).heal());
    ["hangs-a", "hangs-b"].iter().for_each(|name| control(name).release());
    drop(held);

    let closed = open_and_put("closed", 3);
    closed.close().unwrap();
    assert!(close_open_stores(Duration::ZERO).is_empty(), "nothing is left to do, so no time is enough");
}
