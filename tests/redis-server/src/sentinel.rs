//! A master with its replicas, and the sentinels that watch them.

use std::thread;
use std::time::{Duration, Instant};

use crate::Reply;
use crate::launch::{self, Launch};
use crate::server::{Kind, RedisServer, wait_until};

/// The sentinels' name of the master.
const SERVICE: &str = "redismaster";

/// A busy machine can need most of this time for one failover.
const CHANGES_WITHIN: Duration = Duration::from_secs(30);

/// A sentinel gives up a failover after its `failover-timeout`, or earlier. The old master needs further seconds to follow.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(8);

/// Arguments of each redis server. Replicas start at once.
const ARGS: &[&str] = &["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];

/// Milliseconds. By default, sentinels need many seconds for a failover, and trust a clock that a busy machine delayed only
/// after half a minute.
const PERIODS: &[(&str, &str)] = &[
    ("info-period", "1000"),
    ("ping-period", "500"),
    ("ask-period", "100"),
    ("min-link-reconnect-period", "500"),
    ("election-timeout", "2000"),
    ("tilt-period", "500"),
];

/// A master with its replicas, and the sentinels that watch them, on loopback.
///
/// Server 0 is the first master. A failover makes another server the master, but does not change their numbers. The sentinels
/// call the master `redismaster`. Two of them must agree that it failed, which they do after a second.
#[derive(Debug)]
pub struct SentinelGroup {
    servers: Vec<Member>,
    sentinels: Vec<Member>,
    /// The number of the master's server when the sentinels last agreed.
    master: usize,
}

#[derive(Debug)]
struct Member {
    server: RedisServer,
    /// Neither killed nor paused.
    runs: bool,
}

impl Launch {
    /// Starts a master, its replicas, and sentinels with arguments of their own: `["--requirepass", "secret"]`.
    ///
    /// # Panics
    /// As [`RedisServer::start`], or if the sentinels do not agree in time.
    pub fn sentinels(&self, sentinels: usize, replicas: usize, sentinel_args: &[&str]) -> SentinelGroup {
        let mut launch = Self { args: ARGS.iter().map(|&arg| arg.to_owned()).collect(), ..self.clone() };
        if let Some(password) = self.arg("--requirepass") {
            launch.args.extend(["--masterauth".to_owned(), password.to_owned()]);
        }
        launch.args.extend_from_slice(&self.args);
        let sentinel = Self { args: sentinel_args.iter().map(|&arg| arg.to_owned()).collect(), ..self.clone() };
        SentinelGroup::launch(&launch, replicas, &sentinel, sentinels)
    }
}

impl SentinelGroup {
    /// Starts a group of redis servers with further arguments (see [`Launch::new`]). The sentinels have no password.
    ///
    /// # Panics
    /// As [`Launch::sentinels`].
    pub fn start(sentinels: usize, replicas: usize, args: &[&str]) -> Self {
        Launch::new(args).sentinels(sentinels, replicas, &[])
    }

    fn launch(launch: &Launch, replicas: usize, sentinel: &Launch, sentinels: usize) -> Self {
        let master = RedisServer::launch(launch.clone(), Kind::Single);
        let port = master.own_port().to_string();
        let mut replica = launch.clone();
        replica.args.extend(["--replicaof", "127.0.0.1", &port].map(str::to_owned));
        let mut lines = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} {}\n\
             sentinel down-after-milliseconds {SERVICE} 1000\n\
             sentinel failover-timeout {SERVICE} 3000\n",
            sentinels.min(2)
        );
        if let Some(password) = launch.arg("--requirepass") {
            lines.push_str(&format!("sentinel auth-pass {SERVICE} {password}\n"));
        }
        let member = |server| Member { server, runs: true };
        let group = thread::scope(|scope| {
            let replicas: Vec<_> =
                (0..replicas).map(|_| scope.spawn(|| RedisServer::launch(replica.clone(), Kind::Single))).collect();
            let sentinels: Vec<_> = (0..sentinels)
                .map(|_| scope.spawn(|| RedisServer::launch(sentinel.clone(), Kind::Sentinel(lines.clone()))))
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| member(thread.join().expect("the server starts"));
            let servers = [member(master)].into_iter().chain(replicas.into_iter().map(join)).collect();
            Self { servers, sentinels: sentinels.into_iter().map(join).collect(), master: 0 }
        });
        for sentinel in &group.sentinels {
            sentinel.set_periods();
            sentinel.set_period("publish-period", "100");
        }
        group.wait_until_agreed();
        for sentinel in &group.sentinels {
            // A sentinel makes a master that it does not know a replica after 4 periods. Another sentinel that fails over sees
            // its new master after a second, so this must be longer.
            sentinel.set_period("publish-period", "600");
        }
        group
    }

    /// `scheme://127.0.0.1:port,127.0.0.1:port,..` of the sentinels. The ports are those of TLS if the group has it.
    pub fn url(&self, scheme: &str) -> String {
        launch::url(scheme, self.sentinels.iter().map(|sentinel| sentinel.server.own_port()))
    }

    /// A server: the master or a replica.
    pub fn server(&self, i: usize) -> &RedisServer {
        &self.servers[i].server
    }

    /// A sentinel.
    pub fn sentinel(&self, i: usize) -> &RedisServer {
        &self.sentinels[i].server
    }

    /// The master at the last [`wait_until_master_changes`](Self::wait_until_master_changes), or server 0.
    pub fn master(&self) -> &RedisServer {
        self.server(self.master)
    }

    /// The number of the master's server.
    pub fn master_index(&self) -> usize {
        self.master
    }

    /// The numbers of the other servers that run.
    pub fn replicas(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|&i| i != self.master && self.servers[i].runs).collect()
    }

    /// Kills the master, as a crash does, and gives its number. The sentinels fail over.
    pub fn kill_master(&mut self) -> usize {
        self.kill(self.master);
        self.master
    }

    /// Kills a server.
    pub fn kill(&mut self, i: usize) {
        self.servers[i].kill();
    }

    /// Starts a killed server again, empty. After a failover, the sentinels make it a replica.
    ///
    /// # Panics
    /// As [`RedisServer::restart`].
    pub fn restart(&mut self, i: usize) {
        self.servers[i].server.restart();
        self.servers[i].runs = true;
    }

    /// Stops the process of a server without ending it (see [`RedisServer::stop_signal`]).
    ///
    /// # Panics
    /// If the server was killed.
    pub fn pause(&mut self, i: usize) {
        self.servers[i].server.stop_signal();
        self.servers[i].runs = false;
    }

    /// Continues a paused server.
    ///
    /// # Panics
    /// If the server was killed.
    pub fn cont(&mut self, i: usize) {
        self.servers[i].server.cont();
        self.servers[i].runs = true;
    }

    /// Kills a sentinel.
    pub fn kill_sentinel(&mut self, i: usize) {
        self.sentinels[i].kill();
    }

    /// Starts a killed sentinel again. It still knows the master and the other sentinels.
    ///
    /// # Panics
    /// As [`RedisServer::restart`].
    pub fn restart_sentinel(&mut self, i: usize) {
        self.sentinels[i].server.restart();
        self.sentinels[i].runs = true;
        self.sentinels[i].set_periods();
    }

    /// Makes a replica the master, and gives its number. Redis can lose the last puts before a failover.
    ///
    /// # Panics
    /// If no replica can become the master, or the failover takes too long.
    pub fn failover(&mut self) -> usize {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.runs).expect("a sentinel runs");
        let deadline = Instant::now() + CHANGES_WITHIN;
        let mut retry = Instant::now();
        let mut answers = Vec::new();
        let new = loop {
            match self.new_master() {
                Ok(new) => break new,
                Err(why) => assert!(Instant::now() < deadline, "timeout: {answers:?}, {why}"),
            }
            if Instant::now() >= retry {
                // A sentinel refuses while another failover runs, and gives up one without a good replica.
                let answer = sentinel.server.client().command(&["SENTINEL", "FAILOVER", SERVICE]);
                let answer = answer.expect("the sentinel answers");
                let pause =
                    if matches!(answer, Reply::Error(_)) { Duration::from_millis(200) } else { GIVES_UP_WITHIN };
                retry = Instant::now() + pause;
                answers.push(answer);
            }
            thread::sleep(Duration::from_millis(20));
        };
        self.master = new;
        new
    }

    /// Waits until the sentinels that run agree on another master than [`master`](Self::master), and its replicas follow it.
    /// Gives the number of the new master.
    ///
    /// # Panics
    /// If this takes too long.
    pub fn wait_until_master_changes(&mut self) -> usize {
        let deadline = Instant::now() + CHANGES_WITHIN;
        loop {
            match self.new_master() {
                Ok(new) => {
                    self.master = new;
                    return new;
                }
                Err(why) => assert!(Instant::now() < deadline, "timeout: {why}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the servers and sentinels that run agree on the [`master`](Self::master).
    ///
    /// # Panics
    /// If this takes too long.
    pub fn wait_until_agreed(&self) {
        wait_until("the sentinels agree", || self.agree_on(self.master).is_ok());
    }

    fn new_master(&self) -> Result<usize, String> {
        let agreed: Vec<_> = self.replicas().into_iter().map(|i| (i, self.agree_on(i))).collect();
        let new = agreed.iter().find(|(_, agreed)| agreed.is_ok()).map(|(i, _)| *i);
        new.ok_or_else(|| {
            let logs: String = self.sentinels.iter().map(|sentinel| sentinel.server.log()).collect();
            format!("no other server is the master: {agreed:?}; the sentinels logged:\n{logs}")
        })
    }

    /// Whether all servers and sentinels that run know server `i` as the master, and the others as its replicas.
    fn agree_on(&self, i: usize) -> Result<(), String> {
        let master = &self.servers[i].server;
        let is_port = |value: &str, server: &RedisServer| value == server.own_port().to_string();
        let running = |members: &[Member]| members.iter().filter(|member| member.runs).count();
        for (n, server) in self.servers.iter().enumerate().filter(|(_, member)| member.runs) {
            // A server that changes its role cuts its connections.
            let info =
                server.server.client().command(&["INFO", "replication"]).map_err(|e| format!("server {n}: {e}"))?;
            let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
            let has = |line: &str| info.contains(&format!("{line}\r\n"));
            let follows = has(&format!("master_port:{}", master.own_port())) && has("master_link_status:up");
            if !(if n == i { has("role:master") } else { has("role:slave") && follows }) {
                return Err(format!("server {n}: {info}"));
            }
        }
        for (n, sentinel) in self.sentinels.iter().enumerate().filter(|(_, member)| member.runs) {
            let known = sentinel.server.cli(&["SENTINEL", "MASTER", SERVICE]);
            let known = fields(&known);
            // A sentinel keeps the servers and sentinels that it lost.
            let many = |name, at_least: usize| value(&known, name).parse().is_ok_and(|n: usize| n >= at_least);
            let right = is_port(value(&known, "port"), master)
                && value(&known, "flags") == "master"
                && many("num-slaves", running(&self.servers) - 1)
                && many("num-other-sentinels", running(&self.sentinels) - 1);
            let replicas = sentinel.server.cli(&["SENTINEL", "REPLICAS", SERVICE]);
            let follows = |replica: &Reply| {
                let replica = fields(replica);
                let follows = value(&replica, "flags") == "slave" && value(&replica, "master-link-status") == "ok";
                let runs = |member: &Member| member.runs && is_port(value(&replica, "port"), &member.server);
                follows || !self.servers.iter().any(runs)
            };
            if !right || !replicas.items().iter().all(follows) {
                return Err(format!("sentinel {n}: {known:?} {replicas:?}"));
            }
        }
        Ok(())
    }
}

impl Member {
    fn kill(&mut self) {
        self.server.kill9();
        self.runs = false;
    }

    fn set_periods(&self) {
        for (name, milliseconds) in PERIODS {
            self.set_period(name, milliseconds);
        }
    }

    fn set_period(&self, name: &str, milliseconds: &str) {
        self.server.cli(&["SENTINEL", "DEBUG", name, milliseconds]);
    }
}

/// The names and values of a flat list.
fn fields(reply: &Reply) -> Vec<(String, String)> {
    let text = |reply: &Reply| String::from_utf8_lossy(reply.bytes().unwrap_or_default()).into_owned();
    reply.items().chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}
