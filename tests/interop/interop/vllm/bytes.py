"""The bytes that a tier gives back, and which configurations share them."""

from __future__ import annotations

from typing import Any

from ..report import Report, equal
from ..topology_servers import TOPOLOGIES
from .engine import DEADLINE_S, Engine, config, keys
from .places import Place, places


def smoke(report: Report) -> None:
    """Stores and loads each byte, by vLLM's own tier and by kvconn's over four stores."""
    with places("vllm", "memory", "fs", "redis", "s3") as found:
        for place in found:
            _round_trip(report, place)


def run(report: Report) -> None:
    """All checks, on all stores."""
    with places() as found:
        for place in found:
            _round_trip(report, place)
            _eviction(report, place)
            _restart(report, place)
            _two_engines(report, place)
            _requests_at_once(report, place)
            _groups(report, place)
            _ranks(report, place)
            _identities(report, place)


def topologies(report: Report) -> None:
    """The checks of the bytes, over servers with TLS, with sentinels and in clusters."""
    for name in TOPOLOGIES:
        with places(name) as (place,):
            _round_trip(report, place)
            _eviction(report, place)
            _restart(report, place)
            _two_engines(report, place)
            _requests_at_once(report, place)


def _round_trip(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: absent, stored, evicted from the primary tier, loaded, every byte"):
        with Engine(config([place.tier])) as engine:
            prompt = keys(16, "round trip")
            equal("hits before", engine.found(prompt), 0)
            engine.store(prompt)
            equal("stored", set(place.hashes()) >= {key[:-4].hex() for key in prompt}, True)
            equal("hits in the primary tier", engine.found(prompt), 16)
            engine.forget()
            equal("hits in the tier", engine.found(prompt), 16)
            equal("hits of a longer prompt", engine.found(prompt + keys(4, "other")), 16)
            engine.forget()
            equal("hits of a shorter prompt", engine.found(prompt[:3]), 3)


def _eviction(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: chunks that the primary tier has evicted"), Engine(config([place.tier], rows=16)) as engine:
        prompts = [keys(8, f"eviction {i}") for i in range(6)]
        for prompt in prompts:
            engine.store(prompt)
        for prompt in prompts:
            equal("hits", engine.found(prompt), 8)


def _restart(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: another engine finds the chunks"):
        prompt = keys(12, "restart")
        with Engine(config([place.tier])) as engine:
            engine.store(prompt)
        with Engine(config([place.tier])) as engine:
            equal("hits", engine.found(prompt), 12)


def _two_engines(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: two engines at a time on one store"):
        with Engine(config([place.tier])) as one, Engine(config([place.tier])) as two:
            first, second = keys(8, "two engines 1"), keys(8, "two engines 2")
            one.store(first, wait=False)
            two.store(second, wait=False)
            one.settle()
            two.settle()
            equal("hits", (two.found(first), one.found(second)), (8, 8))


def _requests_at_once(report: Report, place: Place) -> None:
    # The tier drops stores beyond half of the rows, and a slow store has none of the 68 chunks when the last one comes.
    with report.check(f"{place.name}: 8 requests at once, with a common start"), Engine(config([place.tier], rows=256)) as engine:
        common = keys(4, "common")
        prompts = [common + keys(8, f"at once {i}") for i in range(8)]
        for prompt in prompts:
            engine.store(prompt, wait=False)
        engine.forget()
        requests = [engine.start(prompt) for prompt in prompts]
        # Two of them have a chunk that no engine has stored.
        requests += [engine.start(prompts[i][:6] + keys(2, "missing")) for i in range(2)]
        waiting = list(requests)

        def ended() -> bool:
            waiting[:] = [request for request in waiting if not engine.look(request)]
            return not waiting

        engine.until(ended, "all lookups end", DEADLINE_S)
        for request in requests:
            engine.read(request)
            engine.finish(request)
        equal("hits", [request.hits for request in requests], [12] * 8 + [6] * 2)


def _groups(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: a hybrid model's groups keep their chunks apart"):
        with Engine(config([place.tier], groups=(("full.0",), ("window.0", "window.1")))) as engine:
            full, window = keys(6, "groups", 0), keys(6, "groups", 1)
            engine.store(full)
            engine.forget()
            equal("hits of the other group", engine.found(window), 0)
            engine.store(window)
            engine.forget()
            equal("hits", (engine.found(full), engine.found(window)), (6, 6))


def _ranks(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: two workers in each row; another parallelism is apart unless the bytes are equal"):
        prompt = keys(5, "ranks")
        two = {"world_size": 2, "tp_size": 2}
        with Engine(config([place.tier], **two)) as engine:
            engine.store(prompt)
            engine.forget()
            equal("hits", engine.found(prompt), 5)
        for name, other in {"pipeline": {"world_size": 2, "pp_size": 2}, "rank": two | {"rank": 1}, "one": {}}.items():
            equal(f"hits, {name}", _hits(place, prompt, **other), 0)
        shared = keys(5, "any parallelism")
        same: dict[str, Any] = {"is_parallelism_agnostic": True, "canonical": True}
        with Engine(config([place.tier], **same, **two)) as engine:
            engine.store(shared)
        equal("hits by one worker", _hits(place, shared, **same), 5)


def _identities(report: Report, place: Place) -> None:
    with report.check(f"{place.name}: another model, type or layer finds nothing"):
        prompt = keys(5, "identity")
        with Engine(config([place.tier])) as engine:
            engine.store(prompt)
        others: dict[str, dict[str, object]] = {
            "model": {"model": "example/other"}, "dtype": {"dtype": "float16"}, "layers": {"groups": (("layer.0",),)},
        }  # fmt: skip
        for name, other in others.items():
            equal(f"hits, {name}", _hits(place, prompt, **other), 0)
    # vLLM's own tier reads the start of the larger file, and kvconn's files in its layout have its names.
    if place.name not in ("vLLM's fs tier", "fs, vLLM's layout"):
        with report.check(f"{place.name}: rows of another length are apart"):
            equal("hits", _hits(place, keys(5, "identity"), row_bytes=32 << 10), 0)


def _hits(place: Place, prompt: list[bytes], **changes: object) -> int:
    with Engine(config([place.tier], **changes)) as engine:
        return engine.found(prompt)
