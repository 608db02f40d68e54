//! Faults that end by themselves, or by a change outside of kvconn: throttling, a lost server, expired credentials, a wrong clock.

use std::path::Path;

use connectors::ErrorKind::{Corrupt, Denied, InvalidOption, Throttled, Timeout, Unavailable};
use connectors::{CacheKey, Connector, MemoryObjMut, PoolAllocator, Result};
use futures::TryStreamExt;
use futures::future::join_all;
use jiff::SignedDuration;
use kvconn_cloud_servers::{Credentials, FakeS3, Fault, Operation};

use crate::checked::{chunk, key, until, version, within};
use crate::store::{BUCKET, LEN, Store, connect, url};

/// A connector with further options.
async fn with_options(fake: &FakeS3, options: &str) -> Connector {
    let url = format!("{}&{options}", url(fake, &fake.credentials(), "us-east-1"));
    connect(&url, &PoolAllocator::new(64 << 20)).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

/// A server with one stored chunk, and a connector with further options.
async fn stored(options: &str) -> (FakeS3, Connector) {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let connector = with_options(&fake, options).await;
    connector.put(&key(1), chunk(1, 1, LEN)).await.expect("a put without a fault");
    (fake, connector)
}

async fn get(connector: &Connector, n: u64) -> Result<Option<u64>> {
    Ok(connector.get(&key(n)).await?.map(|chunk| version(n, &chunk)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_outlast_a_server_that_throttles_and_the_breaker_stays_closed() {
    within(async {
        let options = "retries=3&retry_min_delay_ms=1&retry_max_delay_ms=2&breaker_failures=1";
        let (fake, connector) = stored(options).await;
        for fault in [Fault::slow_down(), Fault::too_many_requests("1")] {
            fake.next(fault.clone().times(3));
            assert_eq!(get(&connector, 1).await.expect("the fourth try"), Some(1));
            // The breaker does not count a throttled call.
            fake.next(fault.times(4));
            let e = get(&connector, 1).await.expect_err("three retries are too few");
            assert!(e.kind() == Throttled && e.is_temporary(), "{e}");
            assert!(connector.exists(&key(1)).await.expect("the breaker is closed"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_carries_the_time_that_the_server_asks_for() {
    within(async {
        let (fake, connector) = stored("").await;
        fake.always(Fault::too_many_requests("7"));
        let seconds = |e: &connectors::Error| e.retry_after().map(|wait| wait.as_secs());
        assert_eq!(seconds(&get(&connector, 1).await.unwrap_err()), Some(7));
        assert_eq!(seconds(&connector.exists(&key(1)).await.unwrap_err()), Some(7));
        assert_eq!(seconds(&connector.put(&key(1), chunk(1, 2, LEN)).await.unwrap_err()), Some(7));
        let answers = connector.batched_remove(&[key(1), key(2)]).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|e| seconds(e) == Some(7))), "{answers:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_cut_or_of_another_length_is_read_again() {
    within(async {
        let (fake, connector) = stored("retries=1&retry_min_delay_ms=1").await;
        for fault in [Fault::cut_body(LEN / 2), Fault::content_length(9), Fault::close(), Fault::stall_in_body(99)] {
            fake.next(fault.on([Operation::Get]));
            assert_eq!(get(&connector, 1).await.expect("the second try"), Some(1));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_changed_on_the_way_is_corrupt_if_the_object_has_a_checksum() {
    within(async {
        // Also of an object that is read in parts.
        for options in ["checksum=true", "checksum=true&part_bytes=5242880&parallel_from_bytes=5242881"] {
            let (fake, connector) = stored(options).await;
            let len = if options.contains("part_bytes") { 12 << 20 } else { LEN };
            connector.put(&key(1), chunk(1, 1, len)).await.expect("a put without a fault");
            let mut memory = MemoryObjMut::zeroed(len);
            assert_eq!(connector.get_into(&key(1), &mut memory).await.expect("the same bytes"), Some(len));
            fake.next(Fault::flip_byte(1000).on([Operation::Get]));
            let e = connector.get_into(&key(1), &mut memory).await.expect_err("another byte");
            assert!(e.kind() == Corrupt && e.is_temporary() && e.to_string().contains("CRC32C"), "{e}");
            assert_eq!(connector.get_into(&key(1), &mut memory).await.expect("the same bytes"), Some(len));
            assert_eq!(version(1, &memory), 1);
        }
        // A retry reads the chunk again. An object of another program has no checksum.
        let (fake, connector) = stored("checksum=true&retries=1&retry_min_delay_ms=1").await;
        fake.next(Fault::flip_byte(1000).on([Operation::Get]));
        assert_eq!(get(&connector, 1).await.expect("the second try"), Some(1));
        fake.put_object(BUCKET, &format!("chunks/{}", key(2)), chunk(2, 5, LEN).to_vec(), &[]);
        assert_eq!(get(&connector, 2).await.expect("no checksum"), Some(5));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_closes_when_the_server_is_back() {
    within(async {
        let (mut fake, connector) = stored("breaker_failures=1&min_reconnect_interval=0.05").await;
        fake.stop();
        get(&connector, 1).await.expect_err("the server is away");
        let refused = get(&connector, 1).await.expect_err("the breaker is open");
        assert!(refused.to_string().contains("the store is lost"), "{refused}");
        fake.resume();
        until("the breaker closes", async || get(&connector, 1).await.is_ok_and(|found| found == Some(1))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_is_not_remembered() {
    within(async {
        let store = Store::open().await;
        for n in 1..4 {
            assert_eq!(store.get(n).await.expect("a miss"), None);
            assert!(!store.connector.exists(&key(n)).await.expect("a miss"));
            assert_eq!(store.connector.batched_contains(&[key(n)]).await.expect("a miss"), 0);
            // Another program writes the chunk.
            let name = format!("chunks/{}", key(n));
            store.fake.put_object(BUCKET, &name, chunk(n, 7, LEN).to_vec(), &[]);
            assert_eq!(store.get(n).await.expect("a hit"), Some(7));
            assert!(store.connector.exists(&key(n)).await.expect("a hit"));
            assert_eq!(store.connector.batched_contains(&[key(n)]).await.expect("a hit"), 1);
        }
    })
    .await;
}

/// Credentials in files, as the options name them.
fn write_files(folder: &Path, credentials: &Credentials) {
    let token = credentials.session_token.as_deref().unwrap_or_default();
    let parts = [("id", &*credentials.access_key_id), ("secret", &*credentials.secret_access_key), ("token", token)];
    for (name, text) in parts {
        std::fs::write(folder.join(name), text).expect("a file of the test");
    }
}

/// A server, and a connector to it with temporary credentials in files.
async fn with_temporary_credentials(folder: &Path) -> (FakeS3, Connector) {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let first = Credentials::new("ASIAFIRST", "first-secret", Some("first-token"));
    fake.accept(first.clone());
    write_files(folder, &first);
    let shown = folder.display();
    let url = format!(
        "s3://{BUCKET}/chunks?endpoint={}&region=us-east-1&access_key_id_file={shown}/id&\
         secret_access_key_file={shown}/secret&session_token_file={shown}/token",
        fake.endpoint()
    );
    let connector = connect(&url, &PoolAllocator::new(64 << 20)).await.unwrap_or_else(|e| panic!("it opens: {e}"));
    (fake, connector)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_meet_expired_credentials_share_one_renewal() {
    within(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (fake, connector) = with_temporary_credentials(folder.path()).await;
        let numbers: Vec<u64> = (1..9).collect();
        for &n in &numbers {
            connector.put(&key(n), chunk(n, 1, LEN)).await.expect("the first credentials are good");
        }
        let second = Credentials::new("ASIASECOND", "second-secret", Some("second-token"));
        fake.accept(second.clone());
        write_files(folder.path(), &second);
        fake.expire("ASIAFIRST");

        let gets = join_all(numbers.iter().map(|&n| get(&connector, n)));
        let puts = join_all(numbers.iter().map(|&n| {
            let connector = &connector;
            async move { connector.put(&key(n + 100), chunk(n + 100, 1, LEN)).await }
        }));
        let keys: Vec<CacheKey> = numbers.iter().map(|&n| key(n)).collect();
        let lookups = connector.batched_exists(&keys);
        let listed = connector.list("").try_collect::<Vec<_>>();
        let (gets, puts, lookups, listed) = futures::join!(gets, puts, lookups, listed);
        assert!(gets.iter().all(|got| matches!(got, Ok(Some(1)))), "{gets:?}");
        assert!(puts.iter().all(Result::is_ok), "{puts:?}");
        assert!(lookups.iter().all(|found| matches!(found, Ok(true))), "{lookups:?}");
        assert!(listed.is_ok_and(|listed| listed.len() >= numbers.len()));
        let removed = connector.batched_remove(&keys).await;
        assert!(removed.iter().all(|removed| matches!(removed, Ok(true))), "{removed:?}");
        // A second renewal within a second does not happen, so one served all calls.
        let refused = fake.requests().iter().filter(|request| request.status == Some(400)).count();
        assert!(refused > 0, "the server refused the old token");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_and_a_ping_renew_credentials_too() {
    within(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (fake, connector) = with_temporary_credentials(folder.path()).await;
        for (n, id) in [(1, "ASIAFIRST"), (2, "ASIASECOND")] {
            connector.put(&key(n), chunk(n, 1, LEN)).await.expect("the credentials are good");
            let next = Credentials::new(&format!("ASIA{n}"), "next-secret", Some("next-token"));
            let next = if n == 1 { Credentials { access_key_id: "ASIASECOND".to_owned(), ..next } } else { next };
            fake.accept(next.clone());
            write_files(folder.path(), &next);
            fake.expire(id);
            // Attempts to renew are a second apart.
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
            match n {
                1 => connector.ping().await.expect("a ping with fresh credentials"),
                _ => assert!(connector.remove(&key(n)).await.expect("a removal with fresh credentials")),
            }
        }
    })
    .await;
}

/// An operator replaces the key, or only its secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_keys_are_read_from_their_files() {
    within(async {
        for next in ["ASIASECOND", "ASIAFIRST"] {
            let folder = tempfile::tempdir().expect("a folder");
            let (fake, connector) = with_temporary_credentials(folder.path()).await;
            connector.put(&key(1), chunk(1, 1, LEN)).await.expect("the first key is good");
            let second = Credentials::new(next, "second-secret", Some("second-token"));
            fake.forget("ASIAFIRST");
            fake.accept(second.clone());
            write_files(folder.path(), &second);
            assert!(connector.exists(&key(1)).await.expect("the second key is good"), "{next}");
            assert!(matches!(get(&connector, 1).await, Ok(Some(1))), "{next}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_on_where_its_credentials_expired() {
    within(async {
        let store = Store::open().await;
        for n in 1..8 {
            store.put(n, 1).await.expect("a put without a fault");
        }
        store.fake.set_page(3);
        store.fake.next(Fault::delay(std::time::Duration::ZERO).on([Operation::List]));
        store.fake.next(Fault::expired_token().on([Operation::List]));
        let listed: Vec<CacheKey> = store.connector.list("").try_collect().await.expect("fresh credentials");
        let mut numbers: Vec<String> = listed.iter().map(ToString::to_string).collect();
        numbers.sort();
        assert_eq!(numbers, (1..8).map(|n| key(n).to_string()).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_stay_expired_are_an_error_that_says_what_to_do() {
    within(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (fake, connector) = with_temporary_credentials(folder.path()).await;
        fake.expire("ASIAFIRST");
        let get = connector.get(&key(1)).await.map(drop);
        let exists = connector.exists(&key(1)).await.map(drop);
        let put = connector.put(&key(1), chunk(1, 1, LEN)).await;
        for answer in [get, exists, put] {
            let e = answer.expect_err("the token has expired");
            assert!(e.kind() == Denied && e.to_string().contains("`session_token_file`"), "{e}");
            let text = format!("{e:?}");
            assert!(!["ASIAFIRST", "first-secret", "first-token"].iter().any(|s| text.contains(s)), "{text}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_says_as_much_as_a_get_about_regions_clocks_and_buckets() {
    within(async {
        let store = Store::open().await;
        store.fake.set_region("eu-west-1");
        let e = store.connector.exists(&key(1)).await.expect_err("the region is another one");
        assert!(e.kind() == InvalidOption && e.to_string().contains("`region=eu-west-1`"), "{e}");
        store.fake.set_region("us-east-1");
        store.fake.set_clock(SignedDuration::from_mins(40));
        let e = store.connector.exists(&key(1)).await.expect_err("the clocks differ");
        assert!(e.kind() == Denied && e.to_string().contains("behind the server's"), "{e}");
        store.fake.set_clock(SignedDuration::ZERO);
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_endpoint_is_an_error_that_says_what_to_change() {
    within(async {
        let mut fake = FakeS3::start();
        fake.bucket(BUCKET);
        let plain = url(&fake, &fake.credentials(), "us-east-1");
        let open = async |url: String| connect(&url, &PoolAllocator::new(1 << 20)).await.map(drop);
        let secure = plain.replace("endpoint=http:", "endpoint=https:") + "&connect_timeout_ms=300";
        let e = open(secure).await.expect_err("no TLS there");
        assert!(e.kind() == Timeout && e.to_string().contains("starts with `http://`"), "{e}");
        fake.stop();
        let e = open(plain).await.expect_err("the server is away");
        assert!(e.kind() == Unavailable && e.is_temporary(), "{e}");
        assert!(e.to_string().contains("whether the server runs"), "{e}");
    })
    .await;
}
