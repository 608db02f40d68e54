//! Faults of one request of several that write or read a large chunk.

use connectors::ErrorKind::{Corrupt, SizeMismatch, Throttled, Timeout, Unavailable};
use connectors::{ChunkLayout, Result};
use kvconn_cloud_servers::{Fault, Operation, Then};

use crate::checked::{key, until, version, within};
use crate::store::{BUCKET, Store, connect, url};

/// Three parts.
const LARGE: usize = 11 << 20;

/// A store that writes and reads large chunks in parts.
async fn store() -> Store {
    let mut store = Store::open().await;
    let url = url(&store.fake, &store.fake.credentials(), "us-east-1");
    let url = url + "&part_bytes=5242880&parallel_from_bytes=5242881";
    store.connector = connect(&url, &store.pool).await.expect("the store opens");
    store
}

async fn put(store: &Store, version: u64) -> Result<()> {
    store.connector.put(&key(1), store.chunk(1, version, LARGE)).await
}

async fn memory_is_back(store: &Store) {
    until("the memory comes back", async || store.pool.stats().in_use == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_in_parts_that_fails_leaves_a_whole_chunk_and_no_upload() {
    within(async {
        let store = store().await;
        for operation in [Operation::CreateUpload, Operation::UploadPart, Operation::CompleteUpload] {
            for fault in [
                Fault::slow_down(),
                Fault::internal_error(),
                Fault::close(),
                Fault::stall(),
                Fault::early(0, Then::Close),
                Fault::early(100_000, Then::ReadOn),
                Fault::early(100_000, Then::Stall),
                Fault::lose_answer(),
            ] {
                put(&store, 1).await.expect("a put without a fault");
                let before = store.fake.unfinished_uploads(BUCKET).len();
                store.fake.always(fault.clone().on([operation]));
                let e = put(&store, 2).await.expect_err("the server fails");
                store.fake.clear_faults();
                assert!(matches!(e.kind(), Throttled | Unavailable | Timeout), "{operation:?}, {fault:?}: {e}");
                memory_is_back(&store).await;
                // The server may complete an upload and lose the answer.
                store.get(1).await.expect("a get").expect("the old chunk or the new one");
                // kvconn does not know of an upload whose answer was lost.
                if operation != Operation::CreateUpload {
                    let aborted = async || store.fake.unfinished_uploads(BUCKET).len() == before;
                    until(&format!("{operation:?}, {fault:?}: the upload is aborted"), aborted).await;
                }
            }
        }
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_in_parts_of_which_one_fails_is_an_error() {
    within(async {
        let store = store().await;
        put(&store, 1).await.expect("a put");
        // The first request has the first part's range, and each other request one of the rest.
        for before in 0..3 {
            for fault in [
                Fault::slow_down(),
                Fault::internal_error(),
                Fault::stall(),
                Fault::stall_in_body(100_000),
                Fault::cut_body(100_000),
                Fault::content_length(1),
            ] {
                for into in [false, true] {
                    store.fake.always(fault.clone().on([Operation::Get]).after(before));
                    let answer = match into {
                        false => store.get(1).await.map(drop),
                        true => {
                            let layout = ChunkLayout::binary(LARGE);
                            let mut dst = store.pool.allocate_now(&layout).expect("the pool has room");
                            store.connector.get_into(&key(1), &mut dst).await.map(drop)
                        }
                    };
                    store.fake.clear_faults();
                    let e = answer.expect_err("the server fails");
                    let kinds = [Throttled, Unavailable, Timeout, Corrupt, SizeMismatch];
                    assert!(kinds.contains(&e.kind()), "{before}, {fault:?}: {:?}: {e}", e.kind());
                    memory_is_back(&store).await;
                }
            }
        }
        let mut dst = store.pool.allocate_now(&ChunkLayout::binary(LARGE)).expect("the pool has room");
        assert_eq!(store.connector.get_into(&key(1), &mut dst).await.expect("a get"), Some(LARGE));
        assert_eq!(version(1, &dst), 1);
        drop(dst);
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_chunk_after_a_large_one_is_read_whole() {
    within(async {
        let store = store().await;
        put(&store, 1).await.expect("a put");
        assert_eq!(store.get(1).await.expect("a get"), Some(1));
        // kvconn now asks for the first part of each chunk.
        store.put(2, 1).await.expect("a put");
        assert_eq!(store.get(2).await.expect("a get"), Some(1));
        store.fake.always(Fault::content_length(-1).on([Operation::Get]));
        let e = store.get(2).await.expect_err("more bytes than announced");
        assert!(matches!(e.kind(), Corrupt | Unavailable), "{:?}: {e}", e.kind());
        store.fake.clear_faults();
        store.is_right().await;
    })
    .await;
}
