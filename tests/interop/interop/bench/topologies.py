"""TLS against plain text and redis-py, a cluster against one node, and LMCache's valkey client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from redis import Redis

from ..server import RedisServer
from ..topology_servers import Cluster, certificates, valkey_server
from .clients import CONNECTIONS, kvconn
from .completions import Blocking, Client
from .groups import Group, Makers
from .native import Native
from .server import Adapter

CLUSTER_CHUNKS = 128


class RedisPy(Blocking):
    """The simplest client: redis-py, one command at a time."""

    def __init__(self, port: int, authority: Path) -> None:
        super().__init__()
        self.redis = Redis(port=port, ssl=True, ssl_ca_certs=str(authority))

    def submit_batch_set(self, keys: list[str], views: list[memoryview]) -> int:
        """Writes each value."""
        for key, view in zip(keys, views, strict=True):
            self.redis.set(key, view)
        return self.ended(None)

    def submit_batch_get(self, keys: list[str], views: list[memoryview]) -> int:
        """Reads each value, and copies it into its place."""
        for key, view in zip(keys, views, strict=True):
            view[:] = self.redis.get(key)
        return self.ended([True] * len(keys))

    def submit_batch_exists(self, keys: list[str]) -> int:
        """Asks for each key."""
        with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.exists(key)
            return self.ended([bool(found) for found in pipe.execute()])

    def close(self) -> None:
        """Closes the connection."""
        self.redis.close()
        super().close()


@contextmanager
def tls(_folder: Path, pause: float) -> Iterator[Group]:
    """A server with TLS, and one without."""
    with certificates() as made, RedisServer(tls=made.options) as server, RedisServer() as plain:
        options = f"connections={CONNECTIONS}"
        secure = f"127.0.0.1:{server.port}?tls_ca={made.authority}&{options}"
        makers: dict[str, Callable[[], Client]] = {
            "redis-py TLS": lambda: RedisPy(server.port, made.authority),
            "kvconn resp TLS": partial(kvconn, f"resps://{secure}"),
            "kvconn resp plain": partial(kvconn, f"resp://127.0.0.1:{plain.port}?{options}"),
            "kvconn redis TLS": partial(kvconn, f"rediss://{secure}"),
            "kvconn redis plain": partial(kvconn, f"redis://127.0.0.1:{plain.port}?{options}"),
        }

        def clear() -> None:
            for each in (server, plain):
                each.ask("FLUSHALL")

        clients: Makers = {name: (lambda size, n, make=make: Native(make, size, n, pause)) for name, make in makers.items()}
        yield "redis server with TLS: redis-py, kvconn's `native_plugin`; and kvconn's without TLS", clients, clear


@contextmanager
def cluster(_folder: Path, pause: float) -> Iterator[Group]:
    """A cluster of three nodes, and one server."""
    with Cluster() as servers, RedisServer() as single:
        options = f"connections={CONNECTIONS}"
        makers = {
            "resp on one node": partial(kvconn, f"resp://127.0.0.1:{single.port}?{options}"),
            "resp on three nodes": partial(kvconn, f"resp://{servers.hosts}?cluster=true&{options}"),
            "redis on one node": partial(kvconn, f"redis://127.0.0.1:{single.port}?{options}"),
            "redis on three nodes": partial(kvconn, f"redis-cluster://{servers.hosts}?{options}"),
        }

        def clear() -> None:
            servers.flush()
            single.ask("FLUSHALL")

        clients: Makers = {
            name: (lambda size, n, make=make: Native(make, size, min(n, CLUSTER_CHUNKS), pause)) for name, make in makers.items()
        }
        yield "cluster of three redis servers, and one redis server: kvconn's `native_plugin`", clients, clear


@contextmanager
def valkey(_folder: Path, _pause: float) -> Iterator[Group]:
    """A valkey server, and LMCache's server."""
    with RedisServer(program=valkey_server()) as server:
        params = {"url": f"valkey://127.0.0.1:{server.port}?connections={CONNECTIONS}"}
        adapters: dict[str, dict[str, object]] = {
            "LMCache valkey": {"type": "valkey", "startup_nodes": f"127.0.0.1:{server.port}", "num_workers": CONNECTIONS},
            "KvconnL2Adapter": {
                "type": "plugin",
                "module_path": "kvconn.lmcache",
                "class_name": "KvconnL2Adapter",
                "adapter_params": params,
            },
        }

        def clear() -> None:
            server.ask("FLUSHALL")

        clients: Makers = {
            name: (lambda size, n, adapter=adapter: Adapter(adapter, size, n, clear, server)) for name, adapter in adapters.items()
        }
        yield "valkey server, LMCache's server: its `valkey` adapter, `KvconnL2Adapter` on `valkey://`", clients, clear


GROUPS = {"topology-tls": tls, "topology-cluster": cluster, "topology-valkey": valkey}
