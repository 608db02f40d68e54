"""LMCache's clients and kvconn's in turn, side by side."""

import argparse
import asyncio
import json
import os
import select
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

from lmcache.lmcache_redis import LMCacheRedisClient
from lmcache.utils import parse_cache_key
from lmcache.v1.memory_management import MemoryFormat

from . import chunks, command, engine
from .server import RedisServer

GIB = 1 << 30
SIZES = {"64KiB": 64 << 10, "1MiB": 1 << 20, "4MiB": 4 << 20}
CONNECTIONS = 8
# Bytes of one batch: they stay within every pool, and a batch takes long enough to be timed.
BATCH_BYTES = 256 << 20
BATCH_AT_MOST = 2048
# Questions about a batch are quick: so many make a figure. LMCache's Python asks for one key after the other.
EXISTS_CALLS = 20
EXISTS_CALLS_PYTHON = 1
WITHIN_S = 120


@dataclass(frozen=True)
class Figure:
    """One operation in one round: GiB/s or questions/s, and CPU seconds of the client a GiB (or a million questions)."""

    rate: float
    cpu: float


Round = dict[str, Figure]


class Native:
    """LMCache's C++ client, as its multiprocess mode uses it: one batch at a time over eight threads."""

    name = "c++"
    needs = None

    def __init__(self, server: RedisServer, size: int, keys: list[str]) -> None:
        self.port, self.client = server.port, None
        self.keys = keys
        self.data = [bytearray(chunks.Chunk.of(key, (((size,), "uint8"),), "BINARY").data) for key in keys]
        self.buffers = [bytearray(size) for _ in keys]
        self.bytes = size * len(keys)

    def connect(self) -> None:
        """New connections, as every round of `kvconn bench` has them."""
        self.close()
        self.client = LMCacheRedisClient("127.0.0.1", self.port, CONNECTIONS)

    def round(self) -> Round:
        """Each operation once."""
        written, read = [memoryview(d) for d in self.data], [memoryview(b) for b in self.buffers]
        put = _clocked(self.bytes / GIB, lambda: self._wait(self.client.submit_batch_set(self.keys, written)))
        get = _clocked(self.bytes / GIB, lambda: self._wait(self.client.submit_batch_get(self.keys, read)))
        if self.buffers != self.data:
            raise RuntimeError("LMCache's C++ client read something else than it wrote")
        for buffer in self.buffers:
            buffer[:] = bytes(len(buffer))

        def exists() -> None:
            for _ in range(EXISTS_CALLS):
                self._wait(self.client.submit_batch_exists(self.keys))

        return {"put": put, "get": get, "exists": _clocked(EXISTS_CALLS * len(self.keys), exists, cpu_per=1e6)}

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def _wait(self, call: int) -> None:
        while True:
            if not select.select([self.client.event_fd()], [], [], WITHIN_S)[0]:
                raise TimeoutError("LMCache's C++ client does not answer")
            for done, ok, error, _ in self.client.drain_completions():
                if not ok:
                    raise RuntimeError(error)
                if done == call:
                    return


class Python:
    """LMCache's `redis://` in Python: its own batches, all at once over its pool of connections."""

    name = "python"
    needs = None

    def __init__(self, server: RedisServer, size: int, keys: list[str]) -> None:
        model = chunks.Model((chunks.Group(2, 1, size // 2 // 16, "uint8"),))
        engine.POOL_GB = 2.5 * size * len(keys) / GIB + 0.1
        self.open = engine.remote(f"redis://127.0.0.1:{server.port}", model)
        self.remote = self.open.__enter__()
        self.keys = [parse_cache_key(key) for key in keys]
        self.chunk = [model.chunk(key) for key in keys]
        self.bytes = size * len(keys)

    def connect(self) -> None:
        """It keeps its own: a second one would need a second pool."""

    def round(self) -> Round:
        """Each operation once."""
        connector, backend = self.remote.connector, self.remote.backend
        objects = []
        for chunk in self.chunk:
            shapes, dtypes = engine.shapes(chunk), engine.dtypes(chunk)
            objects.append(backend.allocate(shapes, dtypes, MemoryFormat[chunk.format]))
            engine.view(objects[-1])[:] = chunk.data
        put = _clocked(self.bytes / GIB, lambda: self._run(connector.batched_put(self.keys, objects)))
        read = []

        async def get_all() -> None:
            read.extend(await connector.batched_get_non_blocking("bench", self.keys))

        get = _clocked(self.bytes / GIB, lambda: self._run(get_all()))
        if [bytes(engine.view(obj)) for obj in read] != [chunk.data for chunk in self.chunk]:
            raise RuntimeError("LMCache's Python connector read something else than it wrote")
        for obj in read:
            obj.ref_count_down()

        def exists() -> None:
            for _ in range(EXISTS_CALLS_PYTHON):
                self._run(connector.batched_async_contains("bench", self.keys))

        return {"put": put, "get": get, "exists": _clocked(EXISTS_CALLS_PYTHON * len(self.keys), exists, cpu_per=1e6)}

    def close(self) -> None:
        self.open.__exit__(None, None, None)

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self.remote.loop).result(WITHIN_S)


class Kvconn:
    """One of kvconn's stores, by `kvconn bench`: one batch at a time over eight connections, every byte verified."""

    def __init__(self, server: RedisServer, size: int, keys: list[str]) -> None:
        url = f"{self.needs}://127.0.0.1:{server.port}?connections={CONNECTIONS}"
        n = str(len(keys))
        self.args = ["bench", url, "--chunk-size", str(size), "--keys", n, "--batch", n, "--rounds", "1", "--json"]

    def round(self) -> Round:
        """Each operation once, after one to warm up."""
        store = json.loads(command.succeed(*self.args).stdout)["stores"][0]
        moved = {name: Figure(store[name]["gib_per_s"], store[name]["cpu_s_per_gib"]) for name in ("put", "get")}
        exists = store["exists"]
        return moved | {"exists": Figure(exists["per_s"], exists["cpu_s"] / exists["operations"] * 1e6)}

    def close(self) -> None:
        """Nothing is open between rounds."""


class Resp(Kvconn):
    name = "resp"
    needs = "resp"


class Redis(Kvconn):
    name = "redis"
    needs = "redis"


CLIENTS = {client.name: client for client in (Native, Python, Resp, Redis)}


def _clocked(amount: float, work, cpu_per: float = 1.0) -> Figure:
    """`amount` is what is done; CPU time is this process's, of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Figure(amount / took, cpu / amount * cpu_per)


def measure(size: int, names: list[str], rounds: int) -> dict[str, list[Round]]:
    """Rounds of each client in turn; who goes first alternates."""
    n = min(BATCH_BYTES // size, BATCH_AT_MOST)
    keys = [chunks.key(f"bench {i}", "uint8") for i in range(n)]
    found = defaultdict(list)
    with RedisServer() as server:
        clients = [CLIENTS[name](server, size, keys) for name in names]
        for turn in range(rounds + 1):
            first = turn % len(clients)
            for client in clients[first:] + clients[:first]:
                if client.needs is None:
                    # As `kvconn bench` does: the server has its memory, and the client its connections.
                    client.connect()
                    client.round()
                figures = client.round()
                # What a client has left would be in the next one's way.
                server.ask("FLUSHALL")
                if turn > 0:
                    found[client.name].append(figures)
        for client in clients:
            client.close()
    return found


def show(size: str, found: dict[str, list[Round]]) -> None:
    """A table in Markdown: median and range."""
    print(f"\n| {size} | get GiB/s | CPU s/GiB | set GiB/s | CPU s/GiB | exists/s | CPU s/million |\n|---|---|---|---|---|---|---|")
    for name, rounds in found.items():
        cells = []
        for operation, digits in (("get", 2), ("put", 2), ("exists", 0)):
            rates = sorted(figures[operation].rate for figures in rounds)
            cpu = statistics.median(figures[operation].cpu for figures in rounds)
            low, high = f"{rates[0]:,.{digits}f}", f"{rates[-1]:,.{digits}f}"
            cells.append(f"**{statistics.median(rates):,.{digits}f}** ({low} to {high})")
            cells.append(f"{cpu:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Exit code 2 if a client that was asked for is not there."""
    parser = argparse.ArgumentParser(prog="tests/interop/bench", description="LMCache's clients and kvconn's, side by side")
    parser.add_argument("--rounds", type=int, default=7, help="after one to warm up")
    parser.add_argument("--sizes", default=",".join(SIZES), help="of a chunk")
    parser.add_argument("--clients", default="", help=f"of {', '.join(CLIENTS)}; all that the command has unless given")
    args = parser.parse_args()
    names = args.clients.split(",") if args.clients else list(CLIENTS)
    sizes = args.sizes.split(",")
    for given, known in ((names, CLIENTS), (sizes, SIZES)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{unknown[0]!r} is none of {', '.join(known)}")
    missing = [name for name in names if CLIENTS[name].needs not in {None, *command.schemes()}]
    if missing and args.clients:
        command.require(CLIENTS[missing[0]].needs)
    for name in missing:
        print(f"left out: {command.path()} has no connector for {name}://", file=sys.stderr)
        names.remove(name)
    print(f"{args.rounds} rounds after one to warm up, in turn; {CONNECTIONS} connections on loopback; median (range)")
    for size in sizes:
        show(size, measure(SIZES[size], names, args.rounds))
    # On a machine that others use, eight threads get more of it than one: then only the CPU columns compare.
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; beyond a few a core, only the CPU columns can be compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
