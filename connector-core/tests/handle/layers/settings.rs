use super::*;

/// `script://`: a store that fails twice with a temporary error.
struct Adapter;

impl ConnectorAdapter for Adapter {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == "script"
    }
    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        ctx.redirect(RemoteUrl::parse(&ctx.url().expose().replace("script://x", ENTRY))?).await
    }
}

const ENTRY: &str = "external://localhost:0/test.layers/";

/// Fails twice with a temporary error.
#[connector_core::external_connector(module = "test.layers", name = "Twice")]
struct Twice(Scripted);

impl connector_core::FromContext for Twice {
    async fn from_context(_: ConnectorContext) -> Result<Self> {
        Ok(Self(Scripted::new([LOST, LOST])))
    }
}

impl RemoteConnector for Twice {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }
}

fn config(extra: serde_json::Value) -> LMCacheEngineConfig {
    let mut config = LMCacheEngineConfig::default();
    config.set("extra_config", extra).unwrap();
    config
}

fn url(query: &str) -> String {
    format!("{ENTRY}?connector_name=Twice{query}")
}

#[tokio::test(start_paused = true)]
async fn url_configuration_plugin_and_code_set_the_same_options() {
    let retries = options!(retries: 2);
    let none = serde_json::json!({});
    let plugin = serde_json::json!({
        "remote_storage_plugin.p.module_path": "test.layers",
        "remote_storage_plugin.p.class_name": "Twice",
        "remote_storage_plugin.p.retries": 2,
    });
    for (builder, enough) in [
        (connector_core::builder(&url("")), false),
        (connector_core::builder(&url("&retries=1")), false),
        (connector_core::builder(&url("&retries=2")), true),
        (connector_core::builder(&url("")).config(config(serde_json::json!({"kvconn_retries": "2"}))), true),
        (connector_core::builder("plugin://p").config(config(plugin)), true),
        (connector_core::builder(&url("")).layers(retries.clone()), true),
        (connector_core::builder("script://x?connector_name=Twice&retries=2").adapter(Adapter), true),
        // The URL wins.
        (connector_core::builder(&url("&retries=0")).config(config(none)).layers(retries), false),
    ] {
        let connector = builder.clone().open().await.unwrap();
        assert_eq!(connector.get(&key()).await.is_ok(), enough, "{builder:?}");
    }
}

/// `made://`: an adapter that makes its connector without the registry.
struct Maker;

impl ConnectorAdapter for Maker {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == "made"
    }
    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        Ok(Connector::new(ctx.connector_name(), Scripted::new([LOST, LOST])))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_its_adapter_made_has_layers_too() {
    for (url, enough) in [("made://x?retries=2", true), ("made://x?retries=1", false)] {
        let connector = connector_core::builder(url).adapter(Maker).open().await.unwrap();
        assert_eq!(connector.get(&key()).await.is_ok(), enough, "{url}");
    }
}

#[tokio::test]
async fn a_wrong_value_or_name_says_where_it_stands() {
    let open = |query: &str| {
        let url = url(query);
        async move { connector_core::builder(&url).open().await.unwrap_err().to_string() }
    };
    let e = open("&timeout_ms=soon").await;
    assert!(e.contains("`timeout_ms`"), "{e}");
    let e = open("&timeout_ms=0").await;
    assert!(e.contains("remove it"), "{e}");
    let e = connector_core::builder("made://x?timeout_ms=0").adapter(Maker).open().await.unwrap_err();
    assert_eq!((e.kind(), e.operation()), (ErrorKind::InvalidOption, Some("open")));
    let extra = config(serde_json::json!({"kvconn_retires": 2}));
    let e = connector_core::builder(&url("")).config(extra).open().await.unwrap_err().to_string();
    assert!(e.contains("did you mean `kvconn_retries`?"), "{e}");
}
