"""kvconn's metrics on vLLM's page: by vLLM's own statistics of a tier, and by the files of other processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
import urllib.request
from types import SimpleNamespace
from typing import Any

import kvconn
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadPromMetrics
from vllm.v1.metrics.prometheus import get_prometheus_registry

from ..report import Failed, Report, equal
from .engine import DEADLINE_S, Engine, config, keys

MODEL = "example/model"
_STORE = "memory://on-vllms-page"
_LABELS = {"connector": "kvconn.memory/MemoryConnector", "instance": "on-vllms-page"}


def run(report: Report) -> None:
    """Runs all checks of this part."""
    with report.check("vllm: its page shows the calls of kvconn's tier"):
        _by_statistics()
    with report.check("vllm, PROMETHEUS_MULTIPROC_DIR: its page shows the calls of another process"):
        _by_files()


def _by_statistics() -> None:
    """The way from the engine process to the page of the API server."""
    configuration = config([{"type": "kvconn", "url": _STORE}])
    extra_config = configuration.extra_config | {"spec_name": "TieringOffloadingSpec"}
    vllm_config: Any = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_connector_extra_config=extra_config))
    kinds: Any = {Counter: Counter, Gauge: Gauge, Histogram: Histogram}
    page = OffloadPromMetrics(vllm_config, kinds, ["model_name", "engine"], {0: [MODEL, "0"]})
    with Engine(configuration) as engine:
        take = engine.manager.get_stats

        def observed() -> Any:
            stats = take()
            if stats is not None:
                # It goes to another process.
                page.observe(pickle.loads(pickle.dumps(stats.data)))
            return stats

        engine.manager.get_stats = observed
        for name in ("one", "two"):
            engine.store(keys(4, name))
        engine.found(keys(4, "one"))
        wanted = _value("kvconn_calls_total", operation="batched_put", result="ok")
        labels = {**_LABELS, "operation": "batched_put", "model_name": MODEL, "engine": "0"}
        deadline = time.monotonic() + DEADLINE_S
        while (samples := _page(get_prometheus_registry())).get(_name("kvconn_calls_total", result="ok", **labels)) != wanted:
            if time.monotonic() > deadline:
                raise Failed(f"the page has not {wanted} calls: {[name for name in samples if 'kvconn_calls' in str(name)]}")
            engine.step()
            time.sleep(0.1)
        equal("bytes", samples[_name("kvconn_bytes_total", **labels)], _value("kvconn_bytes_total", operation="batched_put"))
        equal("observations", samples[_name("kvconn_call_seconds_count", **labels)], wanted)
        [seconds] = _samples("kvconn_call_seconds", operation="batched_put")
        equal("their sum", round(samples[_name("kvconn_call_seconds_sum", **labels)] - seconds["sum"], 9), 0.0)
        for bound, count in seconds["buckets"].items():
            equal(f"observations up to {bound}", samples[_name("kvconn_call_seconds_bucket", le=bound, **labels)], count)


def _samples(metric: str, **labels: str) -> list[Any]:
    """kvconn's own samples of the store."""
    return [sample for sample in kvconn.metrics()[metric] if (_LABELS | labels).items() <= sample["labels"].items()]


def _value(metric: str, **labels: str) -> float:
    [sample] = _samples(metric, **labels)
    return sample["value"]


def _name(metric: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return metric, tuple(sorted(labels.items()))


def _page(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a page over HTTP, by name and labels."""
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=DEADLINE_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {_name(sample.name, **sample.labels): sample.value for family in families for sample in family.samples}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


#: LMCache's plugin in vLLM's worker opens its store like this, and so does a program of a user.
_WORKER = """
import kvconn
kvconn.export_prometheus()
with kvconn.connect("memory://of-a-worker") as store:
    store.get("m@1@0@1f@bfloat16")
"""


def _by_files() -> None:
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder}
        subprocess.run([sys.executable, "-c", _WORKER], env=environment, check=True, timeout=60)
        before = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            registry = get_prometheus_registry()
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            if before is not None:
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = before
        equal("the registry is that of one process", registry is REGISTRY, False)
        labels = {"connector": "kvconn.memory/MemoryConnector", "instance": "of-a-worker", "operation": "get"}
        equal("misses", _page(registry).get(_name("kvconn_misses_total", **labels)), 1.0)
