//! The service of a store, and a new one when its credentials have expired or were replaced.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use opendal::{OperationContext, Operator};
use tokio::time::Instant;

use super::errors::{Place, error, is_renewable};

/// The shortest time between two attempts to renew the credentials.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the service. It reads the files of the options and the usual chain of credentials.
type Make = dyn Fn() -> opendal::Result<Operator> + Send + Sync;

/// The services of a store, one after the other. Each is replaceable, because OpenDAL keeps the credentials that it read first.
pub(super) struct Services {
    make: Arc<Make>,
    context: OperationContext,
    current: Mutex<Service>,
    /// The time of the last attempt to renew. Calls that fail together wait for one attempt.
    last: tokio::sync::Mutex<Option<Instant>>,
}

/// A service that a call uses.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) operator: Operator,
    /// The number of services before this one.
    generation: u64,
    /// Whether the call has renewed its service. It does so once.
    renewed: bool,
}

impl Services {
    /// Makes the first service.
    ///
    /// # Errors
    /// That of the service's options.
    pub(super) fn new(
        make: impl Fn() -> opendal::Result<Operator> + Send + Sync + 'static,
        context: OperationContext,
        place: &Place,
    ) -> Result<Self> {
        let operator = make().map_err(|e| error(e, place))?.with_context(context.clone());
        let current = Mutex::new(Service { operator, generation: 0, renewed: false });
        Ok(Self { make: Arc::new(make), context, current, last: tokio::sync::Mutex::default() })
    }

    /// The service for a new call.
    pub(super) fn current(&self) -> Service {
        self.lock().clone()
    }

    /// Replaces the call's service by one with fresh credentials, if the service refused the call's own. `false` means that
    /// another try cannot help.
    pub(super) async fn renew(&self, service: &mut Service, e: &(dyn StdError + Send + Sync + 'static)) -> bool {
        if service.renewed || !is_renewable(e) {
            return false;
        }
        let mut last = self.last.lock().await;
        if self.lock().generation == service.generation {
            if last.is_some_and(|last| last.elapsed() < PAUSE) {
                return false;
            }
            *last = Some(Instant::now());
            match self.make_another().await {
                Ok(operator) => {
                    let mut current = self.lock();
                    current.operator = operator;
                    current.generation += 1;
                }
                Err(e) => {
                    tracing::warn!("the service refuses the credentials, and kvconn cannot read new ones: {e}");
                    return false;
                }
            }
        }
        *service = Service { renewed: true, ..self.current() };
        true
    }

    async fn make_another(&self) -> Result<Operator> {
        let make = self.make.clone();
        // It reads files.
        let made = tokio::task::spawn_blocking(move || make()).await;
        let made =
            made.map_err(|e| Error::new(ErrorKind::Other, "the task that reads the credentials ended").with_source(e))?;
        let operator = made.map_err(|e| Error::new(ErrorKind::Denied, e.message().to_owned()).with_source(e))?;
        Ok(operator.with_context(self.context.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Service> {
        // No code panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
