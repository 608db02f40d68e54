//! The options of every connector while a store is opened, on tokio's paused clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connector_core::layer::LayerOptions;
use connector_core::{
    Connect, Connector, ConnectorAdapter, ConnectorContext, ContextBuilder, Error, ErrorKind, ErrorStatus,
    LMCacheEngineConfig, RemoteUrl, Result,
};
use tokio::time::Instant;

use crate::scripted::{LOST, Scripted, Step};

/// `opening://x`: an open that takes its next steps from a queue. `?then=URL` redirects, `?behind=URL` gives the store
/// behind. Keeps a handle of each store that it makes.
#[derive(Clone, Default)]
struct Opening {
    steps: Scripted,
    opens: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Connect>>>,
    store: Scripted,
    kept: Arc<Mutex<Option<Connector>>>,
}

impl ConnectorAdapter for Opening {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == "opening"
    }
    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        if let Some(url) = ctx.url().query("then") {
            return ctx.redirect(RemoteUrl::parse(url)?).await;
        }
        if let Some(url) = ctx.url().query("behind") {
            return ctx.open_behind(RemoteUrl::parse(url)?).await;
        }
        self.opens.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(ctx.connect());
        Connector::new("steps", self.steps.clone())
            .ping()
            .await
            .map_err(|e| Error::new(e.kind(), "away").with_status(e.status()))?;
        let connector = Connector::new("opening", self.store.clone());
        *self.kept.lock().unwrap() = Some(connector.clone());
        Ok(connector)
    }
}

impl Opening {
    fn with(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: Scripted::new(steps), ..Self::default() }
    }

    fn builder(&self, url: &str) -> ContextBuilder {
        connector_core::builder(url).adapter(self.clone())
    }

    fn opens(&self) -> usize {
        self.opens.load(Ordering::SeqCst)
    }
}

const HANGS: Step = Step::Wait(Duration::from_secs(3600));

fn encoded(url: &str) -> String {
    url.replace('?', "%3F").replace('&', "%26").replace(':', "%3A").replace('/', "%2F")
}

#[tokio::test(start_paused = true)]
async fn an_open_that_hangs_ends_within_timeout_ms() {
    for connect in ["eager", "lazy"] {
        let opening = Opening::with([HANGS]);
        let begun = Instant::now();
        let e = opening.builder(&format!("opening://x?timeout_ms=300&connect={connect}")).open().await.unwrap_err();
        assert_eq!((e.kind(), e.operation(), e.connector()), (ErrorKind::Timeout, Some("open"), Some("opening://")));
        // A lazy open has the time of the one attempt to connect in addition.
        let limit = if connect == "lazy" { 1300 } else { 300 };
        assert_eq!(begun.elapsed(), Duration::from_millis(limit), "{connect}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_may_have_a_limit_of_its_own() {
    for (options, limit) in [
        ("timeout_ms=300&open_timeout_ms=2000", 2000),
        ("timeout_ms=3000&open_timeout_ms=200", 200),
        ("open_timeout_ms=700&retries=0", 700),
        ("lookup_timeout_ms=100&open_timeout_ms=900", 900),
    ] {
        let opening = Opening::with([HANGS]);
        let begun = Instant::now();
        let e = opening.builder(&format!("opening://x?{options}")).open().await.unwrap_err();
        assert_eq!((e.kind(), begun.elapsed()), (ErrorKind::Timeout, Duration::from_millis(limit)), "{options}");
    }
    let opening = Opening::default();
    let connector = opening.builder("opening://x?open_timeout_ms=100").open().await.unwrap();
    opening.store.then([Step::Wait(Duration::from_secs(1))]);
    connector.ping().await.expect("a call has no limit");
    // A `timeout_ms` that wins is the limit of `open`, too.
    let mut layers = LayerOptions::default();
    layers.open_timeout_ms = Some(9000);
    let opening = Opening::with([HANGS]);
    let begun = Instant::now();
    opening.builder("opening://x?timeout_ms=300").layers(layers).open().await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn a_store_behind_another_keeps_its_limit_whatever_the_callers_limit() {
    let behind = encoded("opening://y?timeout_ms=300");
    let opening = Opening::default();
    let front = opening.builder(&format!("opening://x?timeout_ms=200&behind={behind}")).open().await.unwrap();
    opening.store.then([HANGS, HANGS]);
    for (connector, limit) in [(front.within(Duration::from_secs(5)), 300), (front.clone(), 200)] {
        let begun = Instant::now();
        assert_eq!(connector.ping().await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(begun.elapsed(), Duration::from_millis(limit));
    }
}

#[tokio::test(start_paused = true)]
async fn a_temporary_error_of_open_is_tried_again_and_then_spent() {
    let opening = Opening::with([LOST, HANGS]);
    opening.builder("opening://x?timeout_ms=300&retries=2").open().await.unwrap();
    assert_eq!(opening.opens(), 3);
    let opening = Opening::with([LOST; 9]);
    let e = opening.builder("opening://x?retries=2").open().await.unwrap_err();
    assert_eq!((e.kind(), e.status(), opening.opens()), (ErrorKind::Unavailable, ErrorStatus::Persistent, 3));
    // The store in front does not multiply the tries, and a lazy open has one.
    let opening = Opening::with([LOST; 9]);
    let behind = encoded("opening://y?retries=1");
    opening.builder(&format!("opening://x?retries=5&behind={behind}")).open().await.unwrap_err();
    assert_eq!(opening.opens(), 2);
    let opening = Opening::with([LOST; 9]);
    opening.builder("opening://x?retries=5&connect=lazy").open().await.unwrap_err();
    assert_eq!(opening.opens(), 1);
    let opening = Opening::with([Step::Fail(ErrorKind::Denied, false); 9]);
    opening.builder("opening://x?retries=5").open().await.unwrap_err();
    assert_eq!(opening.opens(), 1, "a permanent error is final");
}

#[tokio::test(start_paused = true)]
async fn the_url_that_an_adapter_chose_limits_the_open() {
    let then = encoded("opening://y?timeout_ms=5000&retries=0");
    let url = format!("opening://x?timeout_ms=100&retries=7&then={then}");
    let opening = Opening::with([Step::Wait(Duration::from_secs(2))]);
    opening.builder(&url).open().await.unwrap();
    let opening = Opening::with([HANGS, HANGS]);
    let begun = Instant::now();
    assert_eq!(opening.builder(&url).open().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!((begun.elapsed(), opening.opens()), (Duration::from_secs(5), 1));
}

#[tokio::test]
async fn connect_comes_from_the_url_the_configuration_the_store_in_front_and_code() {
    use Connect::{Eager, Lazy};
    let lazily = |url: &str| (url.to_owned(), Lazy);
    let config = |value: &str| {
        let mut config = LMCacheEngineConfig::default();
        config.set("extra_config", serde_json::json!({ "kvconn_connect": value })).unwrap();
        config
    };
    let (y, y_eager) = (encoded("opening://y"), encoded("opening://y?connect=eager"));
    for ((url, code), configured, wanted) in [
        (("opening://x".to_owned(), Eager), None, Eager),
        (lazily("opening://x"), None, Lazy),
        (lazily("opening://x?connect=eager"), Some("lazy"), Eager),
        (("opening://x".to_owned(), Eager), Some("lazy"), Lazy),
        (lazily(&format!("opening://x?behind={y}")), None, Lazy),
        (lazily(&format!("opening://x?behind={y_eager}")), None, Eager),
        ((format!("opening://x?connect=lazy&behind={y}"), Eager), None, Lazy),
        ((format!("opening://x?connect=lazy&then={y}"), Eager), None, Lazy),
    ] {
        let opening = Opening::default();
        let mut builder = opening.builder(&url).connect(code);
        if let Some(value) = configured {
            builder = builder.config(config(value));
        }
        builder.open().await.unwrap();
        assert_eq!(*opening.seen.lock().unwrap(), [wanted], "{url} {configured:?}");
    }
    let e = Opening::default().builder("opening://x?connect=later").open().await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("eager"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_an_adapter_opened_keeps_the_layers_of_the_adapters_url() {
    let y = encoded("opening://y");
    for url in ["opening://x?retries=2", &format!("opening://x?retries=2&behind={y}")] {
        let opening = Opening::default();
        let connector = opening.builder(url).open().await.unwrap();
        opening.store.then([LOST, LOST]);
        connector.ping().await.unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(opening.store.calls(), 3, "{url}");
        let kept = opening.kept.lock().unwrap().take().unwrap();
        connector.close().await.unwrap();
        assert!(kept.is_closed(), "a handle that the adapter kept is the same connector");
    }
}

#[tokio::test]
async fn a_connector_that_panics_while_it_is_opened_is_an_error_with_its_name() {
    struct Panics;
    impl ConnectorAdapter for Panics {
        fn can_parse(&self, _: &RemoteUrl) -> bool {
            true
        }
        async fn create_connector(&self, _: ConnectorContext) -> Result<Connector> {
            panic!("the test wants a panic")
        }
    }
    let e = connector_core::builder("panics://x").adapter(Panics).open().await.unwrap_err();
    assert_eq!((e.kind(), e.operation(), e.connector()), (ErrorKind::Other, Some("open"), Some("panics://")), "{e}");
    assert!(e.message().contains("the test wants a panic"), "{e}");
}
