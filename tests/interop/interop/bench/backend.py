"""LMCache's in-process mode: its own `RemoteBackend`, over its Python connector or over kvconn's."""

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from lmcache.utils import parse_cache_key
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.remote_backend import RemoteBackend

from .. import chunks, engine
from .figures import GIB, Figure, Round, clocked

# Single questions that make a figure.
ONES = 500
WITHIN_S = 120
# The only thread of kvconn that calls Python.
OURS = "kvconn-python\n"


async def _yes() -> bool:
    return True


class Backend:
    """What LMCache's engine calls: batches of chunks in LMCache's own memory, and questions from another thread."""

    def __init__(self, url: str, size: int, n: int) -> None:
        model = chunks.Model((chunks.Group(2, 1, size // 2 // 16, "uint8"),))
        texts = [chunks.key(f"bench {i}", "uint8") for i in range(n)]
        self.keys = [parse_cache_key(text) for text in texts]
        self.chunks = [model.chunk(text) for text in texts]
        self.bytes = size * n
        engine.POOL_GB = 2.5 * self.bytes / GIB + 0.1
        self.stack = ExitStack()
        its = self.stack.enter_context(engine.side(url, model))
        self.loop, self.memory = its.loop, its.backend
        self.remote = RemoteBackend(its.config, its.metadata, its.loop, its.backend, dst_device="cpu")
        if self.remote.connection is None:
            raise RuntimeError(f"LMCache could not open {url}")
        self.stack.callback(lambda: engine.end(self.remote.connection, self.loop))

    def round(self) -> Round:
        """Each operation once, after one to warm up."""
        self._each_once()
        return self._each_once()

    def close(self) -> None:
        """Ends connections, and frees the pool."""
        self.stack.close()

    def _each_once(self) -> Round:
        objects = []
        for chunk in self.chunks:
            objects.append(self.memory.allocate(engine.shapes(chunk), engine.dtypes(chunk), MemoryFormat[chunk.format]))
            engine.view(objects[-1])[:] = chunk.data
        put = self._clocked(self.bytes / GIB, lambda: self._put(objects))
        for obj in objects:
            obj.ref_count_down()
        read = []
        get = self._clocked(self.bytes / GIB, lambda: read.extend(self.remote.batched_get_blocking(self.keys)))
        if [obj and bytes(engine.view(obj)) for obj in read] != [chunk.data for chunk in self.chunks]:
            raise RuntimeError("something else was read than was written")
        for obj in read:
            obj.ref_count_down()

        def exists() -> None:
            if self.remote.batched_contains(self.keys) != len(self.keys):
                raise RuntimeError("a key that was written is not contained")

        def ones(ask) -> None:
            for i in range(ONES):
                if not ask(self.keys[i % len(self.keys)]):
                    raise RuntimeError("a key that was written is not contained")

        return {
            "get": get,
            "put": put,
            "exists": self._clocked(len(self.keys), exists, 1e6),
            "lookup": self._clocked(ONES, lambda: ones(lambda key: self.remote.batched_contains([key])), 1e6, ONES),
            "contains": self._clocked(ONES, lambda: ones(self.remote.contains), 1e6, ONES),
            "contains_loop": self._clocked(ONES, lambda: ones(self._contains_by_loop), 1e6, ONES),
            "loop": self._clocked(ONES, lambda: ones(self._loop_and_back), 1e6, ONES),
        }

    def _contains_by_loop(self, key: object) -> bool:
        config = self.remote.config
        extra = config.extra_config
        config.extra_config = {**(extra or {}), "use_exists_sync": False}
        try:
            return self.remote.contains(key)
        finally:
            config.extra_config = extra

    def _loop_and_back(self, _key: object) -> bool:
        return asyncio.run_coroutine_threadsafe(_yes(), self.loop).result()

    def _put(self, objects: list) -> None:
        left, done = [len(self.keys)], threading.Event()

        def one(_key: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                done.set()

        self.remote.batched_submit_put_task(self.keys, objects, on_complete_callback=one)
        if not done.wait(WITHIN_S):
            raise TimeoutError("the chunks are not written")

    def _clocked(self, amount: float, work, cpu_per: float = 1.0, keys: int | None = None) -> Figure:
        """With the CPU time of every thread that runs Python."""
        before = self._python_s()
        figure = clocked(amount, work, cpu_per)
        held = (self._python_s() - before) / (keys or len(self.keys)) * 1e6
        return Figure(figure.rate, figure.cpu, held)

    @staticmethod
    def _python_s() -> float:
        threads = {thread.native_id for thread in threading.enumerate()}
        threads |= {int(task.name) for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == OURS}
        # The clock of a thread (CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD): what /proc says of one that runs is a tick old.
        return sum(time.clock_gettime((~thread << 3) | 6) for thread in threads)
