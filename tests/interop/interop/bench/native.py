"""Measures clients of LMCache's native interface (multiprocess mode)."""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string

from .. import chunks
from .completions import Client, Waiter
from .figures import BATCHES, GIB, Figure, Round, clocked

# Calls of `exists` per figure, because one call is too short to be timed.
EXISTS_CALLS = 20


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
    """Moves one batch at a time. Sleeps for `pause` before each batch."""

    def __init__(self, make: Callable[[], Client], size: int, n: int, pause: float = 0.0, clear: Callable[[], None] = lambda: None) -> None:
        self.make, self.pause, self.clear = make, pause, clear
        shared = memory(size, n)
        self.keys, self.data, self.buffers = shared.keys, shared.data, shared.buffers
        self.bytes = size * n

    def round(self) -> Round:
        """Measures each operation once, after a warm-up, with new connections."""
        client = self.make()
        try:
            waiter = Waiter(client)
            self._measure(waiter)
            self.clear()
            return self._measure(waiter)
        finally:
            client.close()

    def close(self) -> None:
        """Does nothing: no client is open between rounds."""

    def _measure(self, waiter: Waiter) -> Round:
        client, written, read = waiter.client, [memoryview(d) for d in self.data], [memoryview(b) for b in self.buffers]
        put = self._moved(waiter, client.submit_batch_set, written, self.clear)
        get = self._moved(waiter, client.submit_batch_get, read, lambda: None)
        if self.buffers != self.data:
            raise RuntimeError("the bytes that were read differ from the bytes that were written")
        for buffer in self.buffers:
            buffer[:] = bytes(len(buffer))

        def exists() -> None:
            for _ in range(EXISTS_CALLS):
                if not all(waiter.do(client.submit_batch_exists, self.keys)):
                    raise RuntimeError("a stored key is missing")

        return {"get": get, "put": put, "exists": self._clocked(waiter, EXISTS_CALLS * len(self.keys), exists, EXISTS_CALLS, 1e6)}

    def _moved(self, waiter: Waiter, submit: Callable[..., int], views: list[memoryview], before: Callable[[], None]) -> Figure:
        figures = []
        for _ in range(BATCHES):
            before()
            time.sleep(self.pause)
            figures.append(self._clocked(waiter, self.bytes / GIB, lambda: waiter.do(submit, self.keys, views)))
        mean = {field: statistics.fmean(getattr(figure, field) for figure in figures) for field in ("cpu", "held")}
        return Figure(statistics.harmonic_mean(figure.rate for figure in figures), **mean)

    def _clocked(self, waiter: Waiter, amount: float, work: Callable[[], None], calls: int = 1, cpu_per: float = 1.0) -> Figure:
        before = waiter.held
        figure = clocked(amount, work, cpu_per)
        return replace(figure, held=(waiter.held - before) / (calls * len(self.keys)) * 1e6)
