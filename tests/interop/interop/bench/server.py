"""L2 adapters of LMCache's server: its own `resp`, kvconn's client by `native_plugin`, and kvconn's adapter."""

from __future__ import annotations

import argparse
import json
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform.event_notifier import consume_fd

from ..lmcache_server.manager import key, layout
from ..server import RedisServer
from .clients import CONNECTIONS
from .figures import GIB, Figure, Round, clocked, mean, peaked
from .groups import Group
from .reads import reads

BATCHES, LOOKUPS, LOOKUP_KEYS = 2, 200, 64
TIMEOUT_MS = 120_000


class Adapter:
    """Calls one adapter as LMCache's controllers do: submits a batch, and waits for its descriptor. Each round has a new one."""

    def __init__(
        self,
        adapter: dict[str, object],
        size: int,
        n: int,
        clear: Callable[[], None],
        server: RedisServer | None = None,
        at_once: int = 0,
        lookups: int = LOOKUPS,
        batches: int = BATCHES,
    ) -> None:
        """Moves `at_once` chunks in each call, or all of them. `server` counts the reads of the lookups."""
        self.json, self.size, self.n, self.clear, self.server = json.dumps(adapter), size, n, clear, server
        self.keys = [key(i) for i in range(n)]
        self.parts = [slice(i, i + (at_once or n)) for i in range(0, n, at_once or n)]
        self.lookups, self.batches = lookups, batches

    def round(self) -> Round:
        """Measures each operation once, after a warm-up."""
        (config,) = _adapters(self.json).adapters
        # Main memory has the chunks that are stored and those that are loaded. Its manager has no adapter, because its controllers
        # would take the results.
        memory = L1MemoryManagerConfig(size_in_bytes=2 * self.n * self.size + (64 << 20), use_lazy=False, shm_name="")
        eviction = EvictionConfig(eviction_policy="LRU")
        manager = StorageManager(StorageManagerConfig(L1ManagerConfig(memory_config=memory), eviction, _adapters()))
        adapter = create_l2_adapter(config)
        try:
            stored = self._reserved(manager, self.keys)
            loaded = self._reserved(manager, [key(self.n + i) for i in range(self.n)])
            random = np.random.default_rng(0)
            for obj in stored:
                _bytes(obj)[:] = random.integers(0, 256, self.size, np.uint8)
            self._moved(adapter, stored, loaded, 1)
            moved = self._moved(adapter, stored, loaded, self.batches)
            if not all(np.array_equal(_bytes(a), _bytes(b)) for a, b in zip(stored, loaded, strict=True)):
                raise RuntimeError("the chunks that were loaded differ from the chunks that were stored")
            return moved | self._lookups(adapter)
        finally:
            adapter.close()
            manager.close()

    def close(self) -> None:
        """Does nothing: no adapter is open between rounds."""

    def _reserved(self, manager: StorageManager, keys: list[ObjectKey]) -> list[MemoryObj]:
        reserved = manager.reserve_write(keys, layout(self.size))
        return [reserved[name] for name in keys]

    def _moved(self, adapter: object, stored: list[MemoryObj], loaded: list[MemoryObj], batches: int) -> Round:
        def put() -> None:
            for part in self.parts:
                task = adapter.submit_store_task(self.keys[part], stored[part])
                done: dict[int, object] = {}
                while task not in done:
                    _wait(adapter.get_store_event_fd())
                    done.update(adapter.pop_completed_store_tasks())
                if not done[task].is_successful():
                    raise RuntimeError("a store failed")

        def get() -> None:
            for part in self.parts:
                task = adapter.submit_load_task(self.keys[part], loaded[part])
                result = _result(adapter.get_load_event_fd(), lambda task=task: adapter.query_load_result(task))
                if result.popcount() != len(self.keys[part]):
                    raise RuntimeError("a stored chunk is missing")

        found: dict[str, list[Figure]] = {"put": [], "get": []}
        for _ in range(batches):
            self.clear()
            for name, work in (("put", put), ("get", get)):
                found[name].append(peaked(lambda work=work: clocked(self.size * self.n / GIB, work)))
        return {name: mean(of) for name, of in found.items()}

    def _lookups(self, adapter: object) -> Round:
        # A prompt of fewer chunks is asked for several times.
        present = (self.keys * LOOKUP_KEYS)[:LOOKUP_KEYS]
        found = {}
        for name, names, wanted in (("present", present, len(present)), ("absent", [key(1 << 40 | i) for i in range(LOOKUP_KEYS)], 0)):

            def look(names: list[ObjectKey] = names, wanted: int = wanted) -> None:
                for _ in range(self.lookups):
                    # LMCache's `s3` adapter answers from the sizes that it has seen, even if the object is gone.
                    getattr(adapter, "_object_size_cache", {}).clear()
                    task = adapter.submit_lookup_and_lock_task(names, {0: layout(self.size)})
                    result = _result(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task))
                    if result.popcount() != wanted:
                        raise RuntimeError(f"a lookup finds {result.popcount()} chunks instead of {wanted}")
                    adapter.submit_unlock(names[:wanted])

            before = reads(self.server)
            figure, after = clocked(self.lookups, look), reads(self.server)
            if before is not None and after is not None:
                # The bench's own query of the counter is one of the reads.
                figure = replace(figure, reads=(after - before - 1) / self.lookups)
            found[name] = figure
        a_key = found["present"].cpu / len(present) * 1e6
        return found | {"exists": replace(found["present"], rate=found["present"].rate * len(present), cpu=a_key)}


def _adapters(*specs: str) -> object:
    return parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[*specs]))


def _bytes(obj: MemoryObj) -> np.ndarray:
    return np.frombuffer(memoryview(obj.byte_array).cast("B"), np.uint8)


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(TIMEOUT_MS):
        raise TimeoutError(f"no result within {TIMEOUT_MS} ms")
    # As LMCache's controllers do. A descriptor that stays readable would make each later wait spin.
    consume_fd(descriptor)


def _result(descriptor: int, query: Callable[[], object]) -> object:
    while (result := query()) is None:
        _wait(descriptor)
    return result


@contextmanager
def redis(_folder: Path, _pause: float) -> Iterator[Group]:
    """A redis server."""
    with RedisServer() as server:
        url = f"resp://127.0.0.1:{server.port}?connections={CONNECTIONS}"

        def clear() -> None:
            server.ask("FLUSHALL")

        adapters: dict[str, dict[str, object]] = {
            "LMCache resp": {"type": "resp", "host": "127.0.0.1", "port": server.port, "num_workers": CONNECTIONS},
            "native_plugin": {"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient"},
            "KvconnL2Adapter": {"type": "plugin", "module_path": "kvconn.lmcache", "class_name": "KvconnL2Adapter"},
        }
        for adapter in [*adapters.values()][1:]:
            adapter["adapter_params"] = {"url": url}
        clients = {
            name: (lambda size, n, adapter=adapter: Adapter(adapter, size, n, clear, server)) for name, adapter in adapters.items()
        }
        title = "redis server, LMCache's server: its `resp` adapter, kvconn's `native_plugin` and `KvconnL2Adapter` on `resp://`"
        yield title, clients, clear


GROUPS = {"lmcache-server": redis}
