"""Multiprocess mode on valkey: LMCache's `valkey` adapter and kvconn's, in LMCache's StorageManager."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import kvconn
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string

from .. import command
from ..lmcache_server.manager import Manager, chunks, spec, wait_for
from ..report import Failed, Report, equal
from ..server import RedisServer
from ..topology_servers import Cluster, valkey_server

COUNT = 8
TTL_S = 600


class Case(NamedTuple):
    """Options of both sides on one server."""

    name: str
    theirs: dict[str, object]
    ours: dict[str, str]
    prefix: str = ""


CASES = (
    Case("plain", {}, {}),
    Case("key_prefix", {"key_prefix": "fleet-7"}, {"key_prefix": "fleet-7"}, "fleet-7@"),
    Case("ttl", {"ttl_seconds": TTL_S}, {"ttl_sec": str(TTL_S)}),
)
ON_A_CLUSTER = Case(
    "a cluster, with key_prefix and ttl",
    {"cluster_mode": True, "key_prefix": "fleet-7", "ttl_seconds": TTL_S},
    {"cluster": "true", "key_prefix": "fleet-7", "ttl_sec": str(TTL_S)},
    "fleet-7@",
)


def run(report: Report) -> None:
    """Runs all checks of this part."""
    if not report.has("valkey: kvconn has it", lambda: command.require("valkey")):
        return
    with RedisServer(program=valkey_server()) as server:
        for case in CASES:
            _shared(report, case, server, f"127.0.0.1:{server.port}")
        _prefixes(report, server, f"127.0.0.1:{server.port}")
    with Cluster(3, program=valkey_server()) as servers:
        _shared(report, ON_A_CLUSTER, servers, servers.hosts)
        with report.check("valkey adapter: every node of the cluster has chunks"):
            equal("nodes", servers.used(), len(servers.nodes))


def _url(case: Case, hosts: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in case.ours.items())
    return f"valkey://{hosts}?{query}"


def _adapters(case: Case, hosts: str) -> dict[str, str]:
    url = _url(case, hosts)
    native = {"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient"}
    return {
        "LMCache's adapter": json.dumps({"type": "valkey", "startup_nodes": hosts, **case.theirs}),
        "KvconnL2Adapter": spec(url, lookup_timeout_ms=30_000),
        "native_plugin": json.dumps(native | {"adapter_params": {"url": url}}),
    }


def _shared(report: Report, case: Case, server: RedisServer | Cluster, hosts: str) -> None:
    wanted = chunks(COUNT) | chunks(2, "alice")
    names = {case.prefix + _object_key_to_string(key) for key in wanted}
    for writer in _adapters(case, hosts):
        with report.check(f"valkey adapter, {case.name}: {writer} writes, all read"), _opened(case, hosts) as managers:
            server.ask("FLUSHALL")
            managers[writer].write(wanted)
            managers[writer].wait_stored()
            equal("keys on the server", server.keys(), names)
            for reader, manager in managers.items():
                manager.forget()
                equal(f"chunks that {reader} reads", manager.fetch([*wanted]), [*wanted.values()])
            _require_ttl(case, server, names)
            url = _url(case, hosts)
            equal("the keys that `kvconn ls` shows", command.keys(url), {_object_key_to_string(key) for key in wanted})
            with kvconn.connect(url) as store:
                for key, data in wanted.items():
                    equal("the bytes that kvconn.Store reads", bytes(store.get(_object_key_to_string(key))), data)
    with report.check(f"valkey adapter, {case.name}: each adapter deletes the other's chunks"), _opened(case, hosts) as managers:
        for writer, remover in (("LMCache's adapter", "KvconnL2Adapter"), ("KvconnL2Adapter", "LMCache's adapter")):
            server.ask("FLUSHALL")
            managers[writer].write(wanted)
            managers[writer].wait_stored()
            gone: list[ObjectKey] = [*wanted][:3]
            managers[remover].adapter.delete(gone)
            left = names - {case.prefix + _object_key_to_string(key) for key in gone}
            wait_for(f"{remover} deletes", lambda left=left: server.keys() == left)
            for manager in managers.values():
                manager.forget()


@contextmanager
def _opened(case: Case, hosts: str) -> Iterator[dict[str, Manager]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Manager(adapter)) for name, adapter in _adapters(case, hosts).items()}


def _require_ttl(case: Case, server: RedisServer | Cluster, names: set[str]) -> None:
    nodes = server.nodes if isinstance(server, Cluster) else [server]
    left = [node.ask("TTL", name) for node in nodes for name in node.keys()]
    equal("keys that have a time to live or not", len(left), len(names))
    longest = TTL_S if "ttl_sec" in case.ours else -1
    if not all(isinstance(seconds, int) and longest - 60 < seconds <= longest for seconds in left):
        raise Failed(f"seconds to live: {left} instead of at most {longest}")


def _prefixes(report: Report, server: RedisServer, hosts: str) -> None:
    with report.check("valkey adapter: chunks of another prefix are not found, listed or removed"):
        server.ask("FLUSHALL")
        wanted = chunks(COUNT)
        plain, prefixed = CASES[0], CASES[1]
        for case in (plain, prefixed):
            with Manager(_adapters(case, hosts)["LMCache's adapter"]) as manager:
                manager.write(wanted)
                manager.wait_stored()
        texts = {_object_key_to_string(key) for key in wanted}
        equal("keys that `kvconn ls` shows with the prefix", command.keys(_url(prefixed, hosts)), texts)
        with kvconn.connect(f"valkey://{hosts}?key_prefix=other") as store:
            equal("keys of a prefix without chunks", list(store.list()), [])
            equal("a chunk of a prefix without chunks", store.get(min(texts)), None)
        command.succeed("rm", _url(prefixed, hosts), *sorted(texts))
        equal("keys on the server after kvconn removed those of the prefix", server.keys(), texts)
