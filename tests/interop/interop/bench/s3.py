"""LMCache's own S3 clients (awscrt) and kvconn's, in both of LMCache's modes, on one `s3s-fs`.

The server keeps its objects on a tmpfs, but reads them in pieces of 4 KiB and shares the cores with the clients. So it limits the
throughput, and the CPU time of the clients is what to compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..lmcache_server.manager import spec
from ..s3_server import S3Server
from ..wheel import plugin
from .backend import Backend
from .groups import Group
from .server import Adapter

# The server is slow, and the bench should not take longer than a few minutes.
LOOKUPS, MAX_CHUNKS = 10, 16
THREADS = {"s3_num_io_threads": 64}
"""LMCache's default."""


@contextmanager
def adapters(folder: Path, _pause: float, at_once: int) -> Iterator[Group]:
    """LMCache's server: its `s3` adapter, and `KvconnL2Adapter`."""
    with S3Server(folder=folder) as server:
        configs = {
            "LMCache s3": server.adapter | THREADS,
            "KvconnL2Adapter": json.loads(spec(server.ours(), lookup_timeout_ms=30_000)),
        }
        clients = {
            name: (
                lambda size, n, config=config: Adapter(
                    config, size, min(n, MAX_CHUNKS), server.empty, at_once=at_once, lookups=LOOKUPS, batches=1
                )
            )
            for name, config in configs.items()
        }
        title = f"S3 (s3s-fs), LMCache's server, {_chunks(at_once)} a call: its `s3` adapter, `KvconnL2Adapter` on `s3://`"
        yield title, clients, server.empty


@contextmanager
def connectors(folder: Path, _pause: float, at_once: int) -> Iterator[Group]:
    """Inside vLLM's process: LMCache's `s3://`, and kvconn as a plugin."""
    with S3Server(folder=folder) as server:
        options = {"save_chunk_meta": False}
        theirs, ours = server.extra_config | THREADS | options, plugin("kv", server.ours()) | options
        clients = {
            "LMCache s3": lambda size, n: Backend(server.theirs, size, min(n, MAX_CHUNKS), at_once, calls_of_one=False, **theirs),
            "kvconn plugin": lambda size, n: Backend("plugin://kv", size, min(n, MAX_CHUNKS), at_once, calls_of_one=False, **ours),
        }
        title = f"S3 (s3s-fs), inside vLLM's process, {_chunks(at_once)} a call: LMCache's own `s3://`, kvconn's plugin on `s3://`"
        yield title, clients, server.empty


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"


GROUPS = {
    "s3-adapter-1": partial(adapters, at_once=1),
    "s3-adapter-8": partial(adapters, at_once=8),
    "s3-connector-8": partial(connectors, at_once=8),
}
