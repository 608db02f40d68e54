"""Bytes through LMCache's StorageManager and back: every store, after a restart, and with LMCache's own adapters."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..report import Report, equal
from ..s3_server import S3Server
from ..server import RedisServer
from .manager import CHUNK_BYTES, Manager, chunks, key, spec

REQUESTS = 8
_NAMES = itertools.count()


def _patient(url: str, **params: Any) -> str:
    """The JSON of ``--l2-adapter``. On a busy machine, a lookup can take longer than the adapter waits by default."""
    return spec(url, lookup_timeout_ms=30_000, **params)


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """A URL of each store, by name. The stores are empty."""
    with RedisServer() as server, S3Server() as objects, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        # A store in memory lives as long as LMCache holds its adapter, so each has a name of its own.
        address, name = f"127.0.0.1:{server.port}", next(_NAMES)
        yield {
            "memory": f"memory://lmcache-{name}",
            "fs": f"fs://{folder}/fs",
            "redis": f"redis://{address}/1",
            "resp": f"resp://{address}/2",
            "s3": objects.ours("lmcache"),
            "tiered": f"tiered://?front=memory://lmcache-front-{name}&back=fs://{folder}/back",
        }


def run(report: Report) -> None:
    """Stores and fetches in one process."""
    with stores() as urls:
        for name, url in urls.items():
            with report.check(f"lmcache-server: {name}: every byte comes back from the store"), Manager(_patient(url)) as server:
                _round_trip(server)
            with report.check(f"lmcache-server: {name}: {REQUESTS} requests at once"), Manager(_patient(url)) as server:
                _at_once(server)


def _round_trip(server: Manager) -> None:
    wanted = chunks(20) | chunks(3, "alice")
    server.store(wanted)
    equal("bytes that the adapter counts", server.usage()[1], {"": 20 * CHUNK_BYTES, "alice": 3 * CHUNK_BYTES})
    server.forget()
    equal("chunks that LMCache fetches", server.fetch([*wanted, key(99)]), [*wanted.values()])
    equal("chunks behind a gap", server.fetch([key(98), key(1)]), [])
    equal("chunks of another model", server.fetch([key(1, model="other")]), [])
    small = chunks(3, "small", size=1000)
    server.store(small)
    server.forget()
    equal("small chunks", server.fetch([*small], size=1000), [*small.values()])
    server.forget()
    equal("chunks of another size", server.fetch([*small], size=2000), [])
    status = server.adapter.report_status()
    equal("the state of the store", (status["state"], status["is_healthy"], status["locked_keys"]), ("ok", True, 0))
    equal("LMCache's memory is whole", server.manager.memcheck(), True)


def _at_once(server: Manager) -> None:
    requests = [chunks(10, f"user-{i}") for i in range(REQUESTS)]
    for request in requests:
        server.write(request)
    server.store(chunks(1, "last"))
    server.forget()
    with ThreadPoolExecutor(REQUESTS) as threads:
        fetched = list(threads.map(lambda request: server.fetch([*request]), requests))
    equal("chunks that the requests fetch", fetched, [[*request.values()] for request in requests])


def restart(report: Report) -> None:
    """The keys, the usage and the bytes that a second manager gets."""
    wanted = chunks(6) | chunks(4, "alice")
    with stores() as urls:
        for name, url in urls.items():
            with report.check(f"lmcache-server: {name}: a restart keeps bytes, usage and keys"), Manager(_patient(url)) as first:
                # The memory store lives as long as its last connector.
                first.store(wanted)
                with Manager(_patient(url, max_capacity_gb=1)) as second:
                    second.wait_listed()
                    total, by_salt = second.usage()
                    # redis keeps a header of 28 bytes beside each chunk.
                    counted = {salt: size // CHUNK_BYTES for salt, size in by_salt.items()}
                    equal("chunks that the usage counts", counted, {"": 6, "alice": 4})
                    equal("the sum of the usage", total, sum(by_salt.values()))
                    equal("chunks that the second one fetches", second.fetch([*wanted]), [*wanted.values()])
                    equal("the keys that it lists", _listed(second), {k.to_encoded_object_key() for k in wanted})


def _listed(server: Manager) -> set:
    found, cursor = [], None
    while True:
        page = server.adapter.list_l2_keys("org/model", 3, cursor)
        found += [entry.key for entry in page.entries]
        cursor = page.next_page_token
        if cursor is None:
            equal("keys that are listed twice", len(found) - len(set(found)), 0)
            return set(found)


def shared(report: Report) -> None:
    """LMCache's own adapters and `native_plugin` read kvconn's chunks, and kvconn reads theirs."""
    wanted, more = chunks(5), chunks(5, first=5)
    with RedisServer() as server, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        ours = {"fs": f"fs://{folder}", "resp": f"resp://127.0.0.1:{server.port}"}
        theirs = {
            "fs": {"type": "fs", "base_path": folder},
            "resp": {"type": "resp", "host": "127.0.0.1", "port": server.port},
        }
        for name, url in ours.items():
            native = {"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient", "adapter_params": {"url": url}}
            for other, config in {f"LMCache's {name}": theirs[name], "native_plugin": native}.items():
                with report.check(f"lmcache-server: {name}: shares its chunks with {other}"):
                    with Manager(_patient(url)) as first:
                        first.store(wanted)
                    with Manager(json.dumps(config)) as second:
                        equal(f"chunks that {other} reads", second.fetch([*wanted]), [*wanted.values()])
                        second.write(more)
                        second.wait_stored()
                    with Manager(_patient(url)) as third:
                        equal(f"chunks that {other} wrote", third.fetch([*more]), [*more.values()])
                        third.adapter.delete([*wanted, *more])
        with report.check("lmcache-server: a namespace keeps its chunks, its keys and its usage apart"):
            url = f"{ours['resp']}/3"
            with Manager(_patient(url, namespace="a", shared=True)) as a, Manager(_patient(url, namespace="b")) as b:
                a.store(wanted)
                b.store(more)
                b.wait_listed()
                equal("chunks of the other namespace", b.fetch([*wanted]), [])
                equal("keys of each namespace", (_listed(a), _listed(b)), tuple({k.to_encoded_object_key() for k in c} for c in (wanted, more)))
                equal("bytes that the second one counts", b.usage()[0], 5 * CHUNK_BYTES)
                equal("LMCache's flag for a store of several servers", a.adapter.report_status()["shared"], True)
