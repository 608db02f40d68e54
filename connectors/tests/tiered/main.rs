//! `tiered://`: shared reads, and a front and a back that stay consistent.

#[path = "../controlled/mod.rs"]
mod controlled;
mod failing;
mod overlapping;
mod sharing;
mod write_back;

use std::sync::Arc;
use std::time::Duration;

use connectors::{CacheKey, Connector, LMCacheEngineConfig, MemoryObj};
use controlled::{Control, control};
use futures::StreamExt;
use tokio::time::sleep;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn chunk(seed: u8) -> MemoryObj {
    sized(seed, 1000)
}

fn sized(seed: u8, len: usize) -> MemoryObj {
    MemoryObj::from((0..len).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<_>>())
}

struct Tiered {
    connector: Connector,
    front: Arc<Control>,
    back: Arc<Control>,
}

async fn open(name: &str, options: &str) -> Tiered {
    let url = format!("tiered://?front=controlled%3A%2F%2F{name}-front&back=controlled%3A%2F%2F{name}-back{options}");
    let connector = connectors::open(&url).await.unwrap();
    Tiered { connector, front: control(&format!("{name}-front")), back: control(&format!("{name}-back")) }
}

const WRITE_BACK: &str = "&mode=write_back";

/// Runs all tasks until they wait.
async fn settle() {
    // Paused time advances only when every task waits.
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn memory_before_fs_works_under_every_url_and_the_list_has_no_key_twice() {
    let dir = tempfile::tempdir().unwrap();
    let fs = format!("fs%3A%2F%2F{}", dir.path().join("kv").display().to_string().replace('/', "%2F"));
    let query = format!("front=memory%3A%2F%2F%3Fcapacity%3D3000&back={fs}");
    let config = LMCacheEngineConfig::default()
        .with_extra_config("remote_storage_plugin.tiered.one.front", "memory://?capacity=3000")
        .with_extra_config("remote_storage_plugin.tiered.one.back", format!("fs://{}", dir.path().join("kv").display()))
        .with_extra_config("remote_storage_plugin.tiered.one.mode", "write_back");
    for url in [
        format!("tiered://?{query}"),
        format!("tiered:///?{query}"),
        format!("tiered://h:1/?{query}&mode=write_back&write_back_bytes=100000"),
        format!("external://h:0/kvconn.tiered/?connector_name=TieredConnector&{query}"),
        "plugin://tiered.one".to_owned(),
    ] {
        let connector = connectors::builder(&url).config(config.clone()).open().await.unwrap();
        for n in 0..10 {
            connector.put(&key(n), chunk(n as u8)).await.unwrap();
        }
        let mut listed: Vec<CacheKey> = connector.list("").map(Result::unwrap).collect().await;
        listed.sort();
        assert_eq!(listed, (0..10).map(key).collect::<Vec<_>>(), "{url}");
        for n in (0..10).rev() {
            assert_eq!(connector.get(&key(n)).await.unwrap().unwrap(), chunk(n as u8), "{url}");
        }
        let gone = connector.batched_remove(&(0..11).map(key).collect::<Vec<_>>()).await;
        assert_eq!(gone.into_iter().filter(|g| *g.as_ref().unwrap()).count(), 10);
        assert_eq!(connector.get(&key(0)).await.unwrap(), None);
        connector.close().await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("kv")).unwrap().count(), 0);
    }
}

/// The controlled stores have no sizes of their own, so a size shows where it comes from.
#[tokio::test]
async fn a_listing_gives_each_chunk_once_with_the_size_of_the_tier_that_has_it() {
    let Tiered { connector, front, back } = open("sizes", WRITE_BACK).await;
    back.hold("put");
    for n in 0..3 {
        connector.put(&key(n), sized(n as u8, 1000 + n as usize)).await.unwrap();
    }
    back.store(&key(1), chunk(1));
    back.store(&key(9), chunk(9));
    front.store(&key(8), chunk(8));
    let page = connector.list_page("", None, 10).await.unwrap();
    let found: Vec<_> = page.entries.into_iter().map(|entry| (entry.key, entry.size)).collect();
    let buffered = (0..3).map(|n| (key(n), Some(1000 + u64::from(n))));
    assert_eq!(found, buffered.chain([(key(8), None), (key(9), None)]).collect::<Vec<_>>());
    back.release();
    connector.close().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let fs = format!("fs%3A%2F%2F{}", dir.path().display().to_string().replace('/', "%2F"));
    let connector = connectors::open(&format!("tiered://?front=memory%3A%2F%2F&back={fs}")).await.unwrap();
    connector.put(&key(1), chunk(1)).await.unwrap();
    let page = connector.list_page("", None, 10).await.unwrap();
    // The file has a header, too.
    assert_eq!(page.entries.into_iter().map(|entry| entry.size).collect::<Vec<_>>(), [Some(1000)]);
}

#[tokio::test]
async fn a_long_lookup_stops_soon_after_its_first_miss_and_a_prefix_reads_only_the_run() {
    let Tiered { connector, front, back } = open("lookup", "").await;
    let keys: Vec<_> = (0..10_000).map(key).collect();
    for n in 0..5 {
        back.store(&key(n), chunk(n as u8));
    }
    front.store(&key(1), chunk(1));
    assert_eq!(connector.batched_contains(&keys).await.unwrap(), 5);
    // The controlled stores take a batch of lookups key by key.
    assert_eq!((front.count("exists"), back.count("exists")), (256, 255));
    let expected: Vec<_> = (0..5).map(|n| chunk(n as u8)).collect();
    assert_eq!(connector.get_prefix(&keys).await.unwrap(), expected);
    assert_eq!((back.count("batched_get 4"), back.count("batched_get")), (1, 1));
}

#[tokio::test]
async fn the_error_of_a_wrong_url_names_the_option_and_hides_the_password() {
    for (url, says) in [
        ("tiered://", "does not name its `front`"),
        ("tiered://?front=memory%3A%2F%2F", "does not name its `back`"),
        ("tiered://?front=x&back=memory%3A%2F%2F", "option `front`"),
        ("tiered://?front=memory%3A%2F%2F&back=redis%3A%2F%2Fu%3Ahunter2%40h%3A99999", "option `back`"),
        ("tiered://?front=memory%3A%2F%2F&back=memory%3A%2F%2F&mode=write_around", "write_through"),
        ("tiered://?frond=memory%3A%2F%2F", "did you mean `front`?"),
    ] {
        let e = connectors::open(url).await.unwrap_err();
        assert!(e.to_string().contains(says) && !e.to_string().contains("hunter2"), "{url}: {e}");
    }
}

#[tokio::test]
async fn a_batch_is_removed_with_one_call_of_each_store() {
    for (name, options) in [("batch-remove", ""), ("batch-remove-wb", WRITE_BACK)] {
        let Tiered { connector, front, back } = open(name, options).await;
        let items: Vec<_> = (0..20).map(|n| (key(n), chunk(n as u8))).collect();
        assert!(connector.batched_put(&items).await.iter().all(Result::is_ok));
        let batches = usize::from(options.is_empty());
        assert_eq!(front.count("batched_remove"), batches, "a batch of puts is one call, too");
        assert_eq!((front.count("batched_put 20"), back.count("batched_put 20")), (batches, batches));
        // Only in the front, only in the back, in both, in none, and twice.
        back.chunks.lock().unwrap().remove(&key(0));
        front.chunks.lock().unwrap().remove(&key(1));
        let keys = [0, 1, 2, 30, 2].map(key);
        let (in_front, in_back) = (front.count("batched_remove"), back.count("batched_remove"));
        let removed: Vec<bool> = connector.batched_remove(&keys).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(removed, [true, true, true, false, false]);
        assert_eq!((front.count("batched_remove"), back.count("batched_remove")), (in_front + 1, in_back + 1));
        assert!((0..3).all(|n| front.stored(&key(n)).is_none() && back.stored(&key(n)).is_none()));
        assert_eq!(connector.get(&key(5)).await.unwrap(), Some(chunk(5)));
        // The back's error is the answer of every key, and no read gives an old chunk of the front.
        back.fail("batched_remove");
        assert!(connector.batched_remove(&[key(5), key(6)]).await.iter().all(Result::is_err));
        assert_eq!(front.stored(&key(5)), None);
        connector.close().await.unwrap();
    }
}
