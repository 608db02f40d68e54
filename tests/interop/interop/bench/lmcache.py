"""LMCache's clients and kvconn's, in both of LMCache's modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..server import RedisServer
from .backend import Backend
from .clients import CONNECTIONS, WORKERS, cpp_fs, cpp_redis, kvconn
from .commands import Command
from .groups import Group, files
from .native import Native


@contextmanager
def redis(_folder: Path, pause: float) -> Iterator[Group]:
    """Multiprocess mode on a redis server, and kvconn's stores on the same server without Python."""
    with RedisServer() as server:
        address = f"127.0.0.1:{server.port}?connections={CONNECTIONS}"
        clients = {
            "LMCache C++": lambda size, n: Native(partial(cpp_redis, str(server.port)), size, n, pause),
            "kvconn resp": lambda size, n: Native(partial(kvconn, f"resp://{address}"), size, n, pause),
            "kvconn redis": lambda size, n: Native(partial(kvconn, f"redis://{address}"), size, n, pause),
            "resp without Python": lambda size, n: Command(f"resp://{address}", size, n),
            "redis without Python": lambda size, n: Command(f"redis://{address}", size, n),
        }
        title = "redis server: LMCache's `resp` adapter, kvconn's `native_plugin` on `resp://` and `redis://`, and `kvconn bench`"
        yield title, clients, lambda: server.ask("FLUSHALL")


@contextmanager
def fs(folder: Path, pause: float) -> Iterator[Group]:
    """Multiprocess mode on files."""
    with files(folder) as (root, clear):
        # LMCache's client does not overwrite a file.
        clients = {
            "LMCache C++": lambda size, n: Native(partial(cpp_fs, f"{root}/c++"), size, n, pause, clear),
            "kvconn fs": lambda size, n: Native(partial(kvconn, f"fs://{root}/kvconn"), size, n, pause, clear),
        }
        title = f"files in {folder}: LMCache's `fs_native` adapter with {WORKERS} workers, kvconn's `native_plugin` on `fs://`"
        yield title, clients, clear


@contextmanager
def external(_folder: Path, _pause: float) -> Iterator[Group]:
    """In-process mode on a redis server."""
    with RedisServer() as server:
        address = f"127.0.0.1:{server.port}"
        ours = f"external://{address}/kvconn.redis/?connector_name=RedisConnector"
        clients = {
            "LMCache Python": lambda size, n: Backend(f"redis://{address}", size, n),
            "kvconn external": lambda size, n: Backend(ours, size, n),
        }
        title = "redis server, inside vLLM's process: LMCache's own `redis://`, kvconn's `external://..kvconn.redis`"
        yield title, clients, lambda: server.ask("FLUSHALL")


GROUPS = {"redis": redis, "fs": fs, "external": external}
