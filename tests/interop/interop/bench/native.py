"""Clients of LMCache's native interface (multiprocess mode): LMCache's in C++, and kvconn's."""

import functools
import select
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from kvconn import NativeClient
from lmcache.lmcache_fs import LMCacheFSClient
from lmcache.lmcache_redis import LMCacheRedisClient
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string

from .. import chunks
from .figures import BATCHES, GIB, Figure, Round, clocked

CONNECTIONS = 8
# The default of LMCache's `fs_native`.
WORKERS = 4
# Calls of `exists` per figure, because one call is too short to be timed.
EXISTS_CALLS = 20
TIMEOUT_S = 120


def keys(n: int) -> list[str]:
    """Makes keys of multiprocess mode."""
    return [_object_key_to_string(ObjectKey(i.to_bytes(8, "big"), "meta-llama/Llama-3.1-8B", 0)) for i in range(n)]


class Memory:
    """Chunks, and buffers for them. All clients share them, because their location changes the speed of a copy by a tenth."""

    def __init__(self, size: int, n: int) -> None:
        self.keys = keys(n)
        self.data = [bytearray(chunks.Chunk.of(key, (((size,), "uint8"),), "BINARY").data) for key in self.keys]
        self.buffers = [bytearray(size) for _ in self.keys]


@functools.cache
def memory(size: int, n: int) -> Memory:
    """Makes the memory once for each size and number."""
    return Memory(size, n)


class Native:
    """Moves one batch at a time and waits for the eventfd, as LMCache's adapter does. Sleeps for `pause` before each batch."""

    def __init__(
        self, make: Callable[[], object], size: int, n: int, pause: float, clear: Callable[[], None] = lambda: None
    ) -> None:
        self.make, self.client, self.pause, self.clear = make, None, pause, clear
        shared = memory(size, n)
        self.keys, self.data, self.buffers = shared.keys, shared.data, shared.buffers
        self.bytes = size * n
        self.held = 0.0

    def round(self) -> Round:
        """Measures each operation once, after a warm-up, with new connections."""
        self.client = self.make()
        try:
            self._measure()
            self.clear()
            return self._measure()
        finally:
            self.client.close()
            self.client = None

    def close(self) -> None:
        """Does nothing: no client is open between rounds."""

    def _measure(self) -> Round:
        written, read = [memoryview(d) for d in self.data], [memoryview(b) for b in self.buffers]
        put = self._moved(self.client.submit_batch_set, written, self.clear)
        get = self._moved(self.client.submit_batch_get, read, lambda: None)
        if self.buffers != self.data:
            raise RuntimeError("the bytes that were read differ from the bytes that were written")
        for buffer in self.buffers:
            buffer[:] = bytes(len(buffer))

        def exists() -> None:
            for _ in range(EXISTS_CALLS):
                if not all(self._do(self.client.submit_batch_exists, self.keys)):
                    raise RuntimeError("a stored key is missing")

        return {"get": get, "put": put, "exists": self._clocked(EXISTS_CALLS * len(self.keys), exists, EXISTS_CALLS, 1e6)}

    def _moved(self, submit: Callable[..., int], views: list[memoryview], before: Callable[[], None]) -> Figure:
        figures = []
        for _ in range(BATCHES):
            before()
            time.sleep(self.pause)
            figures.append(self._clocked(self.bytes / GIB, lambda: self._do(submit, self.keys, views)))
        mean = {field: statistics.fmean(getattr(figure, field) for figure in figures) for field in ("cpu", "held")}
        return Figure(statistics.harmonic_mean(figure.rate for figure in figures), **mean)

    def _clocked(self, amount: float, work: Callable[[], None], calls: int = 1, cpu_per: float = 1.0) -> Figure:
        self.held = 0.0
        figure = clocked(amount, work, cpu_per)
        return replace(figure, held=self.held / (calls * len(self.keys)) * 1e6)

    def _do(self, submit: Callable[..., int], *args: object) -> list[bool]:
        start = time.perf_counter()
        call = submit(*args)
        self.held += time.perf_counter() - start
        while True:
            if not select.select([self.client.event_fd()], [], [], TIMEOUT_S)[0]:
                raise TimeoutError(f"the client did not answer within {TIMEOUT_S} s")
            start = time.perf_counter()
            drained = self.client.drain_completions()
            self.held += time.perf_counter() - start
            for done, ok, error, bools in drained:
                if not ok:
                    raise RuntimeError(error)
                if done == call:
                    return bools or []


def cpp_redis(port: int) -> Callable[[], object]:
    """The client of LMCache's `resp` adapter."""
    return lambda: LMCacheRedisClient("127.0.0.1", port, CONNECTIONS)


def cpp_fs(folder: str) -> Callable[[], object]:
    """The client of LMCache's `fs_native` adapter."""
    return lambda: LMCacheFSClient(folder, WORKERS)


def kvconn(url: str) -> Callable[[], object]:
    """The client that LMCache's `native_plugin` adapter loads from kvconn."""
    return lambda: NativeClient(url)
