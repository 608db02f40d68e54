"""vLLM's real `TieringOffloadingManager`, driven as vLLM's scheduler drives it, without a GPU.

The engine writes the rows that a GPU worker would copy, and compares the rows that a worker would read.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.plugins import load_general_plugins
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from ..report import Failed

# Every process of vLLM does this. It registers the tier type `kvconn`.
load_general_plugins()

ROW_BYTES = 64 << 10
DEADLINE_S = 30.0


def keys(count: int, name: str = "prompt", group: int = 0) -> list[bytes]:
    """Keys of the chunks of one prompt, in order. A key is the chunk's hash and 4 bytes of the group's index."""
    return [make_offload_key(hashlib.sha256(f"{name}/{i}".encode()).digest(), group) for i in range(count)]


def row_of(key: bytes, size: int) -> bytes:
    """The bytes that a row with this key has: `size` bytes that differ from those of every other key."""
    return hashlib.shake_128(key).digest(size)


def parallel(**changes: object) -> OffloadingParallelConfig:
    """One worker, unless a field is given."""
    values: dict[str, object] = {
        "rank": 0, "world_size": 1, "tp_size": 1, "pp_size": 1, "pcp_size": 1, "dcp_size": 1,
        "data_parallel_index": 0, "data_parallel_size": 1, "data_parallel_rank_local": None, "is_parallelism_agnostic": False,
    }  # fmt: skip
    return _known(OffloadingParallelConfig, values | changes)


def _known(kind: type, values: dict[str, object]) -> Any:
    """An object of this class, without the fields that only later releases of vLLM have."""
    return kind(**{name: value for name, value in values.items() if name in kind.__dataclass_fields__})


def config(
    tiers: list[dict[str, object]],
    *,
    rows: int = 64,
    row_bytes: int = ROW_BYTES,
    model: str = "example/model",
    dtype: str = "bfloat16",
    groups: Sequence[tuple[str, ...]] = (("layer.0", "layer.1"),),
    events: bool = False,
    canonical: bool = False,
    **parallelism: object,
) -> OffloadingConfig:
    """A configuration as vLLM builds it from its own: `rows` rows of `row_bytes` bytes in the primary tier."""
    ranks = parallel(**parallelism)
    return OffloadingConfig(
        groups=tuple(
            _known(OffloadingGroupConfig, {"tokens_per_block": 16, "layer_names": names, "group_id": i}) for i, names in enumerate(groups)
        ),
        worker_kv_bytes_per_block=row_bytes // ranks.world_size,
        enable_kv_cache_events=events,
        extra_config={"cpu_bytes_to_use": rows * row_bytes, "secondary_tiers": tiers},
        engine_id=f"kvconn-{uuid.uuid4().hex}",
        model=OffloadingModelConfig(name=model, dtype=dtype),
        cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
        parallel=ranks,
        **({"canonical_layout": True, "kv_cache_layout": "LBHNC"} if canonical else {}),
    )


@dataclass
class Request:
    """One request: its keys, and how far it is."""

    keys: list[bytes]
    context: ReqContext = field(default_factory=lambda: ReqContext(req_id=uuid.uuid4().hex))
    # Leading keys that the manager had, once the lookup has ended.
    hits: int | None = None


class Engine:
    """A manager with the configuration's tiers. Ends with the `with` block."""

    def __init__(self, configuration: OffloadingConfig) -> None:
        self.config = configuration
        self.spec = TieringOffloadingSpec(configuration)
        self.manager = self.spec.get_manager()
        # Method -> for each call, its seconds and the CPU seconds of its thread.
        self.seconds: dict[str, list[tuple[float, float]]] = {}
        # Keys that a tier has, from its lookups in this step.
        self._hits: set[bytes] = set()
        for tier in self.tiers:
            self._watch(tier)

    @property
    def tiers(self) -> list:
        return self.manager.secondary_tiers

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.shutdown()

    def _watch(self, tier: Any) -> None:
        """Records the times of the tier's calls, and the keys that the tier has."""
        lookup = tier.lookup

        def noting(key: bytes, context: ReqContext) -> LookupResult:
            result = lookup(key, context)
            if result is LookupResult.HIT:
                self._hits.add(key)
            return result

        tier.lookup = noting
        names = (
            "lookup", "submit_store", "submit_load", "get_finished_jobs", "on_new_request", "on_request_finished",
            "on_schedule_end", "touch", "has_pending_work", "take_events", "get_stats",
        )  # fmt: skip
        for name in names:
            setattr(tier, name, _timed(getattr(tier, name), self.seconds.setdefault(name, [])))

    # -- The scheduler

    def step(self) -> None:
        """The end of a scheduler step."""
        self.manager.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))
        self.manager.get_stats()

    def settle(self) -> None:
        """Steps until no transfer is left. The first step submits the loads of its lookups."""
        self.step()
        self.until(lambda: not self.manager.has_pending_work(), "no work is pending")

    def until(self, done: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Steps until `done`. Fails after the deadline."""
        end = time.monotonic() + deadline_s
        while not done():
            if time.monotonic() > end:
                raise Failed(f"{what}: not within {deadline_s:g} s")
            self.step()
            time.sleep(0.0005)

    def start(self, names: Iterable[bytes]) -> Request:
        """A new request for these keys."""
        request = Request(list(names))
        self.manager.on_new_request(request.context)
        return request

    def finish(self, request: Request) -> None:
        """The request ends, or is aborted."""
        self.manager.on_request_finished(request.context)

    def look(self, request: Request) -> bool:
        """One step's lookup of a prefix, as the scheduler does it. Whether it has ended."""
        hits, deferred = 0, False
        for key in request.keys:
            result = self.manager.lookup(key, request.context)
            if result is LookupResult.MISS:
                break
            deferred = deferred or result is not LookupResult.HIT
            hits += result is not LookupResult.RETRY
        request.hits = None if deferred else hits
        return not deferred

    def until_hit(self, request: Request) -> None:
        """Looks up until a tier has all chunks of the request. Their loads start at the end of the step."""

        def is_hit() -> bool:
            self._hits.clear()
            self.look(request)
            return self._hits >= set(request.keys)

        self.until(is_hit, "the lookup is a hit")

    def found(self, names: Iterable[bytes], deadline_s: float = DEADLINE_S) -> int:
        """A request's whole life up to its hits: looks up, promotes, compares each byte. The number of leading keys."""
        request = self.start(names)
        try:
            self.until(lambda: self.look(request), "the lookup ends", deadline_s)
            self.read(request)
        finally:
            self.finish(request)
        return request.hits

    def read(self, request: Request) -> None:
        """Reads the hits as a worker does, and compares each byte."""
        names = request.keys[: request.hits]
        if not names:
            return
        rows = rows_of(self.manager.prepare_load(names, request.context))
        for key, row in zip(names, rows, strict=True):
            found, wanted = self.row(row), row_of(key, self.row_bytes)
            if found != wanted:
                raise Failed(f"the row of {key.hex()} has other bytes from byte {_first_difference(found, wanted)}")
        self.manager.complete_load(names, request.context)

    def store(self, names: Iterable[bytes], wait: bool = True) -> None:
        """A request that computes these chunks: they go to the primary tier, and from there to the others."""
        request = self.start(names)
        self.put(request)
        self.finish(request)
        if wait:
            self.settle()

    def put(self, request: Request) -> None:
        """Writes the request's chunks as a worker does."""
        self.manager.touch(request.keys, request.context)
        prepared = self.manager.prepare_store(request.keys, request.context)
        if prepared is None:
            raise Failed("the primary tier has no row left")
        for key, row in zip(prepared.keys_to_store, rows_of(prepared.store_spec), strict=True):
            view = self._view()
            view[row * self.row_bytes : (row + 1) * self.row_bytes] = row_of(key, self.row_bytes)
            view.release()
        if prepared.keys_to_store:
            # The scheduler keeps a job's keys in a set.
            self.manager.complete_store(set(prepared.keys_to_store), request.context)

    def forget(self) -> None:
        """Empties the primary tier. The other tiers keep their chunks."""
        self.settle()
        self.manager.reset_cache()
        flushed = getattr(self.manager, "on_reset_flushed", None)
        if flushed:
            flushed()

    # -- The primary tier's rows

    @property
    def row_bytes(self) -> int:
        return self.manager.primary_tier.get_kv_memoryview().strides[0]

    def _view(self) -> memoryview:
        return self.manager.primary_tier.get_kv_memoryview().cast("B")

    def row(self, index: int) -> bytes:
        view = self._view()
        try:
            return bytes(view[index * self.row_bytes : (index + 1) * self.row_bytes])
        finally:
            view.release()


def rows_of(spec: object) -> list[int]:
    """The rows of a load or store of the primary tier. vLLM 0.30 renamed the field."""
    return [int(row) for row in getattr(spec, "chunk_ids", getattr(spec, "block_ids", ()))]


def _timed(method: Callable, seconds: list[tuple[float, float]]) -> Callable:
    def call(*args, **kwargs):
        start, used = time.perf_counter(), time.thread_time()
        try:
            result = method(*args, **kwargs)
            # `take_events` of vLLM's tiers is a generator.
            return list(result) if hasattr(result, "__next__") else result
        finally:
            seconds.append((time.perf_counter() - start, time.thread_time() - used))

    return call


def _first_difference(found: bytes, wanted: bytes) -> int:
    return next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)))
