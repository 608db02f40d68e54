//! Several layers as one, and layers whose types are not known.

use std::fmt;

use super::Layer;
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, DynConnector, RemoteConnector};
use crate::key::CacheKey;
use crate::{BoxStream, Result};

impl<C: RemoteConnector, A: Layer<B::Layered>, B: Layer<C>> Layer<C> for (A, B) {
    type Layered = A::Layered;

    fn layer(self, inner: C) -> Self::Layered {
        self.0.layer(self.1.layer(inner))
    }
}

impl<C: RemoteConnector, L1, L2, L3> Layer<C> for (L1, L2, L3)
where
    L3: Layer<C>,
    L2: Layer<L3::Layered>,
    L1: Layer<L2::Layered>,
{
    type Layered = L1::Layered;

    fn layer(self, inner: C) -> Self::Layered {
        self.0.layer((self.1, self.2).layer(inner))
    }
}

impl<C: RemoteConnector, L1, L2, L3, L4> Layer<C> for (L1, L2, L3, L4)
where
    L4: Layer<C>,
    L3: Layer<L4::Layered>,
    L2: Layer<L3::Layered>,
    L1: Layer<L2::Layered>,
{
    type Layered = L1::Layered;

    fn layer(self, inner: C) -> Self::Layered {
        self.0.layer((self.1, self.2, self.3).layer(inner))
    }
}

/// Any connector, its type forgotten: what the layers of a [`ContextBuilder`](crate::ContextBuilder) are put around.
pub struct BoxConnector(pub(crate) Box<dyn DynConnector>);

impl BoxConnector {
    /// Forgets the connector's type.
    pub fn new(connector: impl RemoteConnector) -> Self {
        Self(Box::new(connector))
    }
}

impl fmt::Debug for BoxConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxConnector(..)")
    }
}

/// A layer whose type is not known.
pub(crate) trait DynLayer: Send + Sync + 'static {
    fn layer(&self, inner: BoxConnector) -> BoxConnector;
}

impl<L: Layer<BoxConnector> + Clone + Send + Sync + 'static> DynLayer for L {
    fn layer(&self, inner: BoxConnector) -> BoxConnector {
        BoxConnector::new(Layer::layer(self.clone(), inner))
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would pass over the connector's own")]
impl RemoteConnector for BoxConnector {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.0.list(prefix)
    }
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }
    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.0.get_into(key, dst).await
    }
    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.0.remove(key).await
    }
    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.0.batched_exists(keys).await
    }
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        self.0.batched_contains(keys).await
    }
    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        self.0.batched_get(keys).await
    }
    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        self.0.batched_get_into(requests).await
    }
    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.0.batched_put(items).await
    }
    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.0.batched_remove(keys).await
    }
}
