//! The questions to a sentinel.

use std::sync::Arc;

use connector_core::{Error, ErrorKind, Result};

use crate::resp_wire::connection::Connection;
use crate::resp_wire::errors::{refusal, unexpected};
use crate::resp_wire::exchange::{Exchange, exchange_at};
use crate::resp_wire::reply::Reply;
use crate::resp_wire::request::Request;
use crate::resp_wire::server::Server;
use crate::resp_wire::topology::Route;
use crate::resp_wire::transport::Address;

/// The answer of a sentinel about a service.
pub(super) struct Found {
    pub(super) master: Address,
    /// The number of the failover that made it the master.
    pub(super) epoch: u64,
    /// The other sentinels.
    pub(super) sentinels: Vec<Address>,
    /// The replicas that are up and have a link to the master.
    pub(super) replicas: Vec<Address>,
}

/// Asks one sentinel.
///
/// # Errors
/// Those of an exchange. `InvalidOption` for a service that the sentinel does not know, if it knows others.
pub(super) async fn ask(sentinel: &Arc<Server>, service: &str) -> Result<Found> {
    match exchange_at(&Route::to(sentinel), &mut WhoIsMaster { service }).await.0 {
        Ok(Some(found)) => Ok(found),
        Ok(None) => match exchange_at(&Route::to(sentinel), &mut AllMasters).await.0 {
            Ok(known) => Err(unknown(service, &known, sentinel.address())),
            Err(e) => Err(explain(e, sentinel.address())),
        },
        Err(e) => Err(explain(e, sentinel.address())),
    }
}

fn unknown(service: &str, known: &[String], sentinel: &Address) -> Error {
    if known.is_empty() {
        // The sentinel is not configured yet.
        let why = format!("the sentinel at {sentinel} watches no master");
        return Error::new(ErrorKind::Unavailable, why)
            .temporary(true)
            .with_hint(format!("configure it: `sentinel monitor {service} host port quorum`"));
    }
    let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let why = format!("the sentinel at {sentinel} knows no service `{service}`; it knows {names}");
    Error::new(ErrorKind::InvalidOption, why).with_hint(format!(
        "name the service in the URL's path: `redis-sentinel://{sentinel}/{}`, in the option `sentinel_service`, or in \
         the variable `REDIS_SERVICE_NAME`",
        known[0]
    ))
}

fn explain(e: Error, sentinel: &Address) -> Error {
    match e.kind() {
        ErrorKind::Other if e.message().contains("unknown command") => {
            let why = format!("{sentinel} is not a sentinel: {}", e.message());
            Error::new(ErrorKind::Unavailable, why)
                .with_hint(format!("name a sentinel, mostly on port 26379, or write `redis://{sentinel}`"))
        }
        ErrorKind::Denied => e.at(format_args!("sentinel {sentinel}")).with_hint(
            "the login of the sentinels is `sentinel_username` and `sentinel_password`; user and password of the URL are \
             the master's",
        ),
        _ => e,
    }
}

/// The most sentinels, and the most replicas, that kvconn takes from one answer. Each of them costs a task and a
/// connection.
const MOST_SERVERS: usize = 64;

/// All questions about one service, in one round trip.
struct WhoIsMaster<'a> {
    service: &'a str,
}

impl Exchange for WhoIsMaster<'_> {
    type Answer = Option<Found>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "SENTINELS", "REPLICAS"] {
            request.command(&["SENTINEL".into(), question.into(), self.service.into()]);
        }
    }

    /// The user may lack the right to the later questions.
    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let master = connection.answer().await?;
        let about = connection.reply().await?;
        let [sentinels, replicas] = [connection.reply().await?, connection.reply().await?];
        let found = |master| Found {
            master,
            epoch: field(&about, "config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
            sentinels: items(&sentinels).iter().filter_map(address).take(MOST_SERVERS).collect(),
            replicas: items(&replicas)
                .iter()
                .filter(|replica| is_up(replica))
                .filter_map(address)
                .take(MOST_SERVERS)
                .collect(),
        };
        Ok(master.and_then(|reply| match &reply {
            Reply::Null => Ok(None),
            Reply::Array(parts) => {
                let [host, port] = &parts[..] else { return Err(unexpected(&reply, "a host and a port")) };
                let port = text(port).and_then(|port| port.parse().ok());
                let (Some(host), Some(port)) = (text(host), port) else {
                    return Err(unexpected(&reply, "a host and a port"));
                };
                Ok(Some(found(Address::Tcp { host: host.to_owned(), port })))
            }
            other => Err(unexpected(other, "a host and a port")),
        }))
    }
}

/// The names of all services.
struct AllMasters;

impl Exchange for AllMasters {
    type Answer = Vec<String>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["SENTINEL".into(), "MASTERS".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        Ok(match connection.reply().await? {
            Reply::Array(all) => Ok(all.iter().filter_map(|one| field(one, "name").map(str::to_owned)).collect()),
            other => Err(refusal(other, "masters")),
        })
    }
}

/// Whether the replica and its link to the master are up, as the sentinel says.
fn is_up(replica: &Reply) -> bool {
    let down = |flag| matches!(flag, "s_down" | "o_down" | "disconnected" | "master_down");
    let flags = field(replica, "flags").unwrap_or_default();
    !flags.split(',').any(down) && field(replica, "master-link-status") == Some("ok")
}

fn address(of: &Reply) -> Option<Address> {
    let port = field(of, "port")?.parse().ok().filter(|port| *port > 0)?;
    Some(Address::Tcp { host: field(of, "ip")?.to_owned(), port })
}

/// A field of an answer that lists names and values.
fn field<'a>(of: &'a Reply, name: &str) -> Option<&'a str> {
    items(of).chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).and_then(|pair| text(&pair[1]))
}

fn items(reply: &Reply) -> &[Reply] {
    match reply {
        Reply::Array(items) => items,
        _ => &[],
    }
}

fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Bulk(bytes) | Reply::Simple(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    }
}
