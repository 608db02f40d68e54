"""LMCache's eviction and quotas on kvconn's adapter, also for chunks from before a restart."""

from __future__ import annotations

import tempfile
from typing import Any

from ..report import Report, equal
from ..server import RedisServer
from .manager import CHUNK_BYTES, Manager, chunks, key, spec, wait_for
from .transfer import stores

_GIB = 1 << 30
_LRU = {"eviction_policy": "LRU", "trigger_watermark": 0.8, "eviction_ratio": 0.2}
_QUOTAS = {"eviction_policy": "IsolatedLRU", "trigger_watermark": 1.0, "eviction_ratio": 0.5}
#: Two listings a second, so that the checks need not wait.
_OFTEN_MIN = 0.5 / 60


def run(report: Report) -> None:
    """Runs all checks of this part."""
    with stores() as urls:
        for name, url in urls.items():
            with report.check(f"lmcache-server: {name}: LMCache evicts down to the capacity, also older chunks"):
                _capacity(url)
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        with report.check("lmcache-server: fs: the oldest chunks go first after a restart"):
            _oldest_first(f"fs://{folder}/oldest")
        with report.check("lmcache-server: fs: a quota bounds its salt, and a salt without one goes"):
            _quotas(f"fs://{folder}/quotas")
        with report.check("lmcache-server: fs: quotas hold after a restart, within the grace"):
            _quotas_after_restart(f"fs://{folder}/restart")
    with report.check("lmcache-server: resp: the next listing notices redis' evictions, and LMCache drops those keys"):
        _redis_evicts()
    with report.check("lmcache-server: fs: the chunks of kvconn's vLLM and SGLang classes stay"), tempfile.TemporaryDirectory() as folder:
        _other_engines(f"fs://{folder}")


def _holds(server: Manager, wanted: dict[str, int]) -> bool:
    """Whether the adapter counts this number of chunks for each salt."""
    return {salt: size // CHUNK_BYTES for salt, size in server.usage()[1].items()} == wanted


def _bounded(url: str, capacity: int, **params: Any) -> str:
    return spec(url, eviction=_LRU, max_capacity_gb=capacity * CHUNK_BYTES / _GIB, **params)


def _capacity(url: str) -> None:
    # In memory the store lives as long as this.
    with Manager(spec(url)) as unbounded:
        unbounded.store(chunks(30))
        with Manager(_bounded(url, capacity=20)) as server:
            wait_for("LMCache evicts older chunks", lambda: 0 < server.usage()[0] < 16 * (CHUNK_BYTES + 28))
            server.store(chunks(20, first=100))
            wait_for("LMCache evicts", lambda: 0 < server.usage()[0] < 16 * (CHUNK_BYTES + 28))
            left = len(server.adapter.list_l2_keys().entries)
            equal("chunks in the store", left, server.usage()[0] // CHUNK_BYTES)
            equal("the eviction", server.manager.report_status()["l2_eviction_controller"]["is_healthy"], True)


def _oldest_first(url: str) -> None:
    with Manager(spec(url)) as first:
        for i in range(10):
            first.store(chunks(1, first=i))
    with Manager(_bounded(url, capacity=10)) as server:
        wait_for("LMCache evicts", lambda: server.usage()[0] < 8 * CHUNK_BYTES)
        numbers = sorted(int(entry.key.chunk_hash_hex, 16) for entry in server.adapter.list_l2_keys().entries)
        equal("the chunks that stay", numbers, [*range(10 - len(numbers), 10)])


def _quotas(url: str) -> None:
    with Manager(spec(url, eviction=_QUOTAS, quota_grace_s=0)) as server:
        for salt, limit in {"alice": 4, "bob": 100}.items():
            server.manager.quota_manager.set_quota(salt, limit * CHUNK_BYTES)
        server.store(chunks(10, "alice") | chunks(10, "bob") | chunks(5, "carol"))
        wait_for("the quotas hold", lambda: _holds(server, {"alice": 3, "bob": 10}))
        equal("LMCache's own count", server.manager.get_usage_bytes_by_cache_salt()["bob"], 10 * CHUNK_BYTES)


def _quotas_after_restart(url: str) -> None:
    with Manager(spec(url)) as first:
        first.store(chunks(10, "alice") | chunks(10, "bob") | chunks(5, "carol"))
    with Manager(spec(url, eviction=_QUOTAS, quota_grace_s=5)) as server:
        server.wait_listed()
        equal("the usage just after the start", _holds(server, {"alice": 10, "bob": 10, "carol": 5}), True)
        # As an operator does when the server starts.
        for salt, limit in {"alice": 4, "bob": 100}.items():
            server.manager.quota_manager.set_quota(salt, limit * CHUNK_BYTES)
        wait_for("the quotas hold", lambda: _holds(server, {"alice": 3, "bob": 10}))


def _redis_evicts() -> None:
    with RedisServer() as redis, Manager(
        _bounded(f"resp://127.0.0.1:{redis.port}", capacity=20, usage_interval_min=_OFTEN_MIN)
    ) as server:
        server.store(chunks(12))
        # As redis does with `maxmemory`.
        for name in redis.keys():
            if int(name.split("@")[3], 16) < 6:
                redis.ask("DEL", name)
        wait_for("the usage falls", lambda: server.usage()[0] == 6 * CHUNK_BYTES)
        server.store(chunks(12, first=50))
        # LMCache first picks the chunks that are gone, and then others.
        wait_for("LMCache evicts", lambda: server.usage()[0] < 16 * CHUNK_BYTES)
        equal("chunks in redis", len(redis.keys()), server.usage()[0] // CHUNK_BYTES)


def _other_engines(url: str) -> None:
    with Manager(spec(url)) as first:
        for model in ("vllm+org/model+00ff", "sglang+org/model+00ff"):
            first.store({key(i, model=model): data for i, data in enumerate(chunks(5).values())})
        first.store(chunks(5, "alice"))
    with Manager(spec(url, eviction=_QUOTAS, quota_grace_s=0)) as server:
        wait_for("LMCache removes the salt without a quota", lambda: server.usage()[0] == 0)
        kept = [server.fetch([key(i, model=model) for i in range(5)]) for model in ("vllm+org/model+00ff", "sglang+org/model+00ff")]
        equal("chunks of the other engines", kept, [[*chunks(5).values()]] * 2)
