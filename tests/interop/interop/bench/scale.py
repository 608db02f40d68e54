"""Stores with very many small chunks: listings, lookups of 10,000 keys, a first put below a capacity, and eviction."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import command
from ..server import RedisServer
from .clients import CONNECTIONS, MAKERS
from .completions import Waiter
from .figures import Figure, Round, clocked
from .groups import Group, Makers, files
from .puts import keys

ASKED = 10_000
# Chunks of one batch while the store is filled.
FILLED = 5_000
TIMEOUT_S = 600
POLL_S = 0.002


@dataclass(frozen=True)
class Scale:
    """Fills the store in each round."""

    maker: str
    target: str
    """The client that fills the store, and asks for keys: its name in `clients.MAKERS`, and its port, folder or URL."""
    size: int
    n: int
    clear: Callable[[], None]
    more: dict[str, Callable[[int, int], Round]] = field(default_factory=dict)
    """Further measurements on the full store. They get the size and the number of its chunks."""

    def round(self) -> Round:
        """Measures each operation once."""
        self.clear()
        waiter = Waiter(MAKERS[self.maker](self.target))
        value = memoryview(bytes(self.size))
        for first in range(0, self.n, FILLED):
            names = keys(first, min(FILLED, self.n - first))
            waiter.do(waiter.client.submit_batch_set, names, [value] * len(names))
        names = keys(0, min(ASKED, self.n))
        # The first call opens connections.
        waiter.do(waiter.client.submit_batch_exists, names)
        found = {"exists of 10,000": clocked(1, lambda: _all(waiter.do(waiter.client.submit_batch_exists, names)))}
        waiter.client.close()
        for measure in self.more.values():
            found |= measure(self.size, self.n)
        return found

    def close(self) -> None:
        """Does nothing: no client is open between rounds."""


def _all(found: list[bool]) -> None:
    if not all(found):
        raise RuntimeError("a stored key is missing")


def _ran(name: str, *args: str) -> Round:
    """The time and the memory of one run of the command."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_kib = 0
    with subprocess.Popen([command.path(), *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        # The resource usage of a child starts with this process's memory, so it does not show the command's.
        while process.poll() is None:
            found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak_kib = max(peak_kib, int(found[1]) if found else 0)
            time.sleep(POLL_S)
    took, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise RuntimeError(f"`kvconn {' '.join(args)}` ends with {process.returncode}")
    return {name: Figure(1 / took, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, peak=peak_kib / 1024)}


def _listed(folder: str) -> Round:
    """The bare calls of a listing: `readdir`, and `stat` of each file."""
    return {"list": clocked(1, lambda: _sizes(folder))}


def _sizes(folder: str) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def _puts(name: str, url: str, folder: str, capacity: int) -> Round:
    """Puts below a capacity, in a new process. The directory may never have more bytes."""
    program = [sys.executable, "-m", "interop.bench.puts", f"{url}?capacity={capacity}"]
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{url}: {done.stderr}")
    # The ledger is not a chunk.
    if (used := sum(file.stat().st_size for file in Path(folder).glob("*.data"))) > capacity:
        raise RuntimeError(f"{folder} has {used} bytes, and its capacity is {capacity}")
    first, longest = (Figure(**figure) for figure in json.loads(done.stdout))
    return {f"first put, {name}": first, f"longest put, {name}": longest}


@contextmanager
def fs(folder: Path, _pause: float) -> Iterator[Group]:
    """Files."""
    with files(folder) as (root, _):
        ours = f"{root}/kvconn"

        def clear() -> None:
            # Also the ledger of the capacity.
            for each in (ours, f"{root}/bare", f"{root}/c++"):
                subprocess.run(["rm", "-rf", each], check=True)

        more = {
            "list": lambda _size, _n: _ran("list", "ls", f"fs://{ours}"),
            # A capacity that every chunk fits into, and one that half of them fit into.
            "first": lambda size, n: _puts("scan", f"fs://{ours}", ours, 4 * size * n),
            "evict": lambda size, n: _puts("evict", f"fs://{ours}", ours, size * n // 2),
        }
        clients: Makers = {
            "bare calls": lambda size, n: Scale("files", f"{root}/bare", size, n, clear, {"list": lambda *_: _listed(f"{root}/bare")}),
            "LMCache C++": lambda size, n: Scale("cpp_fs", f"{root}/c++", size, n, clear),
            "kvconn fs": lambda size, n: Scale("kvconn", f"fs://{ours}", size, n, clear, more),
        }
        yield f"files in {folder}", clients, clear


@contextmanager
def redis(_folder: Path, _pause: float) -> Iterator[Group]:
    """Two redis servers: `kvconn cp` copies from one to the other one."""
    with RedisServer() as server, RedisServer() as other:

        def clear() -> None:
            for each in (server, other):
                each.ask("FLUSHALL")

        def more(scheme: str) -> dict[str, Callable[[int, int], Round]]:
            url = f"{scheme}://127.0.0.1:{server.port}"
            return {
                "list": lambda *_: _ran("list", "ls", url),
                "cp": lambda *_: _ran("cp", "cp", url, f"{scheme}://127.0.0.1:{other.port}"),
            }

        clients: Makers = {
            "bare calls": lambda size, n: Scale("ahead", str(server.port), size, n, clear),
            "LMCache C++": lambda size, n: Scale("cpp_redis", str(server.port), size, n, clear),
        }
        for scheme in ("resp", "redis"):
            url = f"{scheme}://127.0.0.1:{server.port}?connections={CONNECTIONS}"
            clients[f"kvconn {scheme}"] = lambda size, n, url=url, scheme=scheme: Scale("kvconn", url, size, n, clear, more(scheme))
        yield "redis server", clients, clear


GROUPS = {"scale-fs": fs, "scale-redis": redis}
