//! The metrics and spans of a call.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::layered::over;
use crate::scripted::{CHUNK, LOST, Scripted, Step};
use connector_core::{CacheKey, Connector, ErrorKind, MemoryObj, MemoryObjMut};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

fn key(name: &str) -> CacheKey {
    format!("{name}@1@0@ff@half").parse().unwrap()
}

/// Runs `work` under a recorder and gives every metric that is not 0: `name{label=value,..}`. On one thread, because
/// the recorder belongs to the thread.
fn recorded<F: Future<Output = ()>>(work: impl FnOnce() -> F) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work());
    });
    let mut found = BTreeMap::new();
    for (name, _, _, value) in snapshotter.snapshot().into_vec() {
        let mut labels: Vec<String> = name.key().labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        labels.sort();
        let value = match value {
            DebugValue::Counter(n) => n as f64,
            DebugValue::Gauge(n) => n.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        if value != 0.0 {
            found.insert(format!("{}{{{}}}", name.key().name(), labels.join(",")), value);
        }
    }
    found
}

#[test]
fn hits_misses_bytes_and_failures_are_counted_apart() {
    let seen = recorded(|| async {
        let store = Scripted::new([]);
        let connector = Connector::new("acme.kv/Acme", store.clone());
        assert!(connector.get(&key("there")).await.unwrap().is_some());
        assert!(connector.get(&key("missing")).await.unwrap().is_none());
        store.then([Step::Fail(ErrorKind::Corrupt, false)]);
        assert!(connector.get(&key("there")).await.is_err());
        connector.put(&key("there"), MemoryObj::from(vec![0; 100])).await.unwrap();
        let mut memory = MemoryObjMut::zeroed(10);
        connector.get_into(&key("there"), &mut memory).await.unwrap();
        assert_eq!(connector.batched_get(&[key("a"), key("missing"), key("c")]).await.len(), 3);
        assert_eq!(connector.batched_contains(&[key("a"), key("b")]).await.unwrap(), 2);
    });
    let of = |metric: &str, operation: &str, more: &str| {
        seen.get(&format!("{metric}{{connector=acme.kv/Acme,instance=,{more}operation={operation}}}")).copied()
    };
    let calls = |operation: &str, result: &str| {
        seen.get(&format!(
            "{}{{connector=acme.kv/Acme,instance=,operation={operation},result={result}}}",
            "kvconn_calls_total"
        ))
        .copied()
    };
    assert_eq!((calls("get", "ok"), calls("get", "error")), (Some(2.0), Some(1.0)));
    assert_eq!((of("kvconn_hits_total", "get", ""), of("kvconn_misses_total", "get", "")), (Some(1.0), Some(1.0)));
    assert_eq!(of("kvconn_errors_total", "get", "kind=corrupt,"), Some(1.0));
    assert_eq!(of("kvconn_bytes_total", "get", ""), Some(CHUNK.len() as f64));
    assert_eq!(of("kvconn_bytes_total", "put", ""), Some(100.0));
    assert_eq!(of("kvconn_bytes_total", "get_into", ""), Some(CHUNK.len() as f64));
    assert_eq!(of("kvconn_bytes_total", "batched_get", ""), Some(2.0 * CHUNK.len() as f64));
    assert_eq!(
        (of("kvconn_hits_total", "batched_get", ""), of("kvconn_misses_total", "batched_get", "")),
        (Some(2.0), Some(1.0))
    );
    assert_eq!(
        (of("kvconn_hits_total", "batched_contains", ""), of("kvconn_misses_total", "batched_contains", "")),
        (Some(2.0), None)
    );
    assert_eq!(of("kvconn_call_seconds", "get", ""), Some(3.0), "a failure takes time, too");
    assert_eq!(of("kvconn_calls_in_flight", "get", ""), None, "none is left");
    assert!(seen.keys().all(|k| !k.contains("there") && !k.contains('@')), "no label holds a key: {seen:?}");
}

#[test]
fn a_dropped_call_is_cancelled_and_no_longer_in_flight() {
    let seen = recorded(|| async {
        let connector = Connector::new("x", Scripted::new([Step::Wait(Duration::from_secs(9))]));
        let key = key("there");
        assert!(tokio::time::timeout(Duration::from_secs(1), connector.get(&key)).await.is_err());
    });
    assert_eq!(seen.get("kvconn_calls_total{connector=x,instance=,operation=get,result=cancelled}"), Some(&1.0));
    assert_eq!(seen.get("kvconn_calls_in_flight{connector=x,instance=,operation=get}"), None);
}

#[test]
fn calls_after_close_are_failures() {
    let seen = recorded(|| async {
        let connector = Connector::new("x", Scripted::new([]));
        connector.close().await.unwrap();
        assert!(connector.get(&key("there")).await.is_err());
    });
    assert_eq!(seen.get("kvconn_errors_total{connector=x,instance=,kind=closed,operation=get}"), Some(&1.0));
}

#[test]
fn retries_and_a_lost_store_are_counted() {
    let seen = recorded(|| async {
        let layers = options!(breaker_failures: 1, retries: 2);
        let connector = over(layers, &Scripted::new([LOST; 3])).await;
        assert!(connector.get(&key("there")).await.is_err());
        assert!(connector.get(&key("there")).await.is_err());
    });
    assert_eq!(seen.get("kvconn_retries_total{connector=test,instance=***,operation=get}"), Some(&2.0));
    assert_eq!(seen.get("kvconn_breaker_opened_total{connector=test,instance=***}"), Some(&1.0));
    assert_eq!(seen.get("kvconn_errors_total{connector=test,instance=***,kind=unavailable,operation=get}"), Some(&2.0));
}

#[test]
fn a_span_names_connector_operation_and_key() {
    thread_local! {
        static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    struct Here;
    impl std::io::Write for Here {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOGGED.with_borrow_mut(|log| log.extend(bytes));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    // For the whole process: a thread's subscriber can miss an event while other tests begin or end.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    subscriber.with_writer(|| Here).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = Connector::new("acme.kv/Acme", Scripted::new([Step::Fail(ErrorKind::Corrupt, false)]));
        assert!(connector.get(&key("there")).await.is_err());
    });
    let text = String::from_utf8(LOGGED.take()).unwrap();
    let wanted = r#"kvconn{connector="acme.kv/Acme" instance="" operation="get" key="there@1@0@ff@half"}: connector_core::call: failed"#;
    assert!(text.contains(wanted) && text.contains("kind=\"corrupt\""), "{text}");
}

/// The instances of the stores that counted a call.
fn instances(seen: &BTreeMap<String, f64>) -> Vec<&str> {
    let calls = seen.keys().filter(|name| name.starts_with("kvconn_calls_total"));
    calls.filter_map(|name| name.split_once("instance=")?.1.split_once(",operation").map(|(name, _)| name)).collect()
}

#[test]
fn two_stores_of_one_connector_have_their_own_instances() {
    let seen = recorded(|| async {
        let url = |url: &str| connector_core::builder(url).adapter(Keeper::default());
        let long = url("acme://h:1").plugin_name("é".repeat(100));
        for builder in [url("plugin://acme.left"), url("acme://user:hunter2@h:1"), long] {
            builder.open().await.unwrap().get(&key("there")).await.unwrap();
        }
    });
    // No linked connector says which parts of `acme://` are not secret.
    assert_eq!(instances(&seen), ["***", "acme.left", &format!("{}..", "é".repeat(64))], "{seen:?}");
}

/// Makes a store and keeps a handle to it.
#[derive(Clone, Default)]
struct Keeper(std::sync::Arc<std::sync::Mutex<Option<Connector>>>);

impl connector_core::ConnectorAdapter for Keeper {
    fn can_parse(&self, _: &connector_core::RemoteUrl) -> bool {
        true
    }
    async fn create_connector(&self, _: connector_core::ConnectorContext) -> connector_core::Result<Connector> {
        let connector = Connector::new("kept", Scripted::new([]));
        *self.0.lock().unwrap() = Some(connector.clone());
        Ok(connector)
    }
}

#[test]
fn a_call_counts_once_although_the_adapter_kept_a_handle() {
    let seen = recorded(|| async {
        let keeper = Keeper::default();
        let connector = connector_core::builder("any://x").adapter(keeper.clone()).open().await.unwrap();
        connector.get(&key("there")).await.unwrap();
        assert!(keeper.0.lock().unwrap().is_some());
    });
    assert_eq!(seen["kvconn_calls_total{connector=kept,instance=***,operation=get,result=ok}"], 1.0);
    assert_eq!(seen["kvconn_hits_total{connector=kept,instance=***,operation=get}"], 1.0);
}
