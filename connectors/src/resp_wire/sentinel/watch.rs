//! The announcements of a sentinel: a store that is idle learns of another master at once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};

use super::Service;
use crate::resp_wire::connection::{Connection, Spent};
use crate::resp_wire::reply::Reply;
use crate::resp_wire::request::{Arg, Request};
use crate::resp_wire::server::Server;
use crate::resp_wire::task::unless_it_panics;

/// The pause before a new subscription.
const PAUSE: Duration = Duration::from_secs(1);
/// Another master, or another state of a replica. A sentinel names the promoted replica before it announces the switch,
/// which waits for the other replicas.
const CHANNELS: [&str; 5] = ["+switch-master", "+promoted-slave", "+slave", "+sdown", "-sdown"];

/// Follows the announcements of a sentinel until the service is dropped or closed.
pub(super) async fn watch(service: Weak<Service>, sentinel: Arc<Server>) {
    loop {
        match unless_it_panics("the task that follows a sentinel", follow(&service, &sentinel)).await {
            Err(e) if e.kind() == ErrorKind::Closed => return,
            Err(e) => tracing::debug!(sentinel = %sentinel.address(), "no announcements of a sentinel: {e}"),
            Ok(()) => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends with `Ok` once the service is dropped.
async fn follow(service: &Weak<Service>, sentinel: &Arc<Server>) -> Result<()> {
    let mut lease = sentinel.lease(true).await?;
    let connection = &mut lease.connection;
    let mut subscribe = vec![Arg::from("SUBSCRIBE")];
    subscribe.extend(CHANNELS.map(Arg::from));
    send(connection, &subscribe).await?;
    for _ in CHANNELS {
        connection.answer().await??;
    }
    // The last announcement may have come before the subscription.
    let mut is_news = true;
    let mut is_asked = false;
    loop {
        if is_news {
            let Some(service) = service.upgrade() else { return Ok(()) };
            service.ask_one(sentinel).await;
        }
        connection.start_call(Spent::default());
        is_news = match connection.answer().await {
            Ok(reply) => {
                is_asked = false;
                let Some(service) = service.upgrade() else { return Ok(()) };
                concerns(&reply?, &service.name)
            }
            // A sentinel that is there answers `PING`.
            Err(e) if e.kind() == ErrorKind::Timeout && !is_asked => {
                is_asked = true;
                send(connection, &["PING".into()]).await?;
                false
            }
            Err(e) => return Err(e),
        };
    }
}

async fn send(connection: &mut Connection, args: &[Arg<'_>]) -> Result<(), Error> {
    let mut request = Request::new();
    request.command(args);
    connection.send(&request).await
}

/// Whether the announcement names this service. The name is a word of the message.
fn concerns(announcement: &Reply, service: &str) -> bool {
    let Reply::Array(parts) = announcement else { return false };
    let [Reply::Bulk(kind), _, Reply::Bulk(message)] = &parts[..] else { return false };
    kind == b"message" && message.split(|b| *b == b' ').any(|word| word == service.as_bytes())
}
