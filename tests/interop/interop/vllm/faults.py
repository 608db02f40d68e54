"""Chunks that vanish, requests that are aborted, transfers that are drained; events and metrics."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from vllm.v1.kv_offload.base import Medium, ReqContext
from vllm.v1.kv_offload.tiering import base
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from ..report import Failed, Report, equal
from .engine import Engine, Request, config, keys
from .places import Place, VllmFs, places

SEED = 20261126


def run(report: Report) -> None:
    """All checks, on all stores."""
    with places() as found:
        for place in found:
            _lost_between_hit_and_load(report, place)
            _fuller_than_the_primary_tier(report, place)
            _aborts(report, place)
            _drained(report, place)
            _empty_jobs(report, place)
            _events(report, place)
            _metrics(report, place)


def _lost_between_hit_and_load(report: Report, place: Place) -> None:
    def emptied(prompt: list[bytes]) -> None:
        place.remove(prompt)

    def one_removed(prompt: list[bytes]) -> None:
        place.remove(prompt[3:4])

    def one_shorter(prompt: list[bytes]) -> None:
        place.shorten(prompt[3])

    cases: list[tuple[str, Callable[[list[bytes]], None], int]] = [
        ("all chunks vanish", emptied, 0), ("one chunk vanishes", one_removed, 3), ("one chunk gets shorter", one_shorter, 3),
    ]  # fmt: skip
    for name, lose, hits in cases:
        with report.check(f"{place.name}: {name} between hit and load"), Engine(config([place.tier])) as engine:
            prompt = keys(8, name)
            engine.store(prompt)
            engine.forget()
            request = engine.start(prompt)
            engine.until_hit(request)
            lose(prompt)
            engine.until(lambda request=request: engine.look(request), "the lookup ends")
            equal("hits", request.hits, hits)
            engine.read(request)
            engine.finish(request)
            engine.forget()
            equal("hits of the next request", engine.found(prompt), hits)
            # The engine stores the lost chunks again.
            engine.forget()
            engine.store(prompt)
            engine.forget()
            equal("hits after another store", engine.found(prompt), 8)


def _fuller_than_the_primary_tier(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: a prompt that the primary tier cannot hold"), Engine(config([place.tier], rows=4)) as engine:
        prompt = keys(8, "large prompt")
        for key in prompt:
            engine.store([key])
        engine.forget()
        # vLLM may evict a promoted chunk for the next one, so the number of hits is not certain. But the lookup ends.
        equal("hits fit", engine.found(prompt) <= 4, True)


def _aborts(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: random aborts leave no row in use"), Engine(config([place.tier], rows=96)) as engine:
        chance = random.Random(SEED)
        prompts = [keys(6, f"abort {i}") for i in range(24)]
        running: list[Request] = []
        for _ in range(400):
            match chance.choice(("store", "start", "look", "look", "abort", "step", "step", "forget")):
                case "store":
                    engine.store(chance.choice(prompts), wait=False)
                case "start" if len(running) < 8:
                    running.append(engine.start(chance.choice(prompts)))
                case "look" if running:
                    request = chance.choice(running)
                    if engine.look(request):
                        engine.read(request)
                        engine.finish(request)
                        running.remove(request)
                case "abort" if running:
                    engine.finish(running.pop(chance.randrange(len(running))))
                case "step":
                    engine.step()
                case "forget" if chance.random() < 0.1:
                    engine.forget()
        for request in running:
            engine.finish(request)
        engine.settle()
        equal("rows in use", _rows_in_use(engine), 0)
        engine.forget()
        engine.store(prompts[0])
        engine.forget()
        equal("hits", engine.found(prompts[0]), 6)


def _rows_in_use(engine: Engine) -> float:
    engine.step()
    stats = engine.manager.primary_tier.get_stats().reduce()
    return stats["vllm:kv_offload_cpu_cache_usage_perc"]


def _drained(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: a reset with transfers under way"), Engine(config([place.tier])) as engine:
        stored, other = keys(16, "drained 1"), keys(16, "drained 2")
        engine.store(stored)
        engine.forget()
        request = engine.start(stored)
        engine.until_hit(request)
        engine.step()
        engine.store(other, wait=False)
        engine.manager.reset_cache()
        equal("pending work", engine.manager.has_pending_work(), False)
        engine.finish(request)
        flushed = getattr(engine.manager, "on_reset_flushed", None)
        if flushed:
            flushed()
        equal("hits", engine.found(stored), 16)


def _empty_jobs(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: a job without keys succeeds"), Engine(config([place.tier])) as engine:
        (tier,) = engine.tiers
        for job_id, submit, is_load in ((10**9, tier.submit_store, False), (10**9 + 1, tier.submit_load, True)):
            submit(_job(job_id, is_load))
            equal("results", [(result.job_id, result.success) for result in _results(tier)], [(job_id, True)])


def _job(job_id: int, is_load: bool) -> object:
    """A job without keys. Its class has another name before vLLM 0.28, and its rows before 0.30."""
    kind = getattr(base, "TransferJob", None) or base.JobMetadata
    values = {"job_id": job_id, "keys": [], "is_promotion": is_load, "req_context": ReqContext(req_id="empty")}
    rows = {name: np.array([], dtype=np.int32) for name in ("chunk_ids", "block_ids") if name in kind.__dataclass_fields__}
    return kind(**values, **rows)


def _results(tier: object) -> list:
    results: list = []
    for _ in range(10_000):
        results += tier.get_finished_jobs()
        if results:
            return results
        tier.drain_jobs()
    raise Failed("no result")


def _events(report: Report, place: Place) -> None:
    on = place.tier | {"enable_kv_events": True, "locality": "REMOTE"}
    for name, tier, events, wanted in (("on", on, True, 2), ("off in the tier", place.tier, True, 0), ("off in vLLM", on, False, 0)):
        with report.check(f"{place.name}: events, {name}"), Engine(config([tier], events=events)) as engine:
            one, two = keys(3, f"events {name} 1"), keys(4, f"events {name} 2")
            engine.store(one)
            engine.store(two)
            engine.forget()
            equal("hits", engine.found(one), 3)
            found = [event for event in engine.manager.take_events() if event.medium is Medium.STORAGE]
            equal("events", len(found), wanted)
            if wanted:
                equal("keys", [set(event.keys) for event in found], [set(one), set(two)])
                equal("kind", {(event.removed, event.locality.value) for event in found}, {(False, "REMOTE")})
                equal("events again", [event for event in engine.manager.take_events() if event.medium is Medium.STORAGE], [])


def _metrics(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: each metric is defined, and counts"):
        engine_config = config([place.tier])
        defined = TieringOffloadingSpec.build_metric_definitions(engine_config.extra_config)
        with Engine(engine_config) as engine:
            (tier,) = engine.tiers
            tier.get_stats()
            prompt = keys(5, "metrics")
            engine.store(prompt)
            engine.forget()
            equal("hits", engine.found(prompt), 5)
            stats = engine.manager.get_stats()
            for name, values in (stats.data["data"] if stats else {}).items():
                if name not in defined:
                    raise Failed(f"`{name}` is not defined")
                for labels in values:
                    equal(f"labels of {name}", len(labels), len(defined[name].labelnames))
        if isinstance(place, VllmFs):
            return
        ours = {name for name in defined if "kvconn" in name}
        equal("metrics of kvconn", len(ours) > 8, True)
