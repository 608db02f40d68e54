"""vLLM's secondary tiers: its own `fs`, the simplest one over redis-py, and kvconn's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager, TransferJob

from ..server import RedisServer
from ..vllm.engine import Engine, config, keys
from .figures import GIB, Figure, Round, clocked
from .groups import Group, files
from .reads import reads

JOB_ROWS = 64
# So that a tier with a thread for each job uses several.
JOBS = 4
BATCHES = 2
LOOKUPS = 200
LOOKUP_KEYS = 64
# Jobs of 64 rows for the percentile of the calls.
CALL_JOBS = 600
CALL_ROW_BYTES = 256 << 10
POLL_S = 0.0002
TIMEOUT_S = 120


class Tier:
    """One tier, which gets jobs as vLLM's scheduler submits them. Each round has a new tier and a new primary region."""

    def __init__(self, tier: dict[str, object], size: int, n: int, clear: Callable[[], None], server: RedisServer | None = None) -> None:
        self.tier, self.size, self.n, self.clear, self.server = tier, size, n, clear, server
        self.keys = keys(n)
        self.job = 0
        self.is_warm = False

    def round(self) -> Round:
        """Measures each operation once, after a warm-up."""
        # The rows that are stored, and the rows that are loaded.
        with Engine(config([self.tier], rows=2 * self.n, row_bytes=self.size)) as engine:
            (tier,) = engine.tiers
            rows = np.frombuffer(engine.manager.primary_tier.get_kv_memoryview().cast("B"), np.uint8).reshape(2 * self.n, self.size)
            rows[: self.n] = np.random.default_rng(0).integers(0, 256, (self.n, self.size), np.uint8)
            self._moved(tier, 1)
            moved = self._moved(tier, BATCHES)
            if not np.array_equal(rows[: self.n], rows[self.n :]):
                raise RuntimeError("the rows that were loaded differ from the rows that were stored")
            # A view that is alive at shutdown keeps the region mapped.
            del rows
            found = moved | self._lookups(tier)
        if self.size == CALL_ROW_BYTES and self.is_warm:
            found |= self._calls()
        # The first round does not count.
        self.is_warm = True
        return found

    def close(self) -> None:
        """Does nothing: no tier is open between rounds."""

    def _moved(self, tier: SecondaryTierManager, batches: int) -> Round:
        size, count = self.size * self.n / GIB, min(JOB_ROWS, self.n // JOBS)
        put, get = [], []
        for _ in range(batches):
            self.clear()
            put.append(clocked(size, lambda: self._do(tier, tier.submit_store, 0, count)))
            get.append(clocked(size, lambda: self._do(tier, tier.submit_load, self.n, count)))
        return {"put": _mean(put), "get": _mean(get)}

    def _do(self, tier: SecondaryTierManager, submit: Callable[[TransferJob], None], first: int, count: int) -> None:
        for start in range(0, self.n, count):
            submit(self._made(self.keys[start : start + count], first + start, submit == tier.submit_load))
        _finish(tier, -(-self.n // count))

    def _made(self, names: list[bytes], row: int, load: bool) -> TransferJob:
        self.job += 1
        rows = np.arange(row, row + len(names), dtype=np.int32)
        return TransferJob(self.job, names, rows, load, ReqContext(req_id=f"job {self.job}"))

    def _lookups(self, tier: SecondaryTierManager) -> Round:
        # A prompt of fewer rows is asked for several times.
        present = (self.keys * LOOKUP_KEYS)[:LOOKUP_KEYS]
        found = {}
        for name, names, wanted in (("present", present, True), ("absent", keys(LOOKUP_KEYS, "absent"), False)):
            before = reads(self.server)
            figure = clocked(LOOKUPS, lambda: self._looked(tier, names, wanted))
            after = reads(self.server)
            # The last question is the bench's own.
            trips = None if before is None or after is None else (after - before - 1) / LOOKUPS
            found[name] = replace(figure, reads=trips)
        return found | {"exists": replace(found["present"], rate=found["present"].rate * LOOKUP_KEYS)}

    def _looked(self, tier: SecondaryTierManager, names: list[bytes], wanted: bool) -> None:
        for i in range(LOOKUPS):
            context = ReqContext(req_id=f"lookup {i}")
            tier.on_new_request(context)
            deadline = time.monotonic() + TIMEOUT_S
            while LookupResult.RETRY in (results := {tier.lookup(name, context) for name in names}):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no lookup within {TIMEOUT_S} s")
                tier.on_schedule_end(ScheduleEndContext((), ()))
                time.sleep(0)
            if results != {LookupResult.HIT if wanted else LookupResult.MISS}:
                raise RuntimeError(f"a lookup of {len(names)} keys gives {results}")
            tier.on_request_finished(context)

    def _calls(self) -> Round:
        """The calls of the scheduler's thread while jobs of 64 rows are stored, looked up and loaded."""
        with Engine(config([self.tier], rows=2 * JOB_ROWS, row_bytes=CALL_ROW_BYTES)) as engine:
            (tier,) = engine.tiers
            for i in range(CALL_JOBS):
                names = keys(JOB_ROWS, f"calls {i % 8}")
                if i % 8 == 0:
                    self.clear()
                # A load and a store at a time, as when one request begins and another one ends.
                tier.submit_store(self._made(names, 0, False))
                if i % 8:
                    tier.submit_load(self._made(keys(JOB_ROWS, f"calls {i % 8 - 1}"), JOB_ROWS, True))
                context = ReqContext(req_id=f"calls {i}")
                tier.on_new_request(context)
                for name in names:
                    tier.lookup(name, context)
                tier.on_schedule_end(ScheduleEndContext((), ()))
                _finish(tier, 2 if i % 8 else 1)
                tier.on_request_finished(context)
            calls = [np.array(of) for of in engine.seconds.values() if of]
        self.clear()
        # Of the slowest method: the many short lookups must not hide the submits.
        call, busy = (max(float(np.quantile(of[:, column], 0.999)) for of in calls) for column in (0, 1))
        longest = max(float(of[:, 0].max()) for of in calls)
        return {"call": Figure(1 / call, 0.0), "busy": Figure(1 / busy, 0.0), "longest": Figure(1 / longest, 0.0)}


def _finish(tier: SecondaryTierManager, jobs: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while jobs:
        for result in tier.get_finished_jobs():
            if not result.success:
                raise RuntimeError(f"job {result.job_id} failed")
            jobs -= 1
        if jobs:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{jobs} jobs have not ended within {TIMEOUT_S} s")
            time.sleep(POLL_S)


def _mean(figures: list[Figure]) -> Figure:
    return Figure(statistics.harmonic_mean(figure.rate for figure in figures), statistics.fmean(figure.cpu for figure in figures))


@contextmanager
def fs(folder: Path, _pause: float) -> Iterator[Group]:
    """Files."""
    with files(folder) as (root, clear):
        clients = {
            "vLLM fs": lambda size, n: Tier({"type": "fs", "root_dir": f"{root}/vllm"}, size, n, clear),
            "kvconn fs": lambda size, n: Tier(_ours(f"fs://{root}/kvconn"), size, n, clear),
        }
        yield f"files in {folder}: vLLM's `fs` tier with its 32 threads, `KvconnTier` on `fs://`", clients, clear


@contextmanager
def redis(_folder: Path, _pause: float) -> Iterator[Group]:
    """A redis server."""
    with RedisServer() as server:

        def clear() -> None:
            server.ask("FLUSHALL")

        simple = {"type": "SimpleTier", "module_path": "interop.bench.simple_tier", "port": server.port}
        clients = {
            "redis-py": lambda size, n: Tier(simple, size, n, clear, server),
            "kvconn resp": lambda size, n: Tier(_ours(f"resp://127.0.0.1:{server.port}"), size, n, clear, server),
            "kvconn redis": lambda size, n: Tier(_ours(f"redis://127.0.0.1:{server.port}"), size, n, clear, server),
        }
        yield "redis server: the simplest tier over redis-py, `KvconnTier` on `resp://` and `redis://`", clients, clear


def _ours(url: str) -> dict[str, object]:
    return {"type": "KvconnTier", "module_path": "kvconn.vllm", "url": url}


GROUPS = {"vllm-fs": fs, "vllm-redis": redis}
