"""Finds leaks in LMCache's pool, in memory, in open files and in threads.

Makes every kind of call at the same time on stores with a fixed set of keys, so only a leak can make the process grow. Compares the
second third of the time with the last third. `KVCONN_INTEROP_CHURN_S` sets the seconds per store (default 20).
"""

import asyncio
import os
import random
import select
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kvconn import NativeClient
from lmcache.utils import parse_cache_key

from . import chunks
from .engine import Remote, remote, view
from .report import Failed, Report, equal
from .server import RedisServer
from .wheel import require_all_freed, external

SECONDS = float(os.environ.get("KVCONN_INTEROP_CHURN_S", "20"))
SAMPLES = 150
#: The allowed growth of the median from the second third to the last. A leak of one KiB per call exceeds it, and the allocator's
#: noise of less than one MiB does not.
MORE_BYTES = 4 << 20
#: A call of `fs` holds up to three files, and the number of calls in flight varies. A leak of one file in a thousand calls
#: exceeds this.
MORE_FILES = 8
#: A chunk has 192 KiB.
MODEL = chunks.Model((chunks.Group(2, 3, 1024, "bfloat16"),))
CHUNKS = [MODEL.chunk(f"churn {i}") for i in range(24)]
KEYS = [chunks.key(chunk.name) for chunk in CHUNKS]
AT_ONCE, BATCH = 16, 4
#: `fs` reads files on threads, one for each chunk in flight, and keeps them for a while. A leak of one thread in fifty calls exceeds
#: this limit.
MORE_THREADS = 2 * AT_ONCE * BATCH


def run(report: Report) -> None:
    """Runs all checks of this group."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder, RedisServer() as server:
        address = f"127.0.0.1:{server.port}"
        for name, url in {
            "redis": external("redis", "RedisConnector", address),
            "fs": external("fs", "FSConnector", base_path=f"{folder}/external"),
        }.items():
            with report.check(f"churn: external://, {name}"):
                server.ask("FLUSHALL")
                _external(url)
        for name, url in {"resp": f"resp://{address}", "fs": f"fs://{folder}/native"}.items():
            with report.check(f"churn: NativeClient, {name}"):
                server.ask("FLUSHALL")
                _native(url)


def _external(url: str) -> None:
    with remote(url, MODEL) as store:
        before = store.free()
        for key, chunk in zip(KEYS, CHUNKS, strict=True):
            store.put(key, chunk)
        calls = _Calls(store)
        work = asyncio.run_coroutine_threadsafe(calls.until(time.monotonic() + SECONDS), store.loop)
        samples = _sample(work.done)
        work.result()
        require_all_freed(store, before)
        store.run(store.connector.close())
    calls.require_every_kind()
    samples.require_flat(sum(calls.done.values()))


class _Calls:
    """Makes every call of LMCache's, in random order."""

    def __init__(self, store: Remote) -> None:
        self.store = store
        self.connector = store.connector
        self.keys = [parse_cache_key(text) for text in KEYS]
        self.missing = parse_cache_key(chunks.key("never stored"))
        self.chance = random.Random(1)
        self.done: Counter[str] = Counter()
        self.kinds = {
            "put": self.put,
            "batched_put": self.batched_put,
            "get": self.get,
            "batched_get": self.batched_get,
            "miss": self.miss,
            "cancelled": self.cancelled,
            "remove": self.remove,
            "exists": self.exists,
        }

    async def until(self, deadline: float) -> None:
        """Makes several calls at a time."""

        async def one_after_another() -> None:
            while time.monotonic() < deadline:
                kind = self.chance.choice(list(self.kinds))
                await self.kinds[kind]()
                self.done[kind] += 1

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    def require_every_kind(self) -> None:
        """Fails if there were too few calls of a kind to find a leak."""
        few = {kind: self.done[kind] for kind in self.kinds if self.done[kind] < 20 * SECONDS}
        if few:
            raise Failed(f"less than 20 calls a second: {few}")

    async def put(self) -> None:
        i = self.chance.randrange(len(KEYS))
        await self.connector.put(self.keys[i], self.store.allocate(CHUNKS[i]))

    async def batched_put(self) -> None:
        some = self.chance.sample(range(len(KEYS)), BATCH)
        await self.connector.batched_put([self.keys[i] for i in some], [self.store.allocate(CHUNKS[i]) for i in some])

    async def get(self) -> None:
        i = self.chance.randrange(len(KEYS))
        self.take(i, await self.connector.get(self.keys[i]))

    async def batched_get(self) -> None:
        some = self.chance.sample(range(len(KEYS)), BATCH)
        keys = [self.keys[i] for i in some]
        if self.chance.random() < 0.5:
            got = await self.connector.batched_get(keys)
        else:
            got = await self.connector.batched_get_non_blocking("id", keys)
        # `batched_get_non_blocking` gives the chunks before the first miss.
        for i, obj in zip(some, got, strict=False):
            self.take(i, obj)

    async def miss(self) -> None:
        equal("a miss", await self.connector.get(self.missing), None)

    async def cancelled(self) -> None:
        i = self.chance.randrange(len(KEYS))
        task = asyncio.ensure_future(self.connector.get(self.keys[i]))
        await asyncio.sleep(self.chance.choice((0, 0, 0.0002, 0.001)))
        task.cancel()
        try:
            self.take(i, await task)
        except asyncio.CancelledError:
            pass

    async def remove(self) -> None:
        i = self.chance.randrange(len(KEYS))
        self.connector.remove_sync(self.keys[i])
        await self.connector.put(self.keys[i], self.store.allocate(CHUNKS[i]))

    async def exists(self) -> None:
        some = self.chance.sample(self.keys, BATCH)
        await self.connector.exists(some[0])
        self.connector.exists_sync(some[1])
        self.connector.batched_contains(some)
        await self.connector.batched_async_contains("id", some)
        if self.chance.random() < 0.1:
            await self.connector.list()

    def take(self, i: int, obj) -> None:
        """Checks the bytes, and frees the chunk. `None` is correct, because another call may have removed the key."""
        if obj is not None:
            same = view(obj) == CHUNKS[i].data
            obj.ref_count_down()
            equal(f"the bytes of {KEYS[i]} are right", same, True)


def _native(url: str) -> None:
    """Uses chunks of LMCache's pool as buffers, as LMCache's multiprocess mode does."""
    with remote(external("memory", "MemoryConnector"), MODEL) as pool:
        before = pool.free()
        calls = {"done": 0, "reopened": 0}
        failed: list[BaseException] = []

        def work() -> None:
            try:
                _submit(url, pool, time.monotonic() + SECONDS, calls)
            except BaseException as e:  # noqa: BLE001: the main thread raises it
                failed.append(e)

        thread = threading.Thread(target=work)
        thread.start()
        samples = _sample(lambda: not thread.is_alive())
        thread.join()
        if failed:
            raise failed[0]
        require_all_freed(pool, before)
    if calls["done"] < 100 * SECONDS or calls["reopened"] < SECONDS:
        raise Failed(f"too few calls: {calls}")
    samples.require_flat(calls["done"])


def _submit(url: str, pool: Remote, until: float, calls: dict[str, int]) -> None:
    chance = random.Random(2)
    keys = [f"interop@00000001@0@{i:016x}" for i in range(len(CHUNKS))]
    client, reopen = NativeClient(url), 0.0
    while time.monotonic() < until:
        submitted: dict[int, tuple[str, list[int], list]] = {}
        for _ in range(AT_ONCE):
            kind = chance.choice(("set", "get", "get", "exists", "delete", "miss"))
            some = chance.sample(range(len(keys)), BATCH)
            objects = [pool.allocate(CHUNKS[i]) for i in some] if kind in ("set", "get", "miss") else []
            named, views = [keys[i] for i in some], [view(obj) for obj in objects]
            if kind == "set":
                id = client.submit_batch_set(named, views)
            elif kind == "get":
                for memory in views:
                    memory[:] = bytes(len(memory))
                id = client.submit_batch_get(named, views)
            elif kind == "miss":
                id = client.submit_batch_get([f"{key}@absent" for key in named], views)
            elif kind == "exists":
                id = client.submit_batch_exists(named)
            else:
                id = client.submit_batch_delete(named)
            submitted[id] = (kind, some, objects)
        if time.monotonic() > reopen:
            # The calls are still in flight. Each one must complete, with or without its I/O.
            client.close()
            done = client.drain_completions()
            client, reopen = NativeClient(url), time.monotonic() + 0.5
            calls["reopened"] += 1
        else:
            done = _completions(client, len(submitted))
        equal("completions", sorted(id for id, *_ in done), sorted(submitted))
        for id, ok, error, yes in done:
            kind, some, objects = submitted[id]
            equal(f"{kind}: ok and error", (ok, error), (True, ""))
            if kind == "miss":
                equal("missing keys that were loaded", yes, [False] * len(some))
            for i, obj, loaded in zip(some, objects, yes or [], strict=False):
                equal(f"{kind}: the bytes are right", not loaded or view(obj) == CHUNKS[i].data, True)
            for obj in objects:
                obj.ref_count_down()
            calls["done"] += 1
    client.close()


def _completions(client: NativeClient, count: int) -> list:
    poller, done = select.poll(), []
    poller.register(client.event_fd(), select.POLLIN)
    while len(done) < count:
        if not poller.poll(20_000):
            raise Failed(f"{len(done)} of {count} completions within 20 s")
        done += client.drain_completions()
    return done


@dataclass
class _Samples:
    """The resources of the process, sampled at equal intervals."""

    resident: list[int]
    files: list[int]
    threads: list[int]

    def require_flat(self, calls: int) -> None:
        """Fails if the last third exceeds the second."""
        found = []
        for name, values, more in (("bytes resident", self.resident, MORE_BYTES), ("open files", self.files, MORE_FILES)):
            third = len(values) // 3
            second, last = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
            found.append(f"{name} {second:.0f} -> {last:.0f}")
            if last > second + more:
                raise Failed(f"{name} grew from {second:.0f} to {last:.0f} (medians), by more than {more}, in {calls} calls")
        found.append(f"threads {self.threads[0]} -> {max(self.threads)} at most")
        if max(self.threads) > self.threads[0] + MORE_THREADS:
            raise Failed(f"{found[-1]}, in {calls} calls")
        print(f"      {calls} calls; {', '.join(found)}", flush=True)


def _sample(ended: Callable[[], bool]) -> _Samples:
    samples = _Samples([], [], [])
    while not ended():
        with open("/proc/self/statm") as statm:
            samples.resident.append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        samples.files.append(len(os.listdir("/proc/self/fd")))
        samples.threads.append(len(os.listdir("/proc/self/task")))
        time.sleep(SECONDS / SAMPLES)
    return samples
