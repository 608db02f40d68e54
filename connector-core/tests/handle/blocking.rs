//! The blocking API, from every kind of thread.

use std::time::Duration;

use crate::layered::Made;
use crate::scripted::{CHUNK, LOST, Scripted, Step};
use connector_core::{
    BlockingConnector, CacheKey, Connector, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result,
};

const KEY: &str = "m@1@0@ff@half";
/// Long enough that the call must wait for another thread's timer.
const WHILE: Step = Step::Wait(Duration::from_millis(2));

fn key() -> CacheKey {
    KEY.parse().unwrap()
}

/// One of each operation, each of them waiting for a while.
fn all_operations(connector: &BlockingConnector, store: &Scripted) {
    store.then([WHILE; 4]);
    assert!(connector.exists(&key()).unwrap());
    assert_eq!(connector.get(&key()).unwrap().as_deref(), Some(CHUNK));
    connector.put(&key(), MemoryObj::from(vec![1])).unwrap();
    let mut memory = MemoryObjMut::zeroed(16);
    assert_eq!(connector.get_into(&key(), &mut memory).unwrap(), Some(CHUNK.len()));
    assert_eq!(&*memory, CHUNK);
    store.then([WHILE; 7]);
    assert!(connector.remove(&key()).unwrap());
    connector.ping().unwrap();
    assert_eq!(connector.batched_contains(&[key(), key()]).unwrap(), 2);
    assert_eq!(connector.batched_get(&[key()])[0].as_ref().unwrap().as_deref(), Some(CHUNK));
    let mut requests = [(key(), MemoryObjMut::zeroed(8)), (key(), MemoryObjMut::zeroed(2))];
    let answers = connector.batched_get_into(&mut requests);
    assert!(answers[0].is_ok() && answers[1].as_ref().is_err_and(|e| e.kind() == ErrorKind::SizeMismatch));
    assert!(!requests[1].1.is_taken(), "the memory is back after an error");
    let mut listed = connector.list("");
    assert_eq!(listed.next().unwrap().unwrap(), key());
    drop(listed);
    store.then([LOST]);
    let e = connector.get(&key()).unwrap_err();
    assert_eq!((e.kind(), e.operation(), e.key()), (ErrorKind::Unavailable, Some("get"), Some(KEY)));
    connector.close().unwrap();
    assert_eq!(connector.get(&key()).unwrap_err().kind(), ErrorKind::Closed);
}

fn made() -> (BlockingConnector, Scripted) {
    let store = Scripted::new([]);
    // A layer that needs a timer, which every thread must find.
    let layers = options!(timeout_ms: 60_000);
    let builder = connector_core::builder("made://x").adapter(Made(store.clone())).layers(layers);
    (builder.open_blocking().unwrap(), store)
}

#[test]
fn it_works_without_any_runtime() {
    let (connector, store) = made();
    all_operations(&connector, &store);
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_inside_a_runtime_of_one_thread() {
    let (connector, store) = made();
    all_operations(&connector, &store);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_inside_a_runtime_of_several_threads() {
    let (connector, store) = made();
    all_operations(&connector, &store);
}

#[test]
fn many_threads_share_one_connector() {
    let (connector, store) = made();
    store.then([WHILE; 64]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..8 {
                    assert_eq!(connector.get(&key()).unwrap().as_deref(), Some(CHUNK));
                }
            });
        }
    });
    assert_eq!(store.calls(), 128);
}

#[test]
fn a_store_is_opened_and_waited_for_without_any_runtime() {
    let url = "external://localhost:0/test.layers/?connector_name=Twice&retries=2&timeout_ms=60000";
    let connector = connector_core::builder(url).open_blocking().unwrap();
    assert!(connector.exists(&key()).unwrap(), "after two retries, which wait");
    assert_eq!(connector_core::builder("nothing://x").open_blocking().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_call_inside_a_call_on_the_thread_of_its_own_goes_on() {
    struct Outer(BlockingConnector);
    impl RemoteConnector for Outer {
        async fn exists(&self, key: &CacheKey) -> Result<bool> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.0.exists(key)
        }
        async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
            Ok(None)
        }
        async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
            Ok(())
        }
    }
    let (inner, store) = made();
    store.then([WHILE]);
    assert!(Connector::new("outer", Outer(inner)).blocking().exists(&key()).unwrap());
}

#[test]
fn a_panic_is_an_error_of_that_call_whenever_it_comes() {
    let (connector, store) = made();
    for steps in [[Step::Panic, WHILE], [WHILE, Step::Panic]] {
        store.then(steps);
        let errors: Vec<_> =
            [connector.get(&key()), connector.get(&key())].into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].kind(), errors[0].operation()), (ErrorKind::Other, Some("get")));
    }
}

#[test]
fn a_listing_that_nobody_wants_any_more_ends() {
    let (connector, store) = made();
    let mut listed = connector.list("");
    assert!(listed.next().unwrap().is_ok());
    drop(listed);
    // The listing held a handle of the store. Once it is dropped, this handle is the last.
    drop(connector);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while store.handles() > 1 {
        assert!(std::time::Instant::now() < deadline, "the listing still holds the connector");
        std::thread::yield_now();
    }
}
