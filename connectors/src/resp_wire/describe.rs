//! What each server says about itself: its role, version and replication.

use connector_core::layer::time_left;
use connector_core::{Error, ErrorKind, Result, ServerInfo};

use super::connection::Connection;
use super::errors::{refusal, shorten};
use super::exchange::{Exchange, exchange_at};
use super::reply::Reply;
use super::request::Request;
use super::topology::{Node, Route};

/// The server, and what it says about itself. Never fails: a server that does not answer has an error in place of
/// details. Otherwise one server that hangs would use up the `timeout_ms` of all, and hide the answers of the others.
pub(super) async fn describe(node: &Node) -> ServerInfo {
    let address = node.server.address();
    let mut server = ServerInfo::new(address.to_string());
    let (route, mut info) = (Route::to(&node.server), Info);
    let asking = exchange_at(&route, &mut info);
    let answer = match time_left() {
        None => asking.await.0,
        Some(left) => {
            let limit = left.mul_f64(SHARE);
            let late = || format!("{address} did not answer within {} ms", limit.as_millis());
            let answer = tokio::time::timeout(limit, asking).await.map(|(answer, _)| answer);
            answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, late()).temporary(true)))
        }
    };
    let said = answer.as_ref().ok();
    // A server knows its own role best: a failover may be under way.
    let role = said.and_then(|said| said.role()).or(node.role);
    server.role = role.map(str::to_owned);
    if let Some(slots) = node.slots {
        server = server.with_detail("slots", slots.to_string());
    }
    match answer {
        Ok(said) => said.details().fold(server, |server, (name, value)| server.with_detail(name, value)),
        Err(e) => server.with_error(e),
    }
}

/// The part of the call's time that a server has. The rest is for the answer.
const SHARE: f64 = 0.9;

/// Asks for the sections of `INFO`. One command each: servers before redis 7 take one section.
struct Info;

const SECTIONS: [&str; 2] = ["server", "replication"];

/// The lines of `INFO`.
#[derive(Default)]
struct Said {
    fields: Vec<(String, String)>,
    /// The version of TLS, if the connection uses it.
    tls: Option<&'static str>,
    /// The server's refusal of `INFO`, such as that of an access list.
    refused: Option<Error>,
}

impl Exchange for Info {
    type Answer = Said;
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        SECTIONS.iter().for_each(|section| request.command(&["INFO".into(), (*section).into()]));
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Said>> {
        let mut said = Said { tls: connection.tls_version(), ..Said::default() };
        for _ in SECTIONS {
            match connection.reply().await? {
                Reply::Bulk(text) => said.add(&String::from_utf8_lossy(&text)),
                other => said.refused = Some(refusal(other, "the text of `INFO`")),
            }
        }
        Ok(Ok(said))
    }
}

impl Said {
    fn add(&mut self, text: &str) {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        self.fields.extend(fields.map(|(name, value)| (name.to_owned(), shorten(value.trim().as_bytes()))));
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn role(&self) -> Option<&str> {
        match (self.field("redis_mode"), self.field("role")) {
            (Some("sentinel"), _) => Some("sentinel"),
            (_, Some("slave")) => Some("replica"),
            (_, role) => role,
        }
    }

    fn details(&self) -> impl Iterator<Item = (&'static str, String)> {
        // Valkey and its relatives also give the redis version that they are compatible with.
        let version = ["valkey", "dragonfly", "redis"]
            .into_iter()
            .find_map(|server| Some(format!("{server} {}", self.field(&format!("{server}_version"))?)));
        let master = self.field("master_host").zip(self.field("master_port"));
        let details = [
            ("version", version),
            ("tls", self.tls.map(str::to_owned)),
            ("replicas", self.field("connected_slaves").filter(|n| *n != "0").map(str::to_owned)),
            ("replica_of", master.map(|(host, port)| format!("{host}:{port}"))),
            ("link", self.field("master_link_status").map(str::to_owned)),
            ("info", self.refused.as_ref().map(|e| e.message().to_owned())),
        ];
        details.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (Option<String>, String) {
        let mut said = Said::default();
        said.add(text);
        let details: Vec<String> = said.details().map(|(name, value)| format!("{name}={value}")).collect();
        (said.role().map(str::to_owned), details.join(" "))
    }

    #[test]
    fn a_server_has_a_role_and_its_own_version() {
        for (text, role, details) in [
            (
                "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\nconnected_slaves:0\r\n",
                "master",
                "version=redis 7.0.15",
            ),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.8\r\nrole:master\r\nconnected_slaves:2",
                "master",
                "version=valkey 8.1.8 replicas=2",
            ),
            (
                "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down",
                "replica",
                "replica_of=10.0.0.1:6379 link=down",
            ),
            ("redis_version:7.0.15\nredis_mode:sentinel", "sentinel", "version=redis 7.0.15"),
        ] {
            assert_eq!(said(text), (Some(role.to_owned()), details.to_owned()));
        }
        assert_eq!(said("nothing that is known"), (None, String::new()));
    }
}
