//! An open bucket or container, and the way to its service.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use connector_core::{
    CacheKey, Capabilities, ChunkHeader, Connect, ConnectorContext, Error, ErrorKind, Result, runtime,
};
use opendal::{OperationContext, Operator};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::entries::Entries;
use super::errors::{Place, error};
use super::names::Names;
use super::renew::Services;
use super::settings::CloudSettings;
use super::task;
use super::transport::Transport;
use crate::places::Memory;

/// An open bucket or container. Connectors hold it in an `Arc`, because its requests run as tasks.
pub(crate) struct Store {
    pub(super) services: Services,
    pub(super) place: Place,
    /// Bytes of the prefix, with a slash at its start and its end.
    root_len: usize,
    pub(super) names: Names,
    pub(super) entries: Entries,
    pub(super) settings: CloudSettings,
    pub(super) memory: Memory,
    /// Length of the largest chunk that was read.
    pub(super) largest_read: AtomicUsize,
    transport: Arc<Transport>,
    /// The runtime of the requests and their sockets.
    pub(super) handle: Handle,
    /// One permit for each request that moves no chunk.
    lookups: Semaphore,
    /// Whether the service has no request that deletes many objects.
    pub(super) lacks_bulk: AtomicBool,
}

/// Longest wait of a lazy `open` for the server.
const LAZY_OPEN: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the store of an OpenDAL service, and checks that the bucket answers. `service` makes the service, and makes
    /// another one when its credentials have expired.
    ///
    /// # Errors
    /// `Denied`, `NotFound`, `Unavailable`, `InvalidOption`, as the service answers.
    pub(crate) async fn open(
        service: impl Fn() -> opendal::Result<Operator> + Send + Sync + 'static,
        place: Place,
        names: Names,
        settings: &CloudSettings,
        ctx: &ConnectorContext,
    ) -> Result<Arc<Self>> {
        settings.check()?;
        // The length of a layer's chunk does not tell its layout.
        let save_chunk_meta = settings.save_chunk_meta || ctx.config().use_layerwise;
        let settings = &CloudSettings { save_chunk_meta, ..settings.clone() };
        let transport = Transport::new(settings);
        let context = OperationContext::new().with_http_transport(transport.transporter());
        let services = Services::new(service, context, &place)?;
        let handle = match ctx.handle().runtime_flavor() {
            RuntimeFlavor::MultiThread => ctx.handle().clone(),
            // The one thread may be blocked in a call, and then drives no sockets.
            _ => runtime::handle()?.clone(),
        };
        let prefix = services.current().operator.info().root();
        let store = Arc::new(Self {
            root_len: prefix.len(),
            entries: Entries::of(place.service),
            services,
            place,
            names,
            settings: settings.clone(),
            memory: Memory::new(ctx),
            largest_read: AtomicUsize::new(0),
            transport,
            handle,
            lookups: Semaphore::new(settings.connections),
            lacks_bulk: AtomicBool::new(false),
        });
        let Place { endpoint, bucket, region, .. } = &store.place;
        tracing::debug!(connector = ctx.connector_name(), endpoint, bucket, region, prefix, "opens");
        store.check_at_open(ctx).await?;
        Ok(store)
    }

    async fn check_at_open(self: &Arc<Self>, ctx: &ConnectorContext) -> Result<()> {
        let answer = match ctx.connect() {
            Connect::Eager => self.probe().await,
            Connect::Lazy => {
                let late = || Error::new(ErrorKind::Timeout, format!("no answer within {LAZY_OPEN:?}")).temporary(true);
                tokio::time::timeout(LAZY_OPEN, self.probe()).await.unwrap_or_else(|_| Err(late()))
            }
        };
        let connector = ctx.connector_name();
        match answer {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                connector,
                bucket = self.place.bucket,
                "the server denies access to an object that does not exist, as it does without the right to list the bucket: \
                 lookups of missing chunks will fail; on S3 grant `s3:ListBucket`"
            ),
            Err(e) if ctx.connect() == Connect::Lazy && e.is_temporary() => {
                tracing::warn!(connector, "the store is open, but its server does not answer: {e}");
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// kvconn's error for one of the service.
    pub(super) fn error(&self, e: opendal::Error) -> Error {
        error(e, &self.place)
    }

    /// The name of the key's object.
    ///
    /// # Errors
    /// `InvalidKey` for a key that no object can have.
    pub(super) fn name<'k>(&self, key: &'k CacheKey) -> Result<Cow<'k, str>> {
        let (name, most) = (self.names.name(key), self.longest_name());
        if name.len() <= most {
            return Ok(name);
        }
        let why = format!("the key's object name has {} bytes; below the prefix it can have {most}", name.len());
        Err(Error::new(ErrorKind::InvalidKey, why))
    }

    /// The most bytes of a name below the store's prefix.
    pub(super) fn longest_name(&self) -> usize {
        // The root has a slash at its start, which is not a part of the names.
        self.settings.max_name_bytes.saturating_sub(self.root_len - 1)
    }

    /// Waits for the permit of a request that moves no chunk.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.lookups.acquire().await.map_err(|_| Error::closed())
    }

    /// Sends a request that moves no chunk. If the credentials have expired, sends it again with fresh ones.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn request<T: Send + 'static, F>(
        self: &Arc<Self>,
        send: impl Fn(Operator) -> F + Send + Sync + 'static,
    ) -> Result<T>
    where
        F: Future<Output = opendal::Result<T>> + Send,
    {
        let store = self.clone();
        self.run(async move {
            let _turn = store.turn().await?;
            let mut service = store.services.current();
            loop {
                match send(service.operator.clone()).await {
                    Err(e) if store.services.renew(&mut service, &e).await => {}
                    answer => return answer.map_err(|e| store.error(e)),
                }
            }
        })
        .await
    }

    /// Runs a request on the store's runtime. It ends with this future, see [`task`](super::task).
    ///
    /// # Errors
    /// The request's own; `Closed` if the runtime has ended.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        task::run(&self.handle, request).await?
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let can =
            Capabilities::new().with_remove().with_list().with_ping().with_batch_concurrency(self.settings.connections);
        let can = can.with_max_chunk_bytes(self.settings.max_value_bytes);
        let can = match self.names {
            Names::Flat => can.with_max_key_bytes(self.longest_name()),
            // The length of a percent-encoded name depends on the key's characters.
            Names::Encoded => can,
        };
        if self.settings.save_chunk_meta { can.with_layout_kept().with_dtypes(ChunkHeader::DTYPES) } else { can }
    }

    /// Closes the connections. Requests have ended: each belongs to a call, and the handle waits for the calls.
    pub(crate) async fn close(&self) -> Result<()> {
        self.transport.close();
        self.memory.trim();
        Ok(())
    }
}

/// Gives OpenDAL a transport for requests that have none of a store's: those for the credentials of a role.
#[cfg(feature = "s3")]
pub(crate) fn serve_roles(settings: &CloudSettings) {
    // The first one stays for the life of the process.
    opendal::HttpTransporter::install_default(Transport::new(settings).transporter());
}

/// Implements `RemoteConnector` for a connector `struct Name(Arc<Store>)`: each method calls the store's.
macro_rules! remote_connector {
    ($connector:ty) => {
        impl connector_core::RemoteConnector for $connector {
            async fn exists(&self, key: &connector_core::CacheKey) -> connector_core::Result<bool> {
                self.0.exists(key).await
            }

            async fn get(
                &self,
                key: &connector_core::CacheKey,
            ) -> connector_core::Result<Option<connector_core::MemoryObj>> {
                self.0.get(key).await
            }

            async fn put(
                &self,
                key: &connector_core::CacheKey,
                chunk: connector_core::MemoryObj,
            ) -> connector_core::Result<()> {
                self.0.put(key, chunk).await
            }

            async fn get_into(
                &self,
                key: &connector_core::CacheKey,
                dst: &mut connector_core::MemoryObjMut,
            ) -> connector_core::Result<Option<usize>> {
                self.0.get_into(key, dst).await
            }

            async fn batched_get(
                &self,
                keys: &[connector_core::CacheKey],
            ) -> Vec<connector_core::Result<Option<connector_core::MemoryObj>>> {
                self.0.batched_get(keys).await
            }

            fn capabilities(&self) -> connector_core::Capabilities {
                self.0.capabilities()
            }

            async fn remove(&self, key: &connector_core::CacheKey) -> connector_core::Result<bool> {
                self.0.remove(key).await
            }

            fn list<'a>(
                &'a self,
                prefix: &'a str,
            ) -> connector_core::BoxStream<'a, connector_core::Result<connector_core::CacheKey>> {
                self.0.list(prefix)
            }

            fn list_entries<'a>(
                &'a self,
                prefix: &'a str,
            ) -> connector_core::BoxStream<'a, connector_core::Result<connector_core::ListEntry>> {
                self.0.list_entries(prefix)
            }

            async fn ping(&self) -> connector_core::Result<()> {
                self.0.ping().await
            }

            async fn diagnose(&self) -> connector_core::Result<Vec<connector_core::Diagnosis>> {
                self.0.diagnose().await
            }

            async fn close(&self) -> connector_core::Result<()> {
                self.0.close().await
            }

            async fn batched_exists(&self, keys: &[connector_core::CacheKey]) -> Vec<connector_core::Result<bool>> {
                self.0.batched_exists(keys).await
            }

            async fn batched_contains(&self, keys: &[connector_core::CacheKey]) -> connector_core::Result<usize> {
                self.0.batched_contains(keys).await
            }

            async fn batched_remove(&self, keys: &[connector_core::CacheKey]) -> Vec<connector_core::Result<bool>> {
                self.0.batched_remove(keys).await
            }
        }
    };
}

pub(crate) use remote_connector;
