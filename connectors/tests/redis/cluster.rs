//! Clusters, in which the header and the bytes of a chunk lie on two nodes. No command names both.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use connector_core::conformance::{Kit, Outcome};
use connectors::{
    CacheKey, ChunkAllocator, ChunkLayout, Connector, Dtype, ErrorKind, LMCacheMetadata, LayerGroup, LocalCpuBackend,
    MemoryObj, MemoryObjMut, PoolAllocator,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use kvconn_redis_server::{RedisCluster, RedisServer};

use super::servers::commands;
use super::{header, key, keys, kv, kv_bytes, metadata, open};

/// The checks of stores that write a chunk in one step.
const NOT_IN_PARTS: [&str; 2] = ["two_writers_leave_one_whole_value", "readers_see_whole_values"];

async fn the_contract_holds(cluster: RedisCluster, options: &str) {
    let url = format!("{}{options}", cluster.url("redis-cluster"));
    let open = move |backend: LocalCpuBackend| connectors::builder(&url).local_cpu_backend(backend).open();
    let report = Kit::new(open).run().await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
    let in_parts = |why: &Outcome| matches!(why, Outcome::Skipped(why) if why == "the store puts chunks in parts");
    let skipped: Vec<_> =
        report.checks.iter().filter(|check| in_parts(&check.outcome)).map(|check| check.name).collect();
    assert_eq!(skipped, NOT_IN_PARTS);
    for i in 0..cluster.len() {
        let two_names = ["mset", "multi", "exec", "eval"];
        let ran: Vec<_> = commands(cluster.node(i)).into_iter().map(|(name, _)| name).collect();
        assert!(ran.iter().all(|name| !two_names.contains(&&**name)), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_one_node() {
    the_contract_holds(RedisCluster::start(1, 0, &[]), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_three_nodes_in_a_namespace() {
    the_contract_holds(RedisCluster::start(3, 0, &[]), "?namespace=team-a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_with_a_time_to_live() {
    the_contract_holds(RedisCluster::start(3, 0, &[]), "?ttl_sec=1000&refresh_ttl=true").await;
}

/// The node of a name.
fn owner<'a>(cluster: &'a RedisCluster, name: &str) -> &'a RedisServer {
    cluster.node(cluster.owner(slot(cluster, name)))
}

fn slot(cluster: &RedisCluster, name: &str) -> u16 {
    let slot = cluster.node(0).cli(&["CLUSTER", "KEYSLOT", name]).integer().expect("a slot");
    slot.try_into().expect("a slot")
}

/// Writes or removes a value as another client does.
fn set(cluster: &RedisCluster, name: &str, value: &[u8]) {
    owner(cluster, name).cli(&[b"SET", name.as_bytes(), value]);
}

fn del(cluster: &RedisCluster, name: &str) {
    owner(cluster, name).cli(&["DEL", name]);
}

fn names(cluster: &RedisCluster) -> Vec<String> {
    let mut names: Vec<_> = cluster.masters().iter().flat_map(|&i| super::names(cluster.node(i))).collect();
    names.sort();
    names
}

/// Keys whose two values lie on two nodes.
fn apart(cluster: &RedisCluster) -> impl Iterator<Item = CacheKey> {
    let node = |name: &str| cluster.owner(slot(cluster, name));
    (0..).map(key).filter(move |key| node(&metadata(key)) != node(&kv_bytes(key)))
}

/// Runs one call of each kind.
async fn reads(store: &Connector, key: &CacheKey) -> Vec<Result<Option<MemoryObj>, ErrorKind>> {
    let mut into = [(key.clone(), MemoryObjMut::zeroed(10_000)), (key.clone(), MemoryObjMut::zeroed(10_000))];
    let got = store.get(key).await;
    let batch = store.batched_get(std::slice::from_ref(key)).await.pop().expect("an answer");
    let [one, two] = &mut into;
    let len = store.get_into(&one.0, &mut one.1).await;
    let lens = store.batched_get_into(std::slice::from_mut(two)).await.pop().expect("an answer");
    let into = [(len, one), (lens, two)].map(|(len, to)| {
        len.map(|len| len.map(|_| MemoryObj::from_vec(to.1.to_vec(), to.1.layout().clone()).unwrap()))
    });
    [got, batch].into_iter().chain(into).map(|read| read.map_err(|e| e.kind())).collect()
}

#[tokio::test]
async fn the_names_and_values_are_lmcaches() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = open(&cluster.url("redis-cluster")).await;
    let key = apart(&cluster).next().expect("a key");
    store.put(&key, kv(3, 1)).await.unwrap();
    assert_eq!(names(&cluster), [kv_bytes(&key), metadata(&key)]);
    let value = |name: &str| owner(&cluster, name).cli(&["GET", name]).bytes().map(<[u8]>::to_vec);
    assert_eq!(value(&metadata(&key)), Some(header(&kv(3, 1))));
    assert_eq!(value(&kv_bytes(&key)).as_deref(), Some(&*kv(3, 1)));
    // LMCache's put.
    set(&cluster, &kv_bytes(&key), &kv(5, 2));
    set(&cluster, &metadata(&key), &header(&kv(5, 2)));
    assert_eq!(reads(&store, &key).await, vec![Ok(Some(kv(5, 2))); 4]);
    assert!(store.exists(&key).await.unwrap());
    assert!(store.remove(&key).await.unwrap());
    assert!(!store.remove(&key).await.unwrap());
    assert_eq!(names(&cluster), [""; 0]);
}

#[tokio::test]
async fn a_get_asks_each_node_once_and_a_put_of_a_new_key_three_times() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = open(&cluster.url("redis-cluster")).await;
    let items: Vec<_> = (0..20).map(|n| (key(n), kv(5, n as usize))).collect();
    let ran = || {
        let mut all = BTreeSet::new();
        for i in 0..3 {
            for (name, n) in commands(cluster.node(i)) {
                let before = all.iter().find(|(other, _)| *other == name).cloned();
                all.insert((name, n + before.as_ref().map_or(0, |(_, n)| *n)));
                before.map(|before| all.remove(&before));
            }
            cluster.node(i).cli(&["CONFIG", "RESETSTAT"]);
        }
        all.retain(|(name, _)| !name.starts_with("cluster") && !matches!(&**name, "keys" | "ping"));
        all
    };
    ran();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    assert_eq!(ran(), [("mget".into(), 20), ("set".into(), 40)].into());
    let all: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
    let chunks = store.batched_get(&all).await;
    assert!(chunks.into_iter().zip(&items).all(|(got, (_, put))| got.unwrap().as_ref() == Some(put)));
    assert_eq!(ran(), [("get".into(), 20), ("mget".into(), 20)].into());
    assert_eq!(store.batched_contains(&all).await.unwrap(), 20);
    assert_eq!(ran(), [("mget".into(), 20), ("strlen".into(), 20)].into());
    assert!(store.batched_remove(&all).await.iter().all(|gone| matches!(gone, Ok(true))));
    assert_eq!(ran(), [("unlink".into(), 40)].into());
}

#[tokio::test]
async fn a_half_is_a_miss_and_goes_when_it_is_seen_again_after_the_grace() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let patient = open(&cluster.url("redis-cluster")).await;
    let store = open(&format!("{}?orphan_grace_sec=1", cluster.url("redis-cluster"))).await;
    let pairs: Vec<_> = apart(&cluster).take(2).collect();
    let (without_bytes, without_header) = (&pairs[0], &pairs[1]);
    for key in &pairs {
        store.put(key, kv(5, 1)).await.unwrap();
    }
    del(&cluster, &kv_bytes(without_bytes));
    del(&cluster, &metadata(without_header));
    for key in &pairs {
        assert_eq!(reads(&patient, key).await, vec![Ok(None); 4]);
        assert!(!store.exists(key).await.unwrap());
        assert_eq!(store.get(key).await.unwrap(), None);
    }
    let seen = Instant::now();
    assert!(keys(&store, "").await.is_empty());
    assert_eq!(names(&cluster).len(), 2, "a writer may be about to write the other half");
    tokio::time::sleep_until((seen + Duration::from_millis(1010)).into()).await;
    for key in &pairs {
        assert_eq!(store.get(key).await.unwrap(), None);
    }
    assert_eq!(names(&cluster), [""; 0]);
}

#[tokio::test]
async fn a_half_that_changed_is_a_new_half() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = open(&format!("{}?orphan_grace_sec=1", cluster.url("redis-cluster"))).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    del(&cluster, &kv_bytes(&key(1)));
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    tokio::time::sleep(Duration::from_millis(1010)).await;
    // Another writer's first step.
    del(&cluster, &metadata(&key(1)));
    set(&cluster, &kv_bytes(&key(1)), &kv(5, 2));
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    set(&cluster, &metadata(&key(1)), &header(&kv(5, 2)));
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 2)));
}

#[tokio::test]
async fn a_torn_chunk_or_one_of_the_wrong_type_is_corrupt_until_the_next_put() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = open(&cluster.url("redis-cluster")).await;
    for break_it in 0..4 {
        store.put(&key(1), kv(3, 1)).await.unwrap();
        match break_it {
            0 => set(&cluster, &kv_bytes(&key(1)), b"short"),
            1 => set(&cluster, &metadata(&key(1)), b"not a header"),
            _ => {
                let name = if break_it == 2 { kv_bytes(&key(1)) } else { metadata(&key(1)) };
                del(&cluster, &name);
                owner(&cluster, &name).cli(&["RPUSH", &name, "x"]);
            }
        }
        assert_eq!(reads(&store, &key(1)).await, vec![Err(ErrorKind::Corrupt); 4], "{break_it}");
        assert!(!store.exists(&key(1)).await.unwrap(), "{break_it}");
        assert_eq!(names(&cluster).len(), 2, "{break_it}");
        // Another layout of the same length.
        let other = kv(3, 2).with_layout(ChunkLayout::binary(kv(3, 2).len())).unwrap();
        store.put(&key(1), other.clone()).await.unwrap();
        assert_eq!(reads(&store, &key(1)).await, vec![Ok(Some(other)); 4], "{break_it}");
    }
}

#[tokio::test]
async fn a_put_that_a_full_node_refuses_leaves_the_old_chunk_or_none() {
    let cluster = RedisCluster::start(1, 0, &["--maxmemory-policy", "noeviction"]);
    let store = open(&cluster.url("redis-cluster")).await;
    for (key, new) in [(key(1), kv(3, 2)), (key(2), kv(4, 2))] {
        cluster.node(0).cli(&["CONFIG", "SET", "maxmemory", "0"]);
        store.put(&key, kv(3, 1)).await.unwrap();
        cluster.node(0).cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let e = store.put(&key, new).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::StoreFull, "{e}");
    }
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(3, 1)), "the header is the same");
    assert_eq!(store.get(&key(2)).await.unwrap(), None, "the old header does not fit");
}

#[tokio::test]
async fn a_put_whose_headers_node_is_gone_writes_nothing() {
    let mut cluster = RedisCluster::start(3, 0, &["--cluster-require-full-coverage", "no"]);
    let url = format!("{}?connect_timeout_ms=1000&io_timeout_ms=1000", cluster.url("redis-cluster"));
    let store = open(&url).await;
    let key = apart(&cluster).next().expect("a key");
    let (gone, bytes_node) =
        (cluster.owner(slot(&cluster, &metadata(&key))), cluster.owner(slot(&cluster, &kv_bytes(&key))));
    cluster.kill(gone);
    assert!(store.put(&key, kv(3, 1)).await.unwrap_err().is_temporary());
    assert_eq!(super::names(cluster.node(bytes_node)), [""; 0]);
    let e = store.ping().await.unwrap_err();
    assert!(e.to_string().contains(&cluster.node(gone).port().to_string()), "{e}");
}

#[tokio::test]
async fn a_url_of_one_server_names_the_url_of_its_cluster() {
    let cluster = RedisCluster::start(1, 0, &[]);
    let store = open(&cluster.node(0).url("redis")).await;
    for e in [
        store.put(&key(1), kv(3, 1)).await.unwrap_err(),
        store.get(&key(1)).await.unwrap_err(),
        store.remove(&key(1)).await.unwrap_err(),
    ] {
        let hint = e.hint().unwrap_or_default();
        assert!(e.kind() == ErrorKind::Unsupported && hint.contains("redis-cluster://"), "{e} {hint}");
        assert!(hint.contains("cluster=true"), "{hint}");
    }
}

#[tokio::test]
async fn a_listing_has_the_keys_of_all_nodes_once_also_while_slots_move() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = open(&cluster.url("redis-cluster")).await;
    let items: Vec<_> = (0..60).map(|n| (key(n), kv(1, n as usize))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let mut expected: Vec<_> = items.iter().map(|(key, _)| key.to_string()).collect();
    expected.sort();
    assert_eq!(keys(&store, "").await, expected);

    // The slots of the node that is scanned last move to the one that was scanned first.
    let node = |key: &CacheKey| cluster.owner(slot(&cluster, &kv_bytes(key)));
    let mut listed: Vec<CacheKey> = Vec::new();
    let mut entries = store.list("");
    let first = loop {
        let key = entries.next().await.expect("three nodes have keys").unwrap();
        listed.push(key);
        if node(&listed[0]) != node(&listed[listed.len() - 1]) {
            break node(&listed[0]);
        }
    };
    let second = node(&listed[listed.len() - 1]);
    let last = (0..3).find(|i| ![first, second].contains(i)).expect("a third node");
    let slots: BTreeSet<_> =
        items.iter().filter(|(key, _)| node(key) == last).map(|(key, _)| slot(&cluster, &kv_bytes(key))).collect();
    slots.into_iter().for_each(|slot| cluster.move_slot(slot, last, first));
    listed.extend(entries.map(Result::unwrap).collect::<Vec<_>>().await);
    let mut listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
    listed.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_dead_node_does_not_hide_the_keys_of_the_others() {
    let mut cluster = RedisCluster::start(3, 0, &["--cluster-require-full-coverage", "no"]);
    let url = format!("{}?connect_timeout_ms=1000&io_timeout_ms=1000", cluster.url("redis-cluster"));
    let store = open(&url).await;
    let all: Vec<_> = (0..30).map(key).collect();
    for key in &all {
        store.put(key, kv(1, 1)).await.unwrap();
    }
    let is_on_2 = |name: String| cluster.owner(slot(&cluster, &name)) == 2;
    let expected: BTreeSet<_> =
        all.into_iter().filter(|key| !is_on_2(metadata(key)) && !is_on_2(kv_bytes(key))).collect();
    cluster.kill(2);
    let mut listed: Vec<_> = store.list("").collect().await;
    let e = listed.pop().expect("an error ends the listing").unwrap_err();
    assert!(e.to_string().contains(&cluster.node(2).port().to_string()), "{e}");
    // A key whose header lies on the dead node is an error, too.
    assert_eq!(listed.into_iter().filter_map(Result::ok).collect::<BTreeSet<_>>(), expected);
}

/// An allocator that may wait. Its memory keeps the layout that it was made for, as LMCache's does.
struct Waiting(PoolAllocator);

impl ChunkAllocator for Waiting {
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, connectors::Result<MemoryObjMut>> {
        self.0.allocate(layout)
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, connectors::Result<Vec<MemoryObjMut>>> {
        self.0.allocate_many(layouts)
    }
}

#[tokio::test]
async fn memory_that_keeps_its_layout_holds_chunks_of_that_layout() {
    let cluster = RedisCluster::start(3, 0, &[]);
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = LMCacheMetadata::new("facebook/opt-125m", 1, 0, 5, &[group]).unwrap();
    // A full chunk, a shorter one, and one of a full chunk's length with another layout.
    let other = kv(5, 3).with_layout(ChunkLayout::binary(kv(5, 3).len())).unwrap();
    let items = [(key(1), kv(5, 1)), (key(2), kv(3, 2)), (key(3), other)];
    for metadata in [None, Some(metadata)] {
        let backend = LocalCpuBackend::with_allocator(Waiting(PoolAllocator::new(1 << 20)));
        let builder = connectors::builder(&cluster.url("redis-cluster")).local_cpu_backend(backend);
        let builder = match metadata {
            Some(metadata) => builder.metadata(metadata),
            None => builder,
        };
        let store = builder.open().await.unwrap();
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
        for (key, chunk) in &items {
            assert_eq!(store.get(key).await.unwrap().as_ref(), Some(chunk));
        }
        let chunks = store.batched_get(&[key(1), key(3), key(4), key(2)]).await;
        let chunks: Vec<_> = chunks.into_iter().map(Result::unwrap).collect();
        let expected = [&items[0], &items[2], &items[1]].map(|(_, chunk)| Some(chunk.clone()));
        assert_eq!(chunks, [expected[0].clone(), expected[1].clone(), None, expected[2].clone()]);
        del(&cluster, &super::metadata(&key(1)));
        assert_eq!(store.get(&key(1)).await.unwrap(), None, "bytes without a header need no memory");
    }
}
