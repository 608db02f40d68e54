"""Faults in LMCache's in-process mode: cancelled calls, a dead server, a full pool, and a process that ends with work in flight."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import threading
import time

from lmcache.utils import parse_cache_key

from . import chunks
from .engine import remote, view
from .report import Failed, Report, equal
from .server import RedisServer
from .wheel import require_all_freed, external

CANCELLED_GETS = 10_000
#: A chunk has 1.5 MiB, so that it is still in flight when its caller cancels.
LARGE = chunks.Model((chunks.Group(2, 3, 8192, "bfloat16"),))
CHILD_TIMEOUT_S = 60


def run(report: Report) -> None:
    """Runs all checks of this group."""
    for name, scheme in (("redis", "redis"), ("fs", "fs"), ("memory", "memory")):
        with report.check(f"wheel: {CANCELLED_GETS} cancelled gets, {name}"):
            with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as root, RedisServer() as server:
                _cancelled(_url(scheme, root, server), CANCELLED_GETS)
    with report.check("wheel: the server dies in the middle of a batch"):
        _server_dies()
    with report.check("wheel: a batch that the pool cannot hold frees its memory, and does not poll for more"):
        _pool_holds_part_of_a_batch()
    with report.check("wheel: a full pool is an error after a wait, and works again with free memory"):
        _full_pool()
    for scenario in (
        "LMCache frees its pool with work in flight",
        "LMCache frees its pool before a pending put starts",
        "the interpreter exits with work in flight",
        "a fork",
    ):
        with report.check(f"wheel: {scenario}"):
            _child(scenario)


def _url(scheme: str, root: str, server: RedisServer) -> str:
    if scheme == "redis":
        return external("redis", "RedisConnector", f"127.0.0.1:{server.port}")
    if scheme == "fs":
        return external("fs", "FSConnector", base_path=root)
    return external("memory", "MemoryConnector")


def _cancelled(url: str, count: int) -> None:
    """Cancels gets at random times. A cancelled get must leak nothing, and the next get must work."""
    pairs = [(chunks.key(f"large {i}"), LARGE.chunk(f"large {i}")) for i in range(4)]
    with remote(url, LARGE) as store:
        before = store.free()
        for text, chunk in pairs:
            store.put(text, chunk)
        keys = [parse_cache_key(text) for text, _ in pairs]
        ended = store.run(_cancel_all(store.connector, keys, count))
        if ended["cancelled"] < count // 10:
            raise Failed(f"too few gets were cancelled: {ended}")
        if set(ended) - {"cancelled", "read"}:
            raise Failed(f"some gets ended with something else: {ended}")
        for text, chunk in pairs:
            equal("the chunk that is read afterwards", store.get(text, chunk), chunk)
        require_all_freed(store, before)
        store.run(store.connector.close())


async def _cancel_all(connector, keys: list, count: int) -> dict[str, int]:
    ended: dict[str, int] = {}
    chance = random.Random(1)
    left = count

    async def one(key) -> str:
        call = connector.get(key) if chance.random() < 0.7 else connector.batched_get([key, key])
        task = asyncio.ensure_future(call)
        await asyncio.sleep(chance.choice((0, 0, 0.0005, 0.002, 0.01)))
        task.cancel()
        try:
            got = await task
        except asyncio.CancelledError:
            return "cancelled"
        except Exception as e:  # noqa: BLE001: the caller reports it
            return repr(e)
        for obj in got if isinstance(got, list) else [got]:
            if obj is None:
                return "a miss"
            obj.ref_count_down()
        return "read"

    async def several() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            result = await one(chance.choice(keys))
            ended[result] = ended.get(result, 0) + 1

    await asyncio.gather(*(several() for _ in range(16)))
    return ended


def _server_dies() -> None:
    pairs = [(chunks.key(f"large {i}"), LARGE.chunk(f"large {i}")) for i in range(32)]
    with RedisServer() as server:
        url = external("redis", "RedisConnector", f"127.0.0.1:{server.port}")
        with remote(url, LARGE) as store:
            before = store.free()
            for text, chunk in pairs:
                store.put(text, chunk)
            require_all_freed(store, before)
            keys = [parse_cache_key(text) for text, _ in pairs]
            killer = threading.Timer(0.005, server.process.kill)
            killer.start()
            seen_dead = False
            while not seen_dead:
                got = store.run(store.connector.batched_get_non_blocking("id", keys))
                for obj in got:
                    obj.ref_count_down()
                seen_dead = len(got) < len(keys)
            killer.join()
            require_all_freed(store, before)


def _full_pool() -> None:
    with remote(external("memory", "MemoryConnector"), LARGE) as store:
        before = store.free()
        chunk = LARGE.chunk("large")
        store.put(chunks.key("large"), chunk)
        require_all_freed(store, before)
        held = []
        while store.free() >= len(chunk.data):
            held.append(store.allocate(chunk))
        waiting = asyncio.run_coroutine_threadsafe(store.connector.get(parse_cache_key(chunks.key("large"))), store.loop)
        start = time.monotonic()
        try:
            waiting.result(60)
        except Exception as e:  # noqa: BLE001: the text shows which error it is
            if "max_local_cpu_size" not in str(e):
                raise Failed(f"a full pool gives: {e!r}") from e
        else:
            raise Failed("the get succeeded with a full pool")
        if time.monotonic() - start < 1:
            raise Failed("the get did not wait for memory")
        again = asyncio.run_coroutine_threadsafe(store.connector.get(parse_cache_key(chunks.key("large"))), store.loop)
        held.pop().ref_count_down()
        again.result(60).ref_count_down()
        for obj in held:
            obj.ref_count_down()
        require_all_freed(store, before)


def _pool_holds_part_of_a_batch() -> None:
    with remote(external("memory", "MemoryConnector"), LARGE) as store:
        before = store.free()
        pairs = [(chunks.key(f"part {i}"), LARGE.chunk(f"part {i}")) for i in range(40)]
        for key, chunk in pairs:
            store.put(key, chunk)
        require_all_freed(store, before)
        held = []
        while store.free() >= 20 * len(pairs[0][1].data):
            held.append(store.allocate(pairs[0][1]))
        allocator, calls = store.backend.memory_allocator, []
        allocate = allocator.allocate
        allocator.allocate = lambda *args, **kwargs: (calls.append(1), allocate(*args, **kwargs))[1]
        keys = [parse_cache_key(key) for key, _ in pairs]
        equal("a batch that the pool cannot hold", store.run(store.connector.batched_get(keys)), [None] * len(keys))
        # LMCache evicts and logs at each call. kvconn waits for ten seconds, and each attempt allocates half of the batch.
        if len(calls) > 10_000:
            raise Failed(f"kvconn called the allocator of a full pool {len(calls)} times")
        del allocator.allocate
        for obj in held:
            obj.ref_count_down()
        for (_, chunk), obj in zip(pairs, store.run(store.connector.batched_get(keys)), strict=True):
            equal("the chunk that is read with free memory", bytes(view(obj)), chunk.data)
            obj.ref_count_down()
        require_all_freed(store, before)


def _child(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "interop.wheel_faults", scenario],
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0 or "passed" not in done.stdout:
        raise Failed(f"the process ends with {done.returncode}: {done.stdout[-1000:]} {done.stderr[-3000:]}")


def _in_child(scenario: str) -> None:
    with RedisServer() as server:
        url = external("redis", "RedisConnector", f"127.0.0.1:{server.port}")
        pairs = [(chunks.key(f"large {i}"), LARGE.chunk(f"large {i}")) for i in range(16)]
        keys = [parse_cache_key(text) for text, _ in pairs]
        context = remote(url, LARGE)
        store = context.__enter__()
        for text, chunk in pairs:
            store.put(text, chunk)
        if scenario == "a fork":
            _fork(store, keys)
            context.__exit__(None, None, None)
        elif "pending put" in scenario:
            _put_too_late(store, keys[0], pairs[0][1])
        else:
            work = [
                asyncio.run_coroutine_threadsafe(store.connector.batched_get(keys), store.loop) for _ in range(3)
            ]
            if scenario.startswith("LMCache"):
                # `StorageManager.close` frees the memory before it closes the connectors.
                store.backend.close()
                for one in work:
                    one.exception(CHILD_TIMEOUT_S)
                store.run(store.connector.close())
        print("passed", flush=True)


def _put_too_late(store, key, chunk) -> None:
    """Closes an engine right after a store: its loop starts the put after the engine has freed the chunk's memory."""
    busy = threading.Event()
    store.loop.call_soon_threadsafe(busy.wait)
    put = asyncio.run_coroutine_threadsafe(store.connector.put(key, store.allocate(chunk)), store.loop)
    store.backend.close()
    busy.set()
    error = put.exception(CHILD_TIMEOUT_S)
    equal("the put ends with", (type(error).__name__, "was closed" in str(error)), ("ClosedError", True))


def _fork(store, keys: list) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            store.connector.exists_sync(keys[0])
        except Exception as e:  # noqa: BLE001: the text shows which error it is
            os._exit(0 if "fork" in str(e) else 3)
        os._exit(4)
    equal("the child ends with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    equal("exists in the parent", store.connector.exists_sync(keys[0]), True)


if __name__ == "__main__":
    _in_child(sys.argv[1])
