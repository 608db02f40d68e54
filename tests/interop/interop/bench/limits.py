"""Bursts after a pause, big chunks, long wires, and clients with few cores: LMCache's C++ clients and kvconn's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from ..server import RedisServer
from .clients import CONNECTIONS, MAKERS
from .fresh import Fresh
from .groups import CORES, DELAYS_MS, Group, Makers, Opened, files
from .native import Native

PAUSE_S = 0.3
BURSTS, BATCHES = 6, 4
Store = tuple[str, dict[str, tuple[str, str]], Callable[[], None]]
"""What it is; by the client's name, its name in `clients.MAKERS` and its port, folder or URL; and a function that clears the store."""
OpenedStore = Callable[[Path], AbstractContextManager[Store]]


@contextmanager
def on_redis(_folder: Path) -> Iterator[Store]:
    """A redis server."""
    with RedisServer() as server:
        yield "redis server", on_port(server.port), lambda: server.ask("FLUSHALL")


def on_port(port: int) -> dict[str, tuple[str, str]]:
    """The clients of a redis server."""
    address = f"127.0.0.1:{port}?connections={CONNECTIONS}"
    ours = {f"kvconn {scheme}": ("kvconn", f"{scheme}://{address}") for scheme in ("resp", "redis")}
    return {"LMCache C++": ("cpp_redis", str(port))} | ours


@contextmanager
def on_files(folder: Path) -> Iterator[Store]:
    """Files."""
    with files(folder) as (root, clear):
        yield f"files in {folder}", {"LMCache C++": ("cpp_fs", f"{root}/c++"), "kvconn fs": ("kvconn", f"fs://{root}/kvconn")}, clear


@contextmanager
def burst(folder: Path, pause: float, store: OpenedStore) -> Iterator[Group]:
    """New processes, with a pause before each batch."""
    pause = pause or PAUSE_S
    with store(folder) as (title, named, clear):
        clients: Makers = {name: partial(Fresh, *client, batches=BURSTS, pause=pause) for name, client in named.items()}
        yield f"{title}, batches after pauses of {pause:g} s, in a new process each round", clients, clear


@contextmanager
def big(folder: Path, pause: float, store: OpenedStore) -> Iterator[Group]:
    """Batches of big chunks."""
    with store(folder) as (title, named, clear):
        # LMCache's client does not overwrite a file.
        before = clear if store is on_files else lambda: None
        clients: Makers = {
            name: (lambda size, n, make=partial(MAKERS[maker], target): Native(make, size, n, pause, before))
            for name, (maker, target) in named.items()
        }
        yield f"{title}, big chunks", clients, clear


@contextmanager
def cores(folder: Path, pause: float, store: OpenedStore, count: int) -> Iterator[Group]:
    """New processes with some of the cores. The server has all of them."""
    with store(folder) as (title, named, clear):
        clients: Makers = {name: partial(Fresh, *client, batches=BATCHES, pause=pause, cores=count) for name, client in named.items()}
        yield f"{title}, the client on {count} of {os.cpu_count()} cores", clients, clear


@contextmanager
def latency(_folder: Path, pause: float, delay_ms: float) -> Iterator[Group]:
    """A long wire to a redis server. The first client gives the wire's own time."""
    with RedisServer() as server, _delayed(server.port, delay_ms) as port:
        named = {"bare calls": ("ahead", str(port))} | on_port(port)
        clients: Makers = {
            name: (lambda size, n, make=partial(MAKERS[maker], target): Native(make, size, n, pause))
            for name, (maker, target) in named.items()
        }
        yield f"redis server, {delay_ms:g} ms of latency in each direction", clients, lambda: server.ask("FLUSHALL")


@contextmanager
def _delayed(port: int, delay_ms: float) -> Iterator[int]:
    """Starts the proxy that `environment.sh` builds. It ends when its stdin does."""
    command = [Path(os.environ["KVCONN"]).with_name("delay"), str(port), f"{delay_ms / 1000:g}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdin and proxy.stdout
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.stdin.close()


STORES: dict[str, OpenedStore] = {"redis": on_redis, "fs": on_files}
GROUPS: dict[str, Opened] = (
    {f"burst-{name}": partial(burst, store=store) for name, store in STORES.items()}
    | {f"big-{name}": partial(big, store=store) for name, store in STORES.items()}
    | {f"latency-{delay:g}": partial(latency, delay_ms=delay) for delay in DELAYS_MS}
    | {f"cores-{name}-{count}": partial(cores, store=store, count=count) for name, store in STORES.items() for count in CORES}
)
