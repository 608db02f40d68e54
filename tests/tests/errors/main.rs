//! The errors for bad input: the kind, the place, and the hint.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::path::Path;

use connector_core::{
    CacheKey, ChunkLayout, Connector, ConnectorContext, ConnectorOptions, Dtype, Error, ErrorKind, FromContext,
    KeyKind, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, LocalCpuBackend, MemoryFormat, MemoryObj, MemoryObjMut,
    RemoteConnector, RemoteUrl, Result, Shape, connector_options, external_connector,
};
use kvconn_tests::assert_says;
use serde_json::json;

mod fs;
mod keys;
mod memory;
mod names;
mod operations;
mod options;
mod plugins;
mod secrets;
mod urls;

/// A password that no error may show.
const SECRET: &str = "hunter2";

/// Options of the strict connector.
#[connector_options]
#[derive(Default)]
struct StrictOptions {
    /// The server's password.
    #[option(secret)]
    password: Option<u32>,
    /// Tells tenants apart.
    #[option(secret)]
    tenant_code: Option<String>,
    /// Connections to the server.
    connections: Option<u8>,
    /// A label.
    label: Option<String>,
    /// Sizes.
    sizes: Vec<u8>,
    /// The way of writing.
    mode: Mode,
    /// The store behind.
    back: Option<RemoteUrl>,
}

/// The way of writing.
#[connector_options]
#[derive(Default)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Fast,
    Safe,
}

impl ConnectorOptions for StrictOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "strict_";
}

/// Has a secret option and only the three required methods.
#[external_connector(
    module = "tests.strict",
    name = "StrictConnector",
    scheme = "strict",
    url = "strict://user:password@host:0/7",
    options = StrictOptions
)]
struct StrictConnector;

impl FromContext for StrictConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: StrictOptions = ctx.options()?;
        let _ = (options.password, options.tenant_code, options.connections, options.label);
        let _ = (options.sizes, options.mode, options.back);
        Ok(Self)
    }
}

impl RemoteConnector for StrictConnector {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

/// Opens each URL and checks the kind and the text of the error.
async fn assert_refused(table: &[(&str, ErrorKind, &[&str])]) {
    for (url, kind, parts) in table {
        assert_is(&connectors::open(url).await.unwrap_err(), *kind, parts);
    }
}

#[track_caller]
fn assert_is(e: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(e.kind(), kind, "{e}");
    assert_says(&e.to_string(), parts);
    assert!(!e.to_string().contains('\n'), "an error must be one line: {e}");
}

/// The error as Display and Debug, with the whole chain of causes.
fn all_of(e: &Error) -> String {
    let mut text = format!("{e} {e:?} {e:#?}");
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(&format!(" {c} {c:?}"));
        cause = c.source();
    }
    text
}

fn config(extra: &serde_json::Value) -> LMCacheEngineConfig {
    let extra = extra.as_object().unwrap().clone();
    extra.into_iter().fold(LMCacheEngineConfig::default(), |config, (key, value)| config.with_extra_config(key, value))
}

fn any_key() -> CacheKey {
    key_number(0)
}

fn key_number(n: u64) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@bfloat16").parse().unwrap()
}

async fn open_fs(folder: &Path) -> Connector {
    connectors::open(&format!("fs://{}", folder.display())).await.unwrap()
}

async fn first_of_list(store: &Connector) -> Result<CacheKey> {
    let mut list = store.list("");
    let first = std::future::poll_fn(|cx| list.as_mut().poll_next(cx)).await;
    first.expect("the list has an item")
}

fn errors_of<T>(answers: Vec<Result<T>>) -> Vec<Error> {
    answers.into_iter().map(|answer| answer.err().expect("a closed connector answers nothing")).collect()
}
