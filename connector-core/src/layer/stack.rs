//! Several layers as one, and layers whose types are not known.

use std::fmt;

use super::Layer;
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, DynConnector, RemoteConnector, forward, operations};
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
    operations!(forward '_ |this| this.0;);
}
