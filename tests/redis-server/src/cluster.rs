//! A cluster of redis servers.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use crate::Reply;
use crate::launch::{self, Launch};
use crate::server::{Kind, RedisServer, wait_until};

/// The number of slots of every cluster.
const SLOTS: usize = 16_384;

/// A busy machine can need most of this time for one failover.
const CHANGES_WITHIN: Duration = Duration::from_secs(30);

/// The servers give up a manual failover after 5 seconds, without a word.
const FAILOVER_WITHIN: Duration = Duration::from_secs(6);

/// Arguments of each node. A node fails for the others after this timeout. A replica may always become the master. No replica
/// and no empty master chooses another master by itself. Replicas start at once.
const ARGS: &[&str] = &[
    "--cluster-node-timeout",
    "1500",
    "--cluster-replica-validity-factor",
    "0",
    "--cluster-allow-replica-migration",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
];

/// A cluster of redis servers on loopback. All nodes know the same slots and roles when a method returns.
///
/// The first nodes are the masters, and the slots are split evenly. The replicas follow: with 3 masters, the nodes 3 and 6
/// are replicas of node 0. A failover changes roles, but not the numbers of the nodes.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    server: RedisServer,
    id: String,
    /// Neither killed nor paused.
    runs: bool,
}

/// One line of `CLUSTER NODES`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    id: String,
    master: bool,
    failed: bool,
    /// The id of a replica's master. `-` for a master.
    master_id: String,
    connected: bool,
    slots: Vec<String>,
}

impl Launch {
    /// Starts a cluster.
    ///
    /// # Panics
    /// As [`RedisServer::start`], or if the nodes do not agree in time.
    pub fn cluster(&self, masters: usize, replicas_per_master: usize) -> RedisCluster {
        let mut launch = Self { args: ARGS.iter().map(|&arg| arg.to_owned()).collect(), ..self.clone() };
        if let Some(password) = self.arg("--requirepass") {
            launch.args.extend(["--masterauth".to_owned(), password.to_owned()]);
        }
        launch.args.extend_from_slice(&self.args);
        RedisCluster::launch(&launch, masters, replicas_per_master)
    }
}

impl RedisCluster {
    /// Starts a cluster of redis servers with further arguments (see [`Launch::new`]).
    ///
    /// # Panics
    /// As [`Launch::cluster`].
    pub fn start(masters: usize, replicas_per_master: usize, args: &[&str]) -> Self {
        Launch::new(args).cluster(masters, replicas_per_master)
    }

    fn launch(launch: &Launch, masters: usize, replicas_per_master: usize) -> Self {
        let count = masters * (1 + replicas_per_master);
        let nodes = thread::scope(|scope| {
            let started: Vec<_> =
                (0..count).map(|_| scope.spawn(|| RedisServer::launch(launch.clone(), Kind::Node))).collect();
            let servers = started.into_iter().map(|thread| thread.join().expect("the node starts"));
            servers.map(|server| Node { id: text(&server, &["CLUSTER", "MYID"]), server, runs: true }).collect()
        });
        let cluster = Self { nodes };
        for (i, node) in cluster.nodes.iter().enumerate() {
            // Nodes with equal epochs would first have to settle the order.
            node.server.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            if i < masters {
                let (first, last) = (i * SLOTS / masters, (i + 1) * SLOTS / masters - 1);
                node.server.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
        }
        // Each pair meets, because gossip takes seconds.
        for (i, node) in cluster.nodes.iter().enumerate() {
            for other in &cluster.nodes[i + 1..] {
                let (port, bus) = (other.server.own_port().to_string(), other.server.bus_port().to_string());
                node.server.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        wait_until("the nodes meet", || {
            cluster.nodes.iter().all(|node| {
                let known = node.known();
                known.len() == count && known.iter().all(|other| other.connected)
            })
        });
        for i in masters..count {
            cluster.nodes[i].server.cli(&["CLUSTER", "REPLICATE", &cluster.nodes[i % masters].id]);
        }
        cluster.wait_until_whole();
        cluster
    }

    /// `scheme://127.0.0.1:port,127.0.0.1:port,..` of all nodes. The ports are those of TLS if the cluster has it.
    pub fn url(&self, scheme: &str) -> String {
        launch::url(scheme, self.nodes.iter().map(|node| node.server.own_port()))
    }

    /// The number of nodes, with those that were killed.
    #[expect(clippy::len_without_is_empty, reason = "a cluster is not empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node. Its commands go over its unix socket.
    pub fn node(&self, i: usize) -> &RedisServer {
        &self.nodes[i].server
    }

    /// The nodes that are masters and have slots, in the view of the nodes that run.
    pub fn masters(&self) -> Vec<usize> {
        (0..self.len()).filter(|&i| !self.slots_of(i).is_empty()).collect()
    }

    /// The replicas of a node that run.
    pub fn replicas_of(&self, i: usize) -> Vec<usize> {
        let known = self.any().known();
        let of_i = known.iter().filter(|other| other.master_id == self.nodes[i].id && !other.failed);
        of_i.filter_map(|other| self.nodes.iter().position(|node| node.id == other.id && node.runs)).collect()
    }

    /// The slots of a node.
    pub fn slots_of(&self, i: usize) -> Vec<RangeInclusive<u16>> {
        let known = self.any().known();
        let ranges = known.iter().filter(|other| other.id == self.nodes[i].id).flat_map(|other| &other.slots);
        // `[93->-node]` is a slot that moves.
        ranges.filter(|range| !range.starts_with('[')).map(|range| slots(range)).collect()
    }

    /// The node that has a slot.
    ///
    /// # Panics
    /// If no node has it.
    pub fn owner(&self, slot: u16) -> usize {
        let has = |&i: &usize| self.slots_of(i).iter().any(|range| range.contains(&slot));
        (0..self.len()).find(has).expect("the cluster has all slots")
    }

    /// Kills a node, as a crash does. [`wait_until_whole`](Self::wait_until_whole) waits for the failover.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].server.kill9();
        self.nodes[i].runs = false;
    }

    /// Starts a killed node again, empty. A master whose replica has not taken over empties its replica too.
    ///
    /// # Panics
    /// As [`RedisServer::restart`].
    pub fn restart(&mut self, i: usize) {
        self.nodes[i].server.restart();
        self.nodes[i].runs = true;
    }

    /// Stops the process of a node without ending it (see [`RedisServer::stop_signal`]).
    ///
    /// # Panics
    /// If the node was killed.
    pub fn pause(&mut self, i: usize) {
        self.nodes[i].server.stop_signal();
        self.nodes[i].runs = false;
    }

    /// Continues a paused node.
    ///
    /// # Panics
    /// If the node was killed.
    pub fn cont(&mut self, i: usize) {
        self.nodes[i].server.cont();
        self.nodes[i].runs = true;
    }

    /// Makes a replica of a running master the master, without a loss, and gives its number.
    ///
    /// # Panics
    /// If the master has no replica, or the failover takes too long.
    pub fn failover(&self, i: usize) -> usize {
        let replica = *self.replicas_of(i).first().expect("the master has a replica");
        let node = &self.nodes[replica];
        let deadline = Instant::now() + CHANGES_WITHIN;
        while !node.is_master() {
            assert!(
                Instant::now() < deadline,
                "timeout: node {replica} is not a master; it logged:\n{}",
                node.server.log()
            );
            // Fails while another failover runs.
            let _ = node.server.client().command(&["CLUSTER", "FAILOVER"]);
            let retry = Instant::now() + FAILOVER_WITHIN;
            while !node.is_master() && Instant::now() < retry {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.wait_until_whole();
        replica
    }

    /// Begins to move a slot: `from` answers `ASK` for keys that it does not have, and `to` serves them after `ASKING`.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.node(to).cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.nodes[from].id]);
        self.node(from).cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.nodes[to].id]);
    }

    /// Moves at most `most` keys of a slot that moves, and gives their number.
    ///
    /// # Panics
    /// As [`begin_move`](Self::begin_move).
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, most: usize) -> usize {
        let reply = self.node(from).cli(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &most.to_string()]);
        let crate::Reply::Array(keys) = reply else { panic!("a list of keys: {reply:?}") };
        let keys: Vec<_> = keys.iter().filter_map(|key| key.bytes()).collect();
        if !keys.is_empty() {
            let port = self.node(to).own_port().to_string();
            let mut words: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"10000"];
            if let Some(password) = self.node(to).password() {
                words.extend([&b"AUTH"[..], password.as_bytes()]);
            }
            words.push(b"KEYS");
            words.extend(&keys);
            self.node(from).cli(&words);
        }
        keys.len()
    }

    /// Ends the move of a slot whose keys are moved.
    ///
    /// # Panics
    /// As [`begin_move`](Self::begin_move), and if the nodes do not agree in time.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let masters =
            (0..self.len()).filter(|&i| i != from && i != to && self.nodes[i].runs && self.nodes[i].is_master());
        // The new owner must be the first to know, or both would send clients to the other.
        for i in [to, from].into_iter().chain(masters) {
            self.node(i).cli(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &self.nodes[to].id]);
        }
    }

    /// Moves a slot with its keys.
    ///
    /// # Panics
    /// As [`end_move`](Self::end_move).
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        while self.move_keys(slot, from, to, 100) > 0 {}
        self.end_move(slot, from, to);
    }

    /// Moves the first `count` slots of `from`.
    ///
    /// # Panics
    /// As [`end_move`](Self::end_move).
    pub fn reshard(&self, from: usize, to: usize, count: usize) {
        let slots: Vec<u16> = self.slots_of(from).into_iter().flatten().take(count).collect();
        for slot in slots {
            self.move_slot(slot, from, to);
        }
        self.wait_until_whole();
    }

    /// Waits until the nodes that run know the same roles and slots, serve all slots, have failed the others, and name all
    /// replicas to clients.
    ///
    /// # Panics
    /// If this takes too long.
    pub fn wait_until_whole(&self) {
        let deadline = Instant::now() + CHANGES_WITHIN;
        while let Err(why) = self.is_whole() {
            assert!(Instant::now() < deadline, "timeout: the cluster is not whole: {why}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a replica has all writes that node `i` took so far.
    ///
    /// # Panics
    /// If this takes too long, or if the node has no slots.
    pub fn wait_for_replica(&self, i: usize) {
        let mut client = self.nodes[i].server.client();
        // `WAIT` counts from the last write of its own connection, and each node takes only names of its slots.
        let takes = |n: &u32| {
            let reply = client.command(&["DEL", &format!("marker-{n}")]).expect("the node answers");
            matches!(reply, Reply::Integer(_))
        };
        let name = (0..10_000).find(takes).map(|n| format!("marker-{n}")).expect("the node has slots");
        for command in [&["SET", &name, ""][..], &["DEL", &name]] {
            let reply = client.command(command).expect("the node answers");
            assert!(matches!(&reply, Reply::Simple(_) | Reply::Integer(1)), "{reply:?}");
        }
        let reached = client.command(&["WAIT", "1", "20000"]).expect("the node answers");
        assert_eq!(reached.integer(), Some(1), "a replica has all");
    }

    fn is_whole(&self) -> Result<(), String> {
        let mut views = BTreeSet::new();
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs) {
            let says = |what: &str| Err(format!("node {i} {what}"));
            if !text(&node.server, &["CLUSTER", "INFO"]).contains("cluster_state:ok\r\n") {
                return says("does not serve all slots");
            }
            let mut known = node.known();
            for other in &mut known {
                let runs = self.nodes.iter().any(|node| node.id == other.id && node.runs);
                if other.failed == runs || (runs && !other.connected) {
                    return says(&format!("knows {other:?}"));
                }
                // A link to a failed node comes and goes.
                other.connected = runs;
            }
            known.sort();
            if !node.is_master() && !text(&node.server, &["INFO", "replication"]).contains("master_link_status:up\r\n")
            {
                return says("has no link to its master");
            }
            let live: usize = known.iter().filter(|other| !other.master && !other.failed).count();
            if node.replicas_for_clients() != live {
                return says(&format!("names fewer than {live} replicas to clients"));
            }
            views.insert(known);
        }
        if views.len() == 1 { Ok(()) } else { Err(format!("the nodes disagree: {views:?}")) }
    }

    fn any(&self) -> &Node {
        self.nodes.iter().find(|node| node.runs).expect("a node runs")
    }
}

impl Node {
    /// The nodes that this one knows, with itself.
    fn known(&self) -> Vec<Known> {
        let lines = text(&self.server, &["CLUSTER", "NODES"]);
        lines.lines().map(|line| Known::parse(line).unwrap_or_else(|| panic!("a line of nodes: {line:?}"))).collect()
    }

    fn is_master(&self) -> bool {
        self.known().iter().any(|other| other.id == self.id && other.master)
    }

    /// The number of replicas in `CLUSTER SLOTS`.
    fn replicas_for_clients(&self) -> usize {
        let mut replicas = BTreeSet::new();
        let reply = self.server.cli(&["CLUSTER", "SLOTS"]);
        // Each range has its two ends, its master and its replicas. Each node has an address, a port and an id.
        for range in reply.items() {
            replicas.extend(
                range.items().iter().skip(3).filter_map(|node| node.items().get(2)?.bytes().map(<[u8]>::to_vec)),
            );
        }
        replicas.len()
    }
}

impl Known {
    /// The words are: id, address, flags, master, ping, pong, epoch, link, slots.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let (&[id, _, flags, master_id, _, _, _, link], slots) = words.split_first_chunk::<8>()?;
        let has = |flag| flags.split(',').any(|f| f == flag);
        Some(Self {
            id: id.to_owned(),
            master: has("master"),
            failed: has("fail"),
            master_id: master_id.to_owned(),
            connected: link == "connected" && !has("handshake") && !has("fail?"),
            slots: slots.iter().map(|&range| range.to_owned()).collect(),
        })
    }
}

/// The slots of `5-7` or `5`.
fn slots(range: &str) -> RangeInclusive<u16> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let slot = |text: &str| text.parse().unwrap_or_else(|e| panic!("{e}: a range of slots: {range:?}"));
    slot(first)..=slot(last)
}

fn text(server: &RedisServer, words: &[&str]) -> String {
    let reply = server.cli(words);
    String::from_utf8_lossy(reply.bytes().expect("text")).into_owned()
}
