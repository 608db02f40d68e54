//! The way to the servers that a URL names: the names of hosts, and TCP.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connectors::{ConnectorContext, Diagnosis};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::output::Time;

/// The lines about each host that the URL gives a port. None if a piece of a password may be read as a host or a port.
pub(super) async fn examine(context: &ConnectorContext, limit: Duration) -> Vec<Diagnosis> {
    let mut lines = Vec::new();
    if context.url().may_hold_a_loose_secret() {
        return lines;
    }
    for host in context.location().hosts() {
        let (name, Some(port)) = (&*host.host, host.port.filter(|port| *port != 0)) else { continue };
        let (line, addresses) = resolve(name, port, limit).await;
        lines.push(line);
        if !addresses.is_empty() {
            lines.push(connect(&addresses, limit).await);
        }
    }
    lines
}

async fn resolve(name: &str, port: u16, limit: Duration) -> (Diagnosis, Vec<SocketAddr>) {
    let start = Instant::now();
    let advice = "check the name's spelling, and the DNS servers of this machine";
    match timeout(limit, lookup_host((name, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> = found.collect();
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            let line = match shown.is_empty() {
                false => Diagnosis::ok("name", format!("`{name}` is {} ({})", shown.join(", "), Time(start.elapsed()))),
                true => Diagnosis::fail("name", format!("`{name}` has no address"), advice),
            };
            (line, addresses)
        }
        Ok(Err(e)) => (Diagnosis::fail("name", format!("`{name}` does not resolve: {e}"), advice), Vec::new()),
        Err(_) => {
            let why = format!("the lookup of `{name}` took longer than {} s", limit.as_secs_f64());
            (Diagnosis::fail("name", why, advice), Vec::new())
        }
    }
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr], limit: Duration) -> Diagnosis {
    let mut failed = None;
    for address in addresses {
        let start = Instant::now();
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                return Diagnosis::ok("tcp", format!("{address} accepts connections ({})", Time(start.elapsed())));
            }
            Ok(Err(e)) => {
                let advice = match e.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        "start the server, or correct the port; a firewall may refuse, too"
                    }
                    _ => "check the network and the firewall between",
                };
                failed = Some((format!("{address}: {e}"), advice));
            }
            Err(_) => {
                let why = format!("{address} does not answer within {} s", limit.as_secs_f64());
                failed = Some((why, "a firewall may drop the packets; check the route and the security groups"));
            }
        }
    }
    let (why, advice) = failed.unwrap_or_default();
    Diagnosis::fail("tcp", why, advice)
}
