//! The settings and the state of each server that an operator should know.

use std::time::{SystemTime, UNIX_EPOCH};

use connector_core::{Diagnosis, ErrorKind};
use futures::future::join_all;

use super::describe::{Info, Said, ask};
use super::slots::SLOTS;
use super::topology::Node;

/// A difference of the clocks of more seconds is a warning.
const SKEW_SEC: f64 = 5.0;
/// A larger share of the server's clients is a warning.
const CLIENTS: f64 = 0.8;
/// A larger share of the memory counts as full.
const FULL: f64 = 0.95;
const GIB: f64 = (1_u64 << 30) as f64;

/// The lines about all servers.
pub(super) async fn diagnose(nodes: &[Node], is_cluster: bool, ttl_sec: Option<u64>) -> Vec<Diagnosis> {
    let info =
        || Info { sections: &["server", "memory", "clients", "persistence", "stats", "replication"], with_time: true };
    let answers = join_all(nodes.iter().map(async |node| (ask(node, info()).await, now()))).await;
    let mut lines = Vec::new();
    for (node, (answer, now)) in nodes.iter().zip(&answers) {
        let of = |line: Diagnosis| line.of(node.server.address());
        match answer {
            Ok(said) => lines.extend(of_server(said, node.role, *now, ttl_sec).into_iter().map(of)),
            Err(e) => lines.push(of(lost(node.role, e.kind(), e.message()))),
        }
    }
    if is_cluster {
        lines.push(slots(nodes));
    }
    let sentinels = |answered: bool| {
        let is = |(node, (answer, _)): &(&Node, &(connector_core::Result<Said>, f64))| {
            node.role == Some("sentinel") && (answer.is_ok() || !answered)
        };
        nodes.iter().zip(&answers).filter(is).count()
    };
    if let (all @ 1.., answered) = (sentinels(false), sentinels(true)) {
        lines.push(quorum(answered, all));
    }
    lines
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The line about a server that does not answer. The store works without a replica and without some sentinels.
fn lost(role: Option<&str>, kind: ErrorKind, why: &str) -> Diagnosis {
    let role_or_server = role.unwrap_or("server");
    let message = format!("the {role_or_server} does not answer: {why}");
    match role {
        Some("replica" | "sentinel") => Diagnosis::warn("server", message, "start it, or remove it from the topology"),
        _ if kind == ErrorKind::Denied => Diagnosis::fail("server", message, "check the user and the password"),
        _ => Diagnosis::fail("server", message, "start the server, or check the network between"),
    }
}

/// The lines about one server, whose clock was compared with `now`.
fn of_server(said: &Said, role: Option<&str>, now: f64, ttl_sec: Option<u64>) -> Vec<Diagnosis> {
    let role = said.role().or(role).unwrap_or("server");
    let mut lines = Vec::new();
    if let Some(e) = &said.refused {
        let why = format!("the server refuses `INFO`, so its settings are not known: {}", e.message());
        lines.push(Diagnosis::warn("server", why, "grant the command `info` to this user (`ACL SETUSER NAME +info`)"));
    } else {
        let version = said.version().unwrap_or_else(|| "unknown version".to_owned());
        lines.push(Diagnosis::ok("server", format!("{version}, {role}")));
    }
    if let Some(version) = said.tls {
        lines.push(Diagnosis::ok("tls", format!("{version}, {}", said.cipher.unwrap_or("unknown cipher"))));
    }
    if role != "sentinel" {
        lines.extend(memory(said, ttl_sec));
        lines.extend(persistence(said));
        lines.extend(replication(said));
    }
    lines.extend(clients(said));
    // Sentinels have no `TIME`.
    if role != "sentinel" {
        lines.push(match said.time {
            Some(time) => clock(now - time),
            None => Diagnosis::ok("clock", "not compared: the server does not answer `TIME`"),
        });
    }
    lines
}

fn number(said: &Said, field: &str) -> Option<f64> {
    said.field(field)?.parse().ok()
}

/// Whether the server evicts, and when a put fails.
fn memory(said: &Said, ttl_sec: Option<u64>) -> Option<Diagnosis> {
    let (used, most) = (number(said, "used_memory")?, number(said, "maxmemory")?);
    let policy = said.field("maxmemory_policy").unwrap_or("unknown policy");
    let evicted = number(said, "evicted_keys").unwrap_or(0.0);
    if most == 0.0 {
        let text = format!("{} in use, no limit (`maxmemory 0`)", gib(used));
        let advice = "set `maxmemory` to less than the machine's memory, and `maxmemory-policy allkeys-lru`; without a \
                      limit, the system ends the server when memory runs out";
        return Some(Diagnosis::warn("memory", text, advice));
    }
    let text = format!("{} of {} in use, `{policy}`, {evicted} keys evicted", gib(used), gib(most));
    let use_lru = "set `maxmemory-policy allkeys-lru`, so that the server removes the chunks used longest ago";
    Some(match policy {
        "noeviction" if used / most >= FULL => {
            Diagnosis::fail("memory", format!("{text}: puts fail"), format!("{use_lru}; or remove chunks"))
        }
        "noeviction" => {
            Diagnosis::warn("memory", text, format!("{use_lru}; with `noeviction`, puts fail when it is full"))
        }
        policy if policy.starts_with("volatile-") && ttl_sec.is_none() => {
            let advice = "set `maxmemory-policy allkeys-lru`, or the option `ttl_sec`; this policy evicts only keys with a \
                          time to live, and chunks have none";
            Diagnosis::warn("memory", text, advice)
        }
        _ => Diagnosis::ok("memory", text),
    })
}

fn gib(bytes: f64) -> String {
    if bytes >= GIB / 10.0 { format!("{:.1} GiB", bytes / GIB) } else { format!("{:.1} MiB", bytes / GIB * 1024.0) }
}

fn persistence(said: &Said) -> Option<Diagnosis> {
    let is = |field: &str, value: &str| said.field(field) == Some(value);
    if is("loading", "1") {
        let advice = "wait: the server answers when it has loaded its data from disk";
        return Some(Diagnosis::fail("persistence", "the server loads its data", advice));
    }
    (is("rdb_last_bgsave_status", "err") || is("aof_last_write_status", "err")).then(|| {
        let advice = "free disk space for the server, or turn persistence off (`save \"\"`, `appendonly no`): a cache needs \
                      none. Unless `stop-writes-on-bgsave-error` is `no`, the server now refuses puts";
        Diagnosis::fail("persistence", "the last write to disk failed", advice)
    })
}

fn replication(said: &Said) -> Option<Diagnosis> {
    (said.field("master_link_status") == Some("down")).then(|| {
        let advice = "check the network to the master, and `masterauth`";
        Diagnosis::warn("replication", "the replica has no link to its master", advice)
    })
}

fn clients(said: &Said) -> Option<Diagnosis> {
    let (clients, most) = (number(said, "connected_clients")?, number(said, "maxclients"));
    let rejected = number(said, "rejected_connections").unwrap_or(0.0);
    let text = match most {
        Some(most) => format!("{clients} of {most}"),
        None => clients.to_string(),
    };
    let advice = "raise `maxclients` of the server, or lower the option `connections`";
    Some(match most {
        Some(most) if clients / most >= CLIENTS => Diagnosis::warn("clients", text, advice),
        _ if rejected > 0.0 => {
            Diagnosis::warn("clients", format!("{text}; {rejected} were rejected since the server's start"), advice)
        }
        _ => Diagnosis::ok("clients", text),
    })
}

fn clock(ahead: f64) -> Diagnosis {
    if ahead.abs() < SKEW_SEC {
        return Diagnosis::ok("clock", "within 5 s of this machine's");
    }
    let (by, side) = (ahead.abs(), if ahead > 0.0 { "behind" } else { "ahead of" });
    let advice = "synchronize both clocks (NTP): ages in listings are wrong by as much";
    Diagnosis::warn("clock", format!("{by:.0} s {side} this machine's"), advice)
}

fn slots(nodes: &[Node]) -> Diagnosis {
    let masters = nodes.iter().filter(|node| node.slots.is_some()).count();
    let replicas = nodes.iter().filter(|node| node.role == Some("replica")).count();
    let covered: usize = nodes.iter().filter_map(|node| node.slots).sum();
    let all = usize::from(SLOTS);
    let text = format!("{covered} of {all} slots on {masters} masters, with {replicas} replicas");
    match covered == all {
        true => Diagnosis::ok("cluster", text),
        false => Diagnosis::fail("cluster", text, "assign the slots: `redis-cli --cluster fix HOST:PORT`"),
    }
}

fn quorum(answered: usize, all: usize) -> Diagnosis {
    let text = format!("{answered} of {all} answer");
    if answered * 2 > all {
        return Diagnosis::ok("sentinels", text);
    }
    let advice = "start the others: without a majority, no failover takes place";
    Diagnosis::fail("sentinels", text, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use connector_core::Verdict;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        said.add(text);
        said
    }

    #[test]
    fn a_server_that_cannot_evict_is_a_warning_and_a_full_one_a_failure() {
        for (text, ttl_sec, verdict, part) in [
            ("used_memory:100\nmaxmemory:0\nmaxmemory_policy:noeviction", None, Verdict::Warn, "no limit"),
            ("used_memory:10\nmaxmemory:100\nmaxmemory_policy:noeviction", None, Verdict::Warn, "`noeviction`"),
            ("used_memory:99\nmaxmemory:100\nmaxmemory_policy:noeviction", None, Verdict::Fail, "puts fail"),
            ("used_memory:99\nmaxmemory:100\nmaxmemory_policy:volatile-lru", None, Verdict::Warn, "`volatile-lru`"),
            ("used_memory:99\nmaxmemory:100\nmaxmemory_policy:volatile-lru", Some(60), Verdict::Ok, "`volatile-lru`"),
            ("used_memory:99\nmaxmemory:100\nmaxmemory_policy:allkeys-lru", None, Verdict::Ok, "`allkeys-lru`"),
        ] {
            let line = memory(&said(text), ttl_sec).expect("the fields are there");
            assert!(line.verdict == verdict && line.message.contains(part), "{text}: {line:?}");
            assert_eq!(line.advice.is_some(), verdict != Verdict::Ok, "{line:?}");
        }
        assert_eq!(memory(&said("used_memory:1"), None), None);
    }

    #[test]
    fn the_state_of_a_server_has_a_verdict() {
        let verdicts = |text: &str| {
            let lines = of_server(&said(text), None, 0.0, None);
            lines.into_iter().map(|line| (line.check, line.verdict)).collect::<Vec<_>>()
        };
        let line = |check: &str, verdict| (check.to_owned(), verdict);
        assert_eq!(
            verdicts("redis_version:7.2\nrdb_last_bgsave_status:err\nconnected_clients:9\nmaxclients:10"),
            [
                line("server", Verdict::Ok),
                line("persistence", Verdict::Fail),
                line("clients", Verdict::Warn),
                line("clock", Verdict::Ok),
            ]
        );
        assert_eq!(
            verdicts("loading:1\nrole:slave\nmaster_link_status:down\nconnected_clients:1\nrejected_connections:3"),
            [
                line("server", Verdict::Ok),
                line("persistence", Verdict::Fail),
                line("replication", Verdict::Warn),
                line("clients", Verdict::Warn),
                line("clock", Verdict::Ok),
            ]
        );
        assert_eq!(verdicts("redis_mode:sentinel"), [line("server", Verdict::Ok)]);
        assert_eq!(clock(1.0).verdict, Verdict::Ok);
        assert!(clock(-60.0).message.contains("60 s ahead of"), "{:?}", clock(-60.0));
        assert_eq!([quorum(2, 3).verdict, quorum(1, 3).verdict], [Verdict::Ok, Verdict::Fail]);
        assert_eq!(lost(Some("replica"), ErrorKind::Timeout, "x").verdict, Verdict::Warn);
        assert_eq!(lost(Some("master"), ErrorKind::Timeout, "x").verdict, Verdict::Fail);
    }
}
