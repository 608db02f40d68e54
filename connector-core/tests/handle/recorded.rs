//! kvconn's own recorder, and its page.

use std::collections::BTreeMap;

use crate::layered::over;
use crate::scripted::{LOST, Scripted};
use connector_core::observe::{self, BUCKETS, Family, MOST_SAMPLES, MetricKind, OTHER, Recorder, Value};
use connector_core::{CacheKey, Connector, MemoryObj, PoolAllocator};

fn key(name: &str) -> CacheKey {
    format!("{name}@1@0@ff@half").parse().unwrap()
}

/// Runs `work` under a recorder. On one thread, because the recorder belongs to the thread.
fn recorded<F: Future<Output = ()>>(work: impl FnOnce() -> F) -> BTreeMap<String, Family> {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work());
    });
    recorder.snapshot().into_iter().map(|family| (family.name.clone(), family)).collect()
}

/// The value of the sample with these labels.
#[track_caller]
fn value<'a>(families: &'a BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> &'a Value {
    let has =
        |sample: &&observe::Sample| labels.iter().all(|(k, v)| sample.labels.iter().any(|(l, w)| l == k && w == v));
    let mut found = families[name].samples.iter().filter(has);
    match (found.next(), found.next()) {
        (Some(sample), None) => &sample.value,
        _ => panic!("not one sample of {name} with {labels:?}: {:?}", families[name]),
    }
}

#[test]
fn every_metric_is_in_the_list_with_its_labels() {
    let families = recorded(|| async {
        let connector = Connector::new("acme.kv/Acme", Scripted::new([]));
        connector.put(&key("there"), MemoryObj::from(vec![0; 100])).await.unwrap();
        connector.get(&key("there")).await.unwrap();
        connector.get(&key("missing")).await.unwrap();
        let layers = options!(breaker_failures: 1, retries: 2);
        let connector = over(layers, &Scripted::new([LOST; 3])).await;
        assert!(connector.get(&key("there")).await.is_err());
    });
    let listed = observe::metrics();
    assert!(listed.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, and each once");
    for metric in &listed {
        let family = &families[metric.name];
        assert_eq!((family.kind, family.help.as_str()), (metric.kind, metric.help));
        assert!(metric.help.ends_with('.'), "{metric:?}");
        assert_eq!(metric.name.ends_with("_total"), metric.kind == MetricKind::Counter, "{metric:?}");
        assert!(metric.unit.is_empty() || metric.name.trim_end_matches("_total").ends_with(metric.unit), "{metric:?}");
        let mut labels = metric.labels.to_vec();
        labels.sort_unstable();
        for sample in &family.samples {
            assert_eq!(
                sample.labels.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                labels,
                "{}",
                metric.name
            );
        }
        assert!(!family.samples.is_empty(), "this test records each metric of every connector: {}", metric.name);
    }
    assert_eq!(families.len(), listed.len(), "no metric is recorded that the list lacks: {:?}", families.keys());
    let got = [("connector", "acme.kv/Acme"), ("operation", "get")];
    assert_eq!(value(&families, "kvconn_misses_total", &got), &Value::Number(1.0));
    assert_eq!(value(&families, "kvconn_calls_in_flight", &got), &Value::Number(0.0));
    let Value::Histogram { counts, .. } = value(&families, "kvconn_call_seconds", &got) else { panic!("a histogram") };
    assert_eq!((counts.iter().sum::<u64>(), counts.len()), (2, BUCKETS.len() + 1));
    assert_eq!(value(&families, "kvconn_bytes_total", &[("operation", "put")]), &Value::Number(100.0));
}

#[test]
fn the_breaker_is_open_until_the_store_is_back_or_closed() {
    let families = recorded(|| async {
        let connector = over(options!(breaker_failures: 1), &Scripted::new([LOST])).await;
        assert!(connector.get(&key("there")).await.is_err());
        std::mem::forget(connector);
    });
    assert_eq!(value(&families, "kvconn_breaker_open", &[("connector", "test")]), &Value::Number(1.0));
    let families = recorded(|| async {
        let connector = over(options!(breaker_failures: 1), &Scripted::new([LOST])).await;
        assert!(connector.get(&key("there")).await.is_err());
        drop(connector);
    });
    assert_eq!(value(&families, "kvconn_breaker_open", &[("connector", "test")]), &Value::Number(0.0));
}

#[test]
fn each_store_with_the_same_labels_counts_as_lost() {
    let families = recorded(|| async {
        let open = async || over(options!(breaker_failures: 1), &Scripted::new([LOST])).await;
        let (first, second) = (open().await, open().await);
        assert!(first.get(&key("there")).await.is_err() && second.get(&key("there")).await.is_err());
        drop(first);
        std::mem::forget(second);
    });
    assert_eq!(value(&families, "kvconn_breaker_open", &[("connector", "test")]), &Value::Number(1.0));
}

#[test]
fn names_are_those_that_prometheus_reads() {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        metrics::describe_counter!("acme.hits-total", "Hits.");
        metrics::counter!("acme.hits-total", "store.name" => "a.b", "9" => "x").increment(1);
        metrics::gauge!("9:é").set(1.0);
    });
    let families: Vec<_> = recorder.snapshot().into_iter().filter(|family| !family.name.starts_with("kv")).collect();
    let text = observe::page(&families);
    let wanted = "# HELP _:_ \n# TYPE _:_ gauge\n_:_ 1\n# HELP acme_hits_total Hits.\n# TYPE acme_hits_total counter\n\
                  acme_hits_total{_=\"x\",store_name=\"a.b\"} 1\n";
    assert_eq!(text, wanted);
}

#[test]
fn an_observation_is_in_the_first_bucket_whose_bound_is_not_below_it() {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        let histogram = metrics::histogram!("acme_seconds");
        for bound in BUCKETS {
            histogram.record(bound);
        }
        histogram.record(0.0);
        histogram.record(1e9);
    });
    let families: BTreeMap<_, _> =
        recorder.snapshot().into_iter().map(|family| (family.name.clone(), family)).collect();
    let Value::Histogram { counts, sum } = value(&families, "acme_seconds", &[]) else { panic!("a histogram") };
    let mut wanted = [1; BUCKETS.len() + 1];
    wanted[0] = 2;
    assert_eq!(counts, &wanted);
    assert!((sum - 1e9 - BUCKETS.iter().sum::<f64>()).abs() < 1e-3, "{sum}");
}

#[test]
fn samples_beyond_the_bound_are_added_up_in_one() {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        for n in 0..2 * MOST_SAMPLES {
            metrics::counter!("acme_total", "store" => n.to_string()).increment(1);
        }
        metrics::counter!("acme_total", "store" => "0").increment(1);
    });
    let families: BTreeMap<_, _> =
        recorder.snapshot().into_iter().map(|family| (family.name.clone(), family)).collect();
    assert_eq!(families["acme_total"].samples.len(), MOST_SAMPLES + 1);
    assert_eq!(value(&families, "acme_total", &[("store", OTHER)]), &Value::Number(MOST_SAMPLES as f64));
    assert_eq!(value(&families, "acme_total", &[("store", "0")]), &Value::Number(2.0));
}

#[test]
fn a_name_with_two_kinds_keeps_the_first_one() {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!("acme").increment(1);
        metrics::gauge!("acme").set(9.0);
        metrics::histogram!("acme").record(9.0);
    });
    let families: BTreeMap<_, _> =
        recorder.snapshot().into_iter().map(|family| (family.name.clone(), family)).collect();
    assert_eq!(families["acme"].kind, MetricKind::Counter);
    assert_eq!(value(&families, "acme", &[]), &Value::Number(1.0));
}

#[test]
fn the_page_has_prometheus_format() {
    let recorder = Recorder::new();
    metrics::with_local_recorder(&recorder, || {
        metrics::describe_counter!("acme_total", "Calls\nof \\acme.");
        metrics::counter!("acme_total", "store" => "a\"b\\c\nd", "at" => "x").increment(3);
        metrics::gauge!("acme_now").set(1.5);
        metrics::histogram!("acme_seconds", "at" => "x").record(0.3);
        metrics::histogram!("acme_seconds", "at" => "x").record(0.00005);
    });
    let families: Vec<_> = recorder.snapshot().into_iter().filter(|family| family.name.starts_with("acme")).collect();
    let text = observe::page(&families);
    let wanted = [
        "# HELP acme_now ",
        "# TYPE acme_now gauge",
        "acme_now 1.5",
        "# HELP acme_seconds ",
        "# TYPE acme_seconds histogram",
        r#"acme_seconds_bucket{at="x",le="0.0001"} 1"#,
        r#"acme_seconds_bucket{at="x",le="0.25"} 1"#,
        r#"acme_seconds_bucket{at="x",le="0.5"} 2"#,
        r#"acme_seconds_bucket{at="x",le="60"} 2"#,
        r#"acme_seconds_bucket{at="x",le="+Inf"} 2"#,
        r#"acme_seconds_sum{at="x"} 0.30005"#,
        r#"acme_seconds_count{at="x"} 2"#,
        r"# HELP acme_total Calls\nof \\acme.",
        "# TYPE acme_total counter",
        r#"acme_total{at="x",store="a\"b\\c\nd"} 3"#,
    ];
    let mut lines = text.lines();
    for line in wanted {
        assert!(lines.any(|found| found == line), "{line} is not where it should be in\n{text}");
    }
    assert_eq!(text.lines().count(), 2 + 1 + 2 + BUCKETS.len() + 1 + 2 + 2 + 1);
}

#[test]
fn pools_count_while_they_live() {
    let total = |name: &str| match value(&recorded(|| async {}), name, &[]) {
        Value::Number(bytes) => *bytes,
        other => panic!("{other:?}"),
    };
    let pool = PoolAllocator::new(123 << 40);
    assert!(total("kvconn_pool_capacity_bytes") >= (123_u64 << 40) as f64);
    drop(pool);
    assert!(total("kvconn_pool_capacity_bytes") < (123_u64 << 40) as f64);
}
