"""The CPU time of every store, from LMCache's native interface and from Rust, beside the bare system calls and LMCache's clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..lmcache_server.manager import spec
from ..s3_server import S3Server
from ..server import RedisServer
from ..topology_servers import Cluster, certificates, valkey_server
from .clients import CONNECTIONS, MAKERS
from .commands import Command
from .groups import Group, Makers, files
from .native import Native
from .s3 import LOOKUPS, THREADS
from .server import Adapter
from .topologies import RedisPy

OPTIONS = f"connections={CONNECTIONS}"


def _native(maker: str, target: object, clear: Callable[[], None] = lambda: None) -> Callable[[int, int], object]:
    return lambda size, n: Native(partial(MAKERS[maker], str(target)), size, n, clear=clear)


def _both(name: str, url: str) -> Makers:
    """kvconn's store from Python and from Rust."""
    return {f"kvconn {name}": _native("kvconn", url), f"{name} in Rust": lambda size, n: Command(url, size, n)}


@contextmanager
def redis(_folder: Path, _pause: float, program: str, schemes: tuple[str, ...]) -> Iterator[Group]:
    """A redis server, or another program of the same protocol."""
    with RedisServer(program=program) as server:
        clients: Makers = {"bare calls": _native("sockets", server.port), "LMCache C++": _native("cpp_redis", server.port)}
        for scheme in schemes:
            clients |= _both(scheme, f"{scheme}://127.0.0.1:{server.port}?{OPTIONS}")
        yield f"{schemes[-1]} server", clients, lambda: server.ask("FLUSHALL")


@contextmanager
def fs(folder: Path, _pause: float) -> Iterator[Group]:
    """Files."""
    with files(folder) as (root, clear):
        # The bare calls and LMCache's client write new files, so that all three do.
        clients: Makers = {
            "bare calls": _native("files", f"{root}/bare", clear),
            "LMCache C++": _native("cpp_fs", f"{root}/c++", clear),
            "kvconn fs": _native("kvconn", f"fs://{root}/kvconn", clear),
            "fs in Rust": lambda size, n: Command(f"fs://{root}/rust", size, n),
        }
        yield f"files in {folder}", clients, clear


@contextmanager
def tls(_folder: Path, _pause: float) -> Iterator[Group]:
    """A server with TLS."""
    with certificates() as made, RedisServer(tls=made.options) as server:
        address = f"127.0.0.1:{server.port}?tls_ca={made.authority}&{OPTIONS}"
        clients: Makers = {"redis-py": lambda size, n: Native(partial(RedisPy, server.port, made.authority), size, n)}
        clients |= _both("resps", f"resps://{address}") | _both("rediss", f"rediss://{address}")
        yield "redis server with TLS", clients, lambda: server.ask("FLUSHALL")


@contextmanager
def cluster(_folder: Path, _pause: float) -> Iterator[Group]:
    """A cluster of three nodes."""
    with Cluster() as servers, RedisServer() as single:
        clients: Makers = {"bare calls, one node": _native("sockets", single.port)}
        clients |= _both("resp", f"resp://{servers.hosts}?cluster=true&{OPTIONS}")
        clients |= _both("redis-cluster", f"redis-cluster://{servers.hosts}?{OPTIONS}")

        def clear() -> None:
            servers.flush()
            single.ask("FLUSHALL")

        yield "cluster of three redis servers", clients, clear


@contextmanager
def s3(folder: Path, _pause: float) -> Iterator[Group]:
    """An S3 server."""
    with S3Server(folder=folder) as server:

        def adapter(config: dict[str, object]) -> Callable[[int, int], object]:
            return lambda size, n: Adapter(config, size, n, server.empty, lookups=LOOKUPS, batches=1)

        ours = server.ours()
        clients: Makers = {
            "LMCache s3": adapter(server.adapter | THREADS),
            "KvconnL2Adapter": adapter(json.loads(spec(ours, lookup_timeout_ms=30_000))),
        }
        yield "S3 (s3s-fs)", clients | _both("s3", ours), server.empty


GROUPS = {
    "cpu-redis": partial(redis, program="redis-server", schemes=("resp", "redis")),
    "cpu-valkey": lambda folder, pause: redis(folder, pause, valkey_server(), ("valkey",)),
    "cpu-fs": fs,
    "cpu-tls": tls,
    "cpu-cluster": cluster,
    "cpu-s3": s3,
}
