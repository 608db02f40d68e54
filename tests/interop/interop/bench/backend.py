"""LMCache's in-process mode: its `RemoteBackend` with its own Python connector, or with kvconn's."""

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from lmcache.utils import parse_cache_key
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.remote_backend import RemoteBackend

from .. import chunks, engine
from .figures import GIB, Figure, Round, clocked, peaked

# Calls for one key that make a figure.
SINGLE_CALLS = 500
# A figure has lookups of at least this number of keys.
LOOKUPS = 512
TIMEOUT_S = 120
# The only thread of kvconn that calls Python.
KVCONN_THREAD = "kvconn-python\n"


async def _return_true() -> bool:
    return True


class Backend:
    """Makes the calls of LMCache's engine: batches of chunks in LMCache's memory, and lookups from another thread."""

    def __init__(self, url: str, size: int, n: int, at_once: int = 0, calls_of_one: bool = True, **options: object) -> None:
        """Moves `at_once` chunks in each call, or all of them. `options` are the `extra_config`."""
        model = chunks.Model((chunks.Group(2, 1, size // 2 // 16, "uint8"),))
        texts = [chunks.key(f"bench {i}", "uint8") for i in range(n)]
        self.keys = [parse_cache_key(text) for text in texts]
        self.chunks = [model.chunk(text) for text in texts]
        self.bytes = size * n
        self.parts = [slice(i, i + (at_once or n)) for i in range(0, n, at_once or n)]
        self.calls_of_one = calls_of_one
        engine.POOL_GB = 2.5 * self.bytes / GIB + 0.1
        self.stack = ExitStack()
        side = self.stack.enter_context(engine.side(url, model, **options))
        self.loop, self.memory = side.loop, side.backend
        self.remote = RemoteBackend(
            side.config, side.metadata, side.loop, side.backend, dst_device="cpu", plugin_name=side.plugin
        )
        if self.remote.connection is None:
            raise RuntimeError(f"LMCache could not open {url}")
        self.stack.callback(lambda: engine.end(self.remote.connection, self.loop))

    def round(self) -> Round:
        """Measures each operation once, after a warm-up."""
        self._measure()
        return self._measure()

    def close(self) -> None:
        """Ends the connections and frees the pool."""
        self.stack.close()

    def _measure(self) -> Round:
        objects = []
        for chunk in self.chunks:
            objects.append(self.memory.allocate(engine.shapes(chunk), engine.dtypes(chunk), MemoryFormat[chunk.format]))
            engine.view(objects[-1])[:] = chunk.data

        def puts() -> None:
            for part in self.parts:
                self._put(self.keys[part], objects[part])

        put = peaked(lambda: self._clocked(self.bytes / GIB, puts))
        for obj in objects:
            obj.ref_count_down()
        read = []

        def gets() -> None:
            for part in self.parts:
                read.extend(self.remote.batched_get_blocking(self.keys[part]))

        get = peaked(lambda: self._clocked(self.bytes / GIB, gets))
        if [obj and bytes(engine.view(obj)) for obj in read] != [chunk.data for chunk in self.chunks]:
            raise RuntimeError("the bytes that were read differ from the bytes that were written")
        for obj in read:
            obj.ref_count_down()

        def exists() -> None:
            for _ in range(repeats):
                self._forget()
                if self.remote.batched_contains(self.keys) != len(self.keys):
                    raise RuntimeError("a stored key is missing")

        def singles(call) -> None:
            for i in range(SINGLE_CALLS):
                if not call(self.keys[i % len(self.keys)]):
                    raise RuntimeError("a stored key is missing")

        repeats = max(1, LOOKUPS // len(self.keys))
        moved = {"get": get, "put": put, "exists": self._clocked(repeats * len(self.keys), exists, 1e6)}
        if not self.calls_of_one:
            return moved
        return moved | {
            "lookup": self._single(lambda: singles(lambda key: self.remote.batched_contains([key]))),
            "contains": self._single(lambda: singles(lambda key: self._contains(key, True))),
            "contains_loop": self._single(lambda: singles(lambda key: self._contains(key, False))),
            "loop": self._single(lambda: singles(self._loop_round_trip)),
        }

    def _single(self, work) -> Figure:
        return self._clocked(SINGLE_CALLS, work, 1e6, SINGLE_CALLS)

    def _contains(self, key: object, use_exists_sync: bool) -> bool:
        config = self.remote.config
        extra = config.extra_config
        config.extra_config = {**(extra or {}), "use_exists_sync": use_exists_sync}
        try:
            return self.remote.contains(key)
        finally:
            config.extra_config = extra

    def _loop_round_trip(self, _key: object) -> bool:
        return asyncio.run_coroutine_threadsafe(_return_true(), self.loop).result()

    def _forget(self) -> None:
        """Empties the sizes that LMCache's `S3Connector` has seen. It answers from them, even if the object is gone."""
        getattr(self.remote.connection.getWrappedConnector(), "object_size_cache", {}).clear()

    def _put(self, keys: list, objects: list) -> None:
        left, done = [len(keys)], threading.Event()

        def completed(_key: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                done.set()

        self.remote.batched_submit_put_task(keys, objects, on_complete_callback=completed)
        if not done.wait(TIMEOUT_S):
            raise TimeoutError(f"the puts did not complete within {TIMEOUT_S} s")

    def _clocked(self, amount: float, work, cpu_per: float = 1.0, keys: int | None = None) -> Figure:
        """Runs `work` like `clocked`, and takes the CPU time of every thread that runs Python as `held`."""
        before = self._python_s()
        figure = clocked(amount, work, cpu_per)
        held = (self._python_s() - before) / (keys or len(self.keys)) * 1e6
        return Figure(figure.rate, figure.cpu, held)

    @staticmethod
    def _python_s() -> float:
        threads = {thread.native_id for thread in threading.enumerate()}
        threads |= {int(task.name) for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == KVCONN_THREAD}
        # Reads each thread's clock (CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD), because /proc lags by up to a tick.
        return sum(time.clock_gettime((~thread << 3) | 6) for thread in threads)
