//! The location of a store is the same for every form of its URL.

use std::sync::Mutex;

use connector_core::{
    CacheKey, ConnectorContext, ErrorKind, FromContext, HostPort, LMCacheEngineConfig, Location, MemoryObj,
    RemoteConnector, Result, builder, connector_options, external_connector,
};

/// The location of the last store that was opened.
static LAST: Mutex<Option<Location>> = Mutex::new(None);

macro_rules! connector {
    ($(#[$attribute:meta])* $type:ident) => {
        $(#[$attribute])*
        struct $type;

        impl FromContext for $type {
            async fn from_context(ctx: ConnectorContext) -> Result<Self> {
                *LAST.lock().unwrap() = Some(ctx.location());
                Ok(Self)
            }
        }

        impl RemoteConnector for $type {
            async fn exists(&self, _: &CacheKey) -> Result<bool> {
                Ok(false)
            }
            async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
                Ok(None)
            }
            async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
                Ok(())
            }
        }
    };
}

/// An option of the connector's own, with the name of the general one.
#[connector_options]
#[derive(Default)]
struct PathOptions {
    /// A path.
    path: Option<String>,
}

impl connector_core::ConnectorOptions for PathOptions {}

connector!(
    /// Reads its query itself.
    #[external_connector(module = "test.location", name = "Place", scheme = "place", url = "place://user@host:1/dir")]
    Place
);
connector!(
    /// Has no path.
    #[external_connector(module = "test.location", name = "Flat", scheme = "flat", url = "flat://host:1")]
    Flat
);
connector!(
    /// Has an option `path`.
    #[external_connector(module = "test.location", name = "Own", scheme = "own", url = "own:///dir", options = PathOptions)]
    Own
);

async fn location(url: &str) -> Result<Location> {
    let config = LMCacheEngineConfig::default()
        .with_extra_config("remote_storage_plugin.p.module_path", "test.location")
        .with_extra_config("remote_storage_plugin.p.class_name", "Place")
        .with_extra_config("remote_storage_plugin.p.x", 1)
        .with_extra_config("remote_storage_plugin.p.y", true)
        .with_extra_config("remote_storage_plugin.p.timeout_ms", 500)
        .with_extra_config("remote_storage_plugin.p.other.z", "of another plugin")
        .with_extra_config("remote_storage_plugin.q.url", "place://h:1/dir?x=1");
    builder(url).config(config).open().await?;
    Ok(LAST.lock().unwrap().take().expect("the connector has seen its location"))
}

/// The tests share [`LAST`], so they are one.
#[tokio::test]
async fn a_location_has_the_connectors_own_parts_of_every_form_of_url() {
    let external = "external://u:p@H:1/test.location/?connector_name=Place&path=/a/..%2Fb&x=1&timeout_ms=500";
    for url in ["place://u:p@h:1/a/../b?x=1&timeout_ms=500", external] {
        let l = location(url).await.unwrap();
        assert_eq!(l.hosts(), [HostPort { host: "h".into(), port: Some(1) }], "{url}");
        assert_eq!((l.host(), l.port(), l.require_host_port().unwrap()), (Some("h"), Some(1), ("h", 1)), "{url}");
        assert_eq!((l.username(), l.password(), l.path()), (Some("u"), Some("p"), "/a/../b"), "{url}");
        assert_eq!((l.options().collect::<Vec<_>>(), l.option("x")), (vec![("x", "1")], Some("1")), "{url}");
        assert!(!format!("{l} {l:?}").contains("u:p"), "{l:?}");
    }
    assert_eq!(location("place://h:1").await.unwrap().scheme(), Some("place"));
    assert_eq!(location(external).await.unwrap().scheme(), None);

    let plugin = location("plugin://p").await.unwrap();
    assert_eq!((plugin.scheme(), plugin.host(), plugin.path()), (None, None, ""));
    assert_eq!((plugin.option("x"), plugin.option("y"), plugin.options().count()), (Some("1"), Some("true"), 2));
    let both = location("plugin://p?x=2").await.unwrap();
    let mut options: Vec<_> = both.options().collect();
    options.sort_unstable();
    assert_eq!((both.option("x"), options), (Some("2"), vec![("x", "2"), ("y", "true")]), "the URL wins");
    let named = location("plugin://q").await.unwrap();
    assert_eq!(
        (named.scheme(), named.host(), named.path(), named.option("x")),
        (Some("place"), Some("h"), "/dir", Some("1"))
    );

    // Port 0 means no port, in every form.
    for url in ["place://h:0", "external://h:0/test.location/?connector_name=Place"] {
        let l = location(url).await.unwrap();
        assert_eq!((l.host(), l.port(), l.path()), (Some("h"), None, ""), "{url}");
        assert!(l.require_host_port().unwrap_err().to_string().contains("has no port"), "{url}");
    }
    let e = plugin.require_host_port().unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidUrl && e.to_string().contains("`remote_storage_plugin.<name>.url`"), "{e}");

    // A connector's own option of that name.
    let own = location("external://h:0/test.location/?connector_name=Own&path=x").await.unwrap();
    assert_eq!((own.path(), own.option("path")), ("", Some("x")));
}

#[tokio::test]
async fn a_path_that_the_store_does_not_use_is_an_error() {
    for (url, words) in [
        ("external://h:1/test.location/?connector_name=Flat&path=/dir", "has a path, which this store does not use"),
        (
            "external://h:1/test.location/dir/?connector_name=Place",
            "the connector's own path as the option `path=/dir`",
        ),
    ] {
        let e = builder(url).open().await.unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidUrl && e.to_string().contains(words), "{url}: {e}");
    }
}
