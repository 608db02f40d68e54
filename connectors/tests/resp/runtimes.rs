//! Calls from every kind of runtime, from none, and from a runtime that the call blocks.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use connectors::{Connector, MemoryObj, MemoryObjMut};
use tokio::runtime::{Builder, Runtime};

use kvconn_redis_server::RedisServer;

use crate::key;

const SIZE: usize = 3_000_000;

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn several() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs a future on this thread, without any runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Moves chunks that take many reads and writes, several at once.
async fn works(store: &Connector) {
    let items: Vec<_> = (0..10).map(|i| (key(i), MemoryObj::from(vec![i as u8; SIZE]))).collect();
    for answer in store.batched_put(&items).await {
        answer.unwrap();
    }
    let mut memory: Vec<_> = (0..10).map(|i| (key(i), MemoryObjMut::zeroed(SIZE))).collect();
    for answer in store.batched_get_into(&mut memory).await {
        assert_eq!(answer.unwrap(), Some(SIZE));
    }
    assert!(memory.iter().enumerate().all(|(i, (_, memory))| memory.iter().all(|b| *b == i as u8)));
    assert_eq!(store.get(&key(3)).await.unwrap().unwrap().len(), SIZE);
    assert!(store.exists(&key(3)).await.unwrap());
}

/// Runs the test on another thread, so that a hang is a failure.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (send, receive) = std::sync::mpsc::channel();
    let running = std::thread::spawn(move || {
        test();
        let _ = send.send(());
    });
    if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = receive.recv_timeout(Duration::from_secs(60)) {
        panic!("the test hangs");
    }
    running.join().expect("no panic");
}

#[test]
fn a_thread_without_a_runtime_can_call() {
    let server = RedisServer::start(&[]);
    let url = server.url("resp");
    ends(move || {
        for runtime in [single(), several()] {
            let store = runtime.block_on(connectors::open(&url)).unwrap();
            block_on(works(&store));
        }
    });
}

#[test]
fn a_call_that_blocks_its_own_runtime_ends() {
    let server = RedisServer::start(&[]);
    let url = server.url("resp");
    ends(move || {
        single().block_on(async {
            let store = connectors::open(&url).await.unwrap();
            store.put(&key(1), MemoryObj::from(vec![1; SIZE])).await.unwrap();
            // Blocks the only thread of the runtime that the store was opened on.
            let blocking = store.blocking();
            assert_eq!(blocking.get(&key(1)).unwrap().unwrap().len(), SIZE);
            assert!(blocking.exists(&key(1)).unwrap());
            works(&store).await;
        });
    });
}

#[test]
fn a_store_outlives_the_runtime_that_it_was_opened_on() {
    let server = RedisServer::start(&[]);
    let url = server.url("resp");
    ends(move || {
        for runtime in [single(), several()] {
            let store = runtime.block_on(connectors::open(&url)).unwrap();
            runtime.block_on(works(&store));
            drop(runtime);
            single().block_on(works(&store));
            several().block_on(works(&store));
            block_on(works(&store));
            store.blocking().close().unwrap();
        }
    });
}

#[test]
fn calls_that_are_not_repeated_outlive_the_runtime_too() {
    let server = RedisServer::start(&[]);
    let url = server.url("resp");
    ends(move || {
        let runtime = several();
        let store = runtime.block_on(async {
            let store = connectors::open(&url).await.unwrap();
            store.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
            assert!(store.exists(&key(1)).await.unwrap());
            store
        });
        drop(runtime);
        assert!(single().block_on(store.remove(&key(1))).unwrap());
    });
}

#[test]
fn two_runtimes_share_a_store() {
    let server = RedisServer::start(&[]);
    let url = format!("{}?connections=2", server.url("resp"));
    ends(move || {
        let opened_on = several();
        let store = opened_on.block_on(connectors::open(&url)).unwrap();
        let there = opened_on.spawn({
            let store = store.clone();
            async move { works(&store).await }
        });
        single().block_on(works(&store));
        opened_on.block_on(there).unwrap();
    });
}
