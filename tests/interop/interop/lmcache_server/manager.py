"""LMCache's StorageManager on a CPU, with kvconn's adapter. LMCache's server runs the same below its sockets."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.distributed.storage_manager import StorageManager

from ..report import Failed

TIMEOUT_S = 60
CHUNK_BYTES = 256 << 10
_LAYOUT = MemoryLayoutDesc(shapes=[torch.Size([CHUNK_BYTES])], dtypes=[torch.uint8])


def layout(size: int) -> MemoryLayoutDesc:
    """The layout of a chunk of `size` bytes."""
    return MemoryLayoutDesc(shapes=[torch.Size([size])], dtypes=[torch.uint8])


def key(number: int, salt: str = "", model: str = "org/model", group: int = 0) -> ObjectKey:
    """The key of a chunk."""
    return ObjectKey(number.to_bytes(32, "big"), model, 0x01000100, group, salt)


def chunks(count: int, salt: str = "", first: int = 0, size: int = CHUNK_BYTES) -> dict[ObjectKey, bytes]:
    """Chunks of random bytes, each different."""
    return {key(i, salt): random.Random(f"{i}{salt}").randbytes(size) for i in range(first, first + count)}


def spec(url: str, eviction: dict[str, Any] | None = None, shared: bool = False, **params: Any) -> str:
    """The JSON of ``--l2-adapter``."""
    adapter: dict[str, Any] = {
        "type": "plugin",
        "module_path": "kvconn.lmcache",
        "class_name": "KvconnL2Adapter",
        "adapter_params": {"url": url, **params},
        "shared": shared,
    }
    if eviction is not None:
        adapter["eviction"] = eviction
    return json.dumps(adapter)


class Manager:
    """A StorageManager over one adapter. Closes with the `with` block."""

    def __init__(self, adapter: str, l1_bytes: int = 128 << 20) -> None:
        """`adapter` is the JSON of ``--l2-adapter``."""
        config = parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[adapter]))
        # Without a name, because two managers of one process would share the memory.
        memory = L1MemoryManagerConfig(size_in_bytes=l1_bytes, use_lazy=False, shm_name="")
        self.manager = StorageManager(
            StorageManagerConfig(
                l1_manager_config=L1ManagerConfig(memory_config=memory),
                eviction_config=EvictionConfig(eviction_policy="LRU"),
                l2_adapter_config=config,
            )
        )
        ((_, self.adapter),) = self.manager.l2_adapters()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def write(self, wanted: dict[ObjectKey, bytes]) -> None:
        """Writes chunks of one size as an engine does. The store controller starts to store them."""
        (size,) = {len(data) for data in wanted.values()}
        reserved = self.manager.reserve_write(list(wanted), layout(size))
        if len(reserved) != len(wanted):
            raise Failed(f"LMCache has memory for {len(reserved)} of {len(wanted)} chunks")
        for name, obj in reserved.items():
            memoryview(obj.byte_array).cast("B")[:] = wanted[name]
        self.manager.finish_write(list(reserved))

    def store(self, wanted: dict[ObjectKey, bytes]) -> None:
        """Writes chunks, and waits until the store controller has stored them."""
        before = self.adapter.report_status()["counters"]["store_keys"]
        self.write(wanted)
        wait_for(
            "LMCache stores the chunks",
            lambda: self.adapter.report_status()["counters"]["store_keys"] >= before + len(wanted),
        )
        self.wait_stored()

    def wait_stored(self) -> None:
        """Waits until LMCache's memory has no chunk that a store reads."""

        def idle() -> bool:
            (controller,) = self.manager.report_status()["store_controllers"].values()
            return controller["pending_keys_count"] == 0 and controller["in_flight_task_count"] == 0

        # The controller takes keys from its queue just before it counts their task.
        wait_for("no store is under way", lambda: idle() and (time.sleep(0.1) or idle()))

    def forget(self) -> None:
        """Empties LMCache's own memory, so that the next fetch comes from the store."""
        self.manager.clear()

    def fetch(self, keys: list[ObjectKey], size: int = CHUNK_BYTES, timeout_s: float = TIMEOUT_S) -> list[bytes]:
        """The chunks of the leading run that LMCache finds."""
        row = GroupedObjectKeys(keys=keys, object_group_id=0, layout_desc=layout(size))
        handle = self.manager.submit_prefetch_task(PrefetchTaskSpec(key_groups=[row]))
        if not self.manager.wait_prefetch_status(handle, timeout_s):
            raise Failed(f"the prefetch did not end within {timeout_s} s")
        result = self.manager.query_prefetch_status(handle)
        found = keys[: result.hit_cells[0].count_leading_ones()]
        with self.manager.read_prefetched_results(found) as objects:
            if objects is None:
                raise Failed("LMCache has lost chunks that it has just prefetched")
            data = [bytes(obj.byte_array) for obj in objects]
        self.manager.finish_read_prefetched(found)
        return data

    def usage(self) -> tuple[int, dict[str, int]]:
        """All bytes that the adapter counts, and those of each salt."""
        usage = self.adapter.get_usage()
        return usage.total_bytes_used, dict(usage.bytes_by_cache_salt)

    def wait_listed(self) -> None:
        """Waits until the listing of the start has ended."""
        wait_for("the listing ends", lambda: self.adapter.report_status()["listing"]["state"] == "done")


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Polls until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)
