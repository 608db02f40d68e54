//! `panics://`: a connector with a bug in each of its operations.

use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result,
    external_connector,
};
use futures::stream::{self, StreamExt};

connector_python::wheel!(faulty);

/// How many keys a listing gives before it panics.
const LISTED: u64 = 700;

/// Panics. `panics://open` panics when it is opened.
#[external_connector(module = "faulty", name = "PanickingConnector", scheme = "panics")]
pub struct PanickingConnector;

fn bug() -> ! {
    panic!("a bug in the connector")
}

impl FromContext for PanickingConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        if ctx.url().host() == Some("open") {
            bug();
        }
        Ok(Self)
    }
}

impl RemoteConnector for PanickingConnector {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_list().with_ping().with_remove()
    }

    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        bug()
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        bug()
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        bug()
    }

    async fn remove(&self, _key: &CacheKey) -> Result<bool> {
        bug()
    }

    async fn ping(&self) -> Result<()> {
        bug()
    }

    fn list<'a>(&'a self, _prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let key = |i: u64| format!("m@1@0@{:x}@half", i + 1).parse();
        stream::iter((0..=LISTED).map(move |i| if i < LISTED { key(i) } else { bug() })).boxed()
    }
}
