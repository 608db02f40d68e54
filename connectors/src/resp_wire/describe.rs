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
    let mut server = ServerInfo::new(node.server.address().to_string());
    let answer = ask(node, Info { sections: &["server", "replication"], with_time: false }).await;
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

/// Asks one server, within its share of the call's time.
pub(super) async fn ask(node: &Node, mut info: Info) -> Result<Said> {
    let address = node.server.address();
    let route = Route::to(&node.server);
    let asking = exchange_at(&route, &mut info);
    match time_left() {
        None => asking.await.0,
        Some(left) => {
            let limit = left.mul_f64(SHARE);
            let late = || format!("{address} did not answer within {} ms", limit.as_millis());
            let answer = tokio::time::timeout(limit, asking).await.map(|(answer, _)| answer);
            answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, late()).temporary(true)))
        }
    }
}

/// The part of the call's time that a server has. The rest is for the answer.
const SHARE: f64 = 0.9;

/// Asks for sections of `INFO`. One command each: servers before redis 7 take one section.
pub(super) struct Info {
    pub(super) sections: &'static [&'static str],
    /// Whether to ask for the server's time, too.
    pub(super) with_time: bool,
}

/// The lines of `INFO`.
#[derive(Default)]
pub(super) struct Said {
    fields: Vec<(String, String)>,
    /// The version of TLS, if the connection uses it.
    pub(super) tls: Option<&'static str>,
    /// The cipher of TLS.
    pub(super) cipher: Option<&'static str>,
    /// The server's clock, in seconds since 1970.
    pub(super) time: Option<f64>,
    /// The server's refusal of `INFO`, such as that of an access list.
    pub(super) refused: Option<Error>,
}

impl Exchange for Info {
    type Answer = Said;
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        self.sections.iter().for_each(|section| request.command(&["INFO".into(), (*section).into()]));
        if self.with_time {
            request.command(&["TIME".into()]);
        }
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Said>> {
        let mut said = Said { tls: connection.tls_version(), cipher: connection.tls_cipher(), ..Said::default() };
        for _ in self.sections {
            match connection.reply().await? {
                Reply::Bulk(text) => said.add(&String::from_utf8_lossy(&text)),
                other => said.refused = Some(refusal(other, "the text of `INFO`")),
            }
        }
        if self.with_time
            && let Reply::Array(parts) = connection.reply().await?
        {
            let number = |at: usize| match parts.get(at) {
                Some(Reply::Bulk(text)) => std::str::from_utf8(text).ok()?.parse::<f64>().ok(),
                _ => None,
            };
            said.time = number(0).zip(number(1)).map(|(seconds, micros)| seconds + micros / 1e6);
        }
        Ok(Ok(said))
    }
}

impl Said {
    pub(super) fn add(&mut self, text: &str) {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        self.fields.extend(fields.map(|(name, value)| (name.to_owned(), shorten(value.trim().as_bytes()))));
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn role(&self) -> Option<&str> {
        match (self.field("redis_mode"), self.field("role")) {
            (Some("sentinel"), _) => Some("sentinel"),
            (_, Some("slave")) => Some("replica"),
            (_, role) => role,
        }
    }

    /// Name and version of the program. Valkey and its relatives also give the redis version that they are compatible with.
    pub(super) fn version(&self) -> Option<String> {
        ["valkey", "dragonfly", "redis"]
            .into_iter()
            .find_map(|server| Some(format!("{server} {}", self.field(&format!("{server}_version"))?)))
    }

    fn details(&self) -> impl Iterator<Item = (&'static str, String)> {
        let master = self.field("master_host").zip(self.field("master_port"));
        let details = [
            ("version", self.version()),
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
