"""An hour of work in a minute or two: nothing may pile up, in LMCache's pool, in memory, in open files or in threads.

Every kind of call at once, on stores that hold a fixed set of keys: so whatever grows is left over by calls. In the second
third of the time and in the last one the process is to look the same. `KVCONN_INTEROP_CHURN_S` gives each store another
number of seconds than 20: an hour, say.
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
from .wheel import all_given_back, external

SECONDS = float(os.environ.get("KVCONN_INTEROP_CHURN_S", "20"))
SAMPLES = 150
#: How much more the median of the last third may be than that of the second: a KiB left over by each call would be more.
#: The allocator's own noise is below one MiB.
MORE_BYTES, MORE_FILES = 4 << 20, 2
#: 192 KiB a chunk.
MODEL = chunks.Model((chunks.Group(2, 3, 1024, "bfloat16"),))
CHUNKS = [MODEL.chunk(f"churn {i}") for i in range(24)]
KEYS = [chunks.key(chunk.name) for chunk in CHUNKS]
AT_ONCE, BATCH = 16, 4
#: Files are read on threads, one for each chunk that is on its way, kept for a while: as many as it takes, but a thread
#: that one call in fifty leaves behind would be more.
MORE_THREADS = 2 * AT_ONCE * BATCH


def run(report: Report) -> None:
    """Everything of this group."""
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
        churn = _Calls(store)
        work = asyncio.run_coroutine_threadsafe(churn.until(time.monotonic() + SECONDS), store.loop)
        watched = _watch(work.done)
        work.result()
        all_given_back(store, before)
        store.run(store.connector.close())
    churn.require_every_kind()
    watched.require_flat(sum(churn.done.values()))


class _Calls:
    """What LMCache may ask of a connector, in any order."""

    def __init__(self, store: Remote) -> None:
        self.store = store
        self.connector = store.connector
        self.keys = [parse_cache_key(text) for text in KEYS]
        self.missing = parse_cache_key(chunks.key("nobody has put this"))
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
            "asked": self.asked,
        }

    async def until(self, deadline: float) -> None:
        """Several of them at a time."""

        async def one_after_another() -> None:
            while time.monotonic() < deadline:
                kind = self.chance.choice(list(self.kinds))
                await self.kinds[kind]()
                self.done[kind] += 1

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    def require_every_kind(self) -> None:
        """Too few of a kind would say nothing of it."""
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
        # The latter gives what comes before the first miss.
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

    async def asked(self) -> None:
        some = self.chance.sample(self.keys, BATCH)
        await self.connector.exists(some[0])
        self.connector.exists_sync(some[1])
        self.connector.batched_contains(some)
        await self.connector.batched_async_contains("id", some)
        if self.chance.random() < 0.1:
            await self.connector.list()

    def take(self, i: int, obj) -> None:
        """It may have been removed, but it is never something else."""
        if obj is not None:
            same = view(obj) == CHUNKS[i].data
            obj.ref_count_down()
            equal(f"the bytes of {KEYS[i]} are right", same, True)


def _native(url: str) -> None:
    """Buffers are chunks of LMCache's pool, as in its multiprocess mode."""
    with remote(external("memory", "MemoryConnector"), MODEL) as pool:
        before = pool.free()
        calls = {"done": 0, "reopened": 0}
        failed: list[BaseException] = []

        def work() -> None:
            try:
                _submit(url, pool, time.monotonic() + SECONDS, calls)
            except BaseException as e:  # noqa: BLE001: raised by the thread that waits
                failed.append(e)

        thread = threading.Thread(target=work)
        thread.start()
        watched = _watch(lambda: not thread.is_alive())
        thread.join()
        if failed:
            raise failed[0]
        all_given_back(pool, before)
    if calls["done"] < 100 * SECONDS or calls["reopened"] < SECONDS:
        raise Failed(f"too little was done: {calls}")
    watched.require_flat(calls["done"])


def _submit(url: str, pool: Remote, until: float, calls: dict[str, int]) -> None:
    chance = random.Random(2)
    keys = [f"interop@00000001@0@{i:016x}" for i in range(len(CHUNKS))]
    client, reopen = NativeClient(url), 0.0
    while time.monotonic() < until:
        asked: dict[int, tuple[str, list[int], list]] = {}
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
                id = client.submit_batch_get([f"{key}@nobody" for key in named], views)
            elif kind == "exists":
                id = client.submit_batch_exists(named)
            else:
                id = client.submit_batch_delete(named)
            asked[id] = (kind, some, objects)
        if time.monotonic() > reopen:
            # With all that in flight: it ends, or is cut off, and completes.
            client.close()
            done = client.drain_completions()
            client, reopen = NativeClient(url), time.monotonic() + 0.5
            calls["reopened"] += 1
        else:
            done = _completions(client, len(asked))
        equal("completions", sorted(id for id, *_ in done), sorted(asked))
        for id, ok, error, yes in done:
            kind, some, objects = asked[id]
            equal(f"{kind}: ok and error", (ok, error), (True, ""))
            if kind == "miss":
                equal("loaded of what nobody has put", yes, [False] * len(some))
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
class _Watched:
    """What the process held, at moments that are as far from each other; the first is from its beginning."""

    resident: list[int]
    files: list[int]
    threads: list[int]

    def require_flat(self, calls: int) -> None:
        """The last third is as the second."""
        found = []
        for what, values, more in (("bytes resident", self.resident, MORE_BYTES), ("open files", self.files, MORE_FILES)):
            third = len(values) // 3
            second, last = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
            found.append(f"{what} {second:.0f} -> {last:.0f}")
            if last > second + more:
                raise Failed(f"{what} grew from {second:.0f} to {last:.0f} (medians), by more than {more}, in {calls} calls")
        found.append(f"threads {self.threads[0]} -> {max(self.threads)} at most")
        if max(self.threads) > self.threads[0] + MORE_THREADS:
            raise Failed(f"{found[-1]}, in {calls} calls")
        print(f"      {calls} calls; {', '.join(found)}", flush=True)


def _watch(ended: Callable[[], bool]) -> _Watched:
    watched = _Watched([], [], [])
    while not ended():
        with open("/proc/self/statm") as statm:
            watched.resident.append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        watched.files.append(len(os.listdir("/proc/self/fd")))
        watched.threads.append(len(os.listdir("/proc/self/task")))
        time.sleep(SECONDS / SAMPLES)
    return watched
