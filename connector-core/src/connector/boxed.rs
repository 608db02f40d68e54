//! A connector whose type is not known.

use std::sync::Arc;

use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, Diagnosis, DynConnector, ListEntry, RemoteConnector, ServerInfo, forward, list_by, listings,
    operations,
};
use crate::key::CacheKey;
use crate::{BoxStream, Result};

/// Any connector, without its type. Clones are one connector.
#[derive(Clone)]
pub(crate) struct BoxConnector(pub(crate) Arc<dyn DynConnector>);

impl BoxConnector {
    pub(crate) fn new(connector: impl RemoteConnector) -> Self {
        Self(Arc::new(connector))
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl RemoteConnector for BoxConnector {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    listings!(list_by |this| this.0, |items| items(););
    operations!(forward '_ |this| this.0;);
}
