"""Wrong configurations, and kvconn's errors and warnings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import kvconn
from kvconn._vllm_identity import _SETTINGS
from vllm.config import (
    AttentionConfig,
    CacheConfig,
    LoadConfig,
    ModelConfig,
    MultiModalConfig,
    ParallelConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

from ..report import Failed, Report, equal
from .engine import Engine, config, keys


def run(report: Report) -> None:
    """All checks, on a memory store and on files."""
    with report.check("the type `kvconn` and the class by `module_path` are one class"):
        by_name = SecondaryTierFactory.get_tier_class({"type": "kvconn"})
        equal("class", SecondaryTierFactory.get_tier_class({"type": "KvconnTier", "module_path": "kvconn.vllm"}), by_name)
        with Engine(config([{"type": "KvconnTier", "module_path": "kvconn.vllm", "url": "memory://by-module"}])) as engine:
            engine.store(keys(2))
    wrong: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
        "no URL": ({}, ("no `url`", "redis://")),
        "a URL of another type": ({"url": 6379}, ("`url`", "int")),
        "a scheme that does not exist": ({"url": "redis-ring://h"}, ("redis-ring",)),
        "an unknown option in the URL": ({"url": "memory://a?lookup_timeout=3"}, ("unknown URL option `lookup_timeout`", "`lookup_timeout_ms`")),
        "a folder that cannot be made": ({"url": f"fs://{__file__}/below"}, (__file__,)),
        "a locality that does not exist": ({"url": "memory://a", "locality": "NEAR"}, ("locality", "NEAR", "LOCAL", "REMOTE")),
        "a timeout that is text": ({"url": "memory://a", "lookup_timeout_ms": "soon"}, ("lookup_timeout_ms",)),
        "a capacity that is a list": ({"url": "memory://a", "capacity": [1]}, ("capacity",)),
        "events that are text": ({"url": "memory://a", "enable_kv_events": "yes"}, ("enable_kv_events", "true")),
        "a namespace with a slash": ({"url": "memory://a", "namespace": "a/b"}, ("namespace",)),
    }
    for name, (tier, words) in wrong.items():
        with report.check(f"refused: {name}"):
            _refused(tier, words)
    with report.check("an option that no store has is a warning with the nearest one"), _logged("kvconn") as messages:
        with Engine(config([{"type": "kvconn", "url": "memory://typo", "lookup_timeout_mss": 100}])) as engine:
            engine.store(keys(2))
        equal("named", any("lookup_timeout_mss" in text and "`lookup_timeout_ms`" in text for text in messages), True)
    with report.check("a password never shows"), _logged("kvconn") as messages:
        tier: dict[str, object] = {"type": "kvconn", "url": "redis://:s3cret@127.0.0.1:1", "wrong_option": "s3cret"}
        with Engine(config([tier])) as engine:
            engine.store(keys(2))
        equal("shown", [text for text in messages if "s3cret" in text], [])
    with report.check("a path as the model gives a warning without a namespace and a revision"):
        with tempfile.TemporaryDirectory() as model:
            for tier, warned in (({}, True), ({"namespace": "prod"}, False), ({"revision": "7"}, False)):
                with _logged("kvconn") as messages, Engine(config([{"type": "kvconn", "url": "memory://path"} | tier], model=model)):
                    pass
                equal(f"warned with {tier}", any(model in text and "namespace" in text for text in messages), warned)
    with report.check("a namespace is the identity of a path, and keeps two apart"):
        with tempfile.TemporaryDirectory(suffix="-llama") as one, tempfile.TemporaryDirectory() as parent:
            tier = {"type": "kvconn", "url": "memory://named", "namespace": "prod"}
            with Engine(config([tier], model=one)) as engine:
                engine.store(keys(3))
            other_path = f"{parent}/{one.rsplit('/', 1)[1]}"
            equal("hits", _hits(tier, other_path), 3)
            equal("hits in another namespace", _hits(tier | {"namespace": "test"}, one), 0)
    with report.check("each setting in the names of chunks is a field of vLLM's configuration"):
        kinds = {
            "model_config": ModelConfig, "cache_config": CacheConfig, "attention_config": AttentionConfig,
            "parallel_config": ParallelConfig, "speculative_config": SpeculativeConfig, "load_config": LoadConfig,
            "model_config.multimodal_config": MultiModalConfig, "": VllmConfig,
        }  # fmt: skip
        # Of a part inside a part, such as `hf_text_config`, only its own name is checked.
        found = [max((kind for kind in kinds if path.startswith(f"{kind}.")), key=len, default="") for path in _SETTINGS]
        names = [(kinds[kind], path.removeprefix(f"{kind}.").split(".")[0]) for kind, path in zip(found, _SETTINGS, strict=True)]
        gone = {name for kind, name in names if name not in kind.__dataclass_fields__ and not hasattr(kind, name)}
        # vLLM 0.28 removed this one.
        equal("missing fields", gone - {"calculate_kv_scales"}, set())
    if hasattr(SecondaryTierManager, "bp_detector"):
        _backpressure(report)


def _backpressure(report: Report) -> None:
    with report.check("a backpressure detector, as vLLM passes it since 0.31"):
        tier: dict[str, object] = {"type": "kvconn", "url": "memory://pressure", "locality": "LOCAL"}
        with Engine(config([tier | {"backpressure": {"backpressure_cls": "EMABackpressureDetector"}}])) as engine:
            (made,) = engine.tiers
            engine.store(keys(4, "pressure"))
            equal("completions seen by the detector", made.bp_detector._completions, 1)
            equal("locality", made.locality.value, "LOCAL")


def _hits(tier: dict[str, object], model: str) -> int:
    with Engine(config([tier], model=model)) as engine:
        return engine.found(keys(3))


def _refused(tier: dict[str, object], words: tuple[str, ...]) -> None:
    try:
        Engine(config([{"type": "kvconn"} | tier])).__exit__()
    except kvconn.KvconnError as e:
        for word in words:
            if word not in str(e):
                raise Failed(f"the error does not say {word!r}: {e}") from e
    else:
        raise Failed("it is accepted")


@contextmanager
def _logged(name: str) -> Iterator[list[str]]:
    """The messages of the warnings that the logger gets."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger(name).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(name).removeHandler(handler)
