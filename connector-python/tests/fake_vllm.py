"""The part of vLLM that `kvconn.vllm` uses, in the shapes of its releases, so that the tests need no vLLM.

`installed(0, 32)` puts modules of that release into `sys.modules`, and imports `kvconn.vllm` anew. Names and fields are those of vLLM 0.27 to
0.33; `tests/interop` runs the real classes.
"""

import dataclasses
import enum
import hashlib
import importlib
import json
import sys
import types
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Any


@contextmanager
def installed(*release):
    """Gives the modules' content as attributes, with `tier` for `kvconn.vllm`."""
    made = _modules(release)
    kept = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    for name in kept:
        del sys.modules[name]
    sys.modules.update(made)
    names = types.SimpleNamespace()
    for module in made.values():
        vars(names).update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    try:
        names.tier = importlib.import_module("kvconn.vllm")
        names.identity = importlib.import_module("kvconn._vllm_identity")
        names.plugin = importlib.import_module("kvconn._vllm_plugin")
        yield names
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(kept)


def _is_ours(name):
    return name.split(".")[0] == "vllm" or name in ("kvconn.vllm", "kvconn._vllm_identity", "kvconn._vllm_metrics", "kvconn._vllm_plugin")


PLATFORM = types.SimpleNamespace(device_type="cuda", is_rocm=lambda: False, fp8_dtype=lambda: "torch.float8_e4m3fn")


def _modules(release):
    content = {
        "vllm": {"__version__": f"{release[0]}.{release[1]}.1"},
        "vllm.config": {"VllmConfig": VllmConfig},
        "vllm.platforms": {"current_platform": PLATFORM},
        "vllm.v1.core.kv_cache_utils": {"DEFAULT_NONE_HASH_SEED": "seed"} if release >= (0, 29) else {},
        "vllm.v1.kv_offload.base": {
            name: globals()[name]
            for name in (
                "Locality", "LookupResult", "Medium", "OffloadingCounterMetadata", "OffloadingGaugeMetadata", "OffloadingHistogramMetadata",
                "OffloadingMetricMetadata", "OffloadingEvent", "RequestOffloadingContext", "ReqContext",
            )
        },
        "vllm.v1.kv_offload.file_mapper": {"FileMapper": FileMapper},
        "vllm.v1.kv_offload.tiering.base": _tiering(release),
        "vllm.v1.kv_offload.tiering.factory": {"SecondaryTierFactory": _factory()},
        "vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics": {"OffloadingConnectorStats": OffloadingConnectorStats},
    }  # fmt: skip
    modules = {}
    for name, values in content.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path not in modules:
                modules[path] = types.ModuleType(path)
                modules[path].__path__ = []
                if end > 1:
                    setattr(modules[".".join(parts[: end - 1])], parts[end - 1], modules[path])
        vars(modules[name]).update(values)
    return modules


class Locality(enum.Enum):
    LOCAL = "LOCAL"
    REMOTE = "REMOTE"


class Medium(enum.Enum):
    CPU = "CPU"
    STORAGE = "STORAGE"


class LookupResult(enum.Enum):
    MISS = 1
    HIT = 2
    HIT_PENDING = 3
    RETRY = 4


@dataclasses.dataclass(frozen=True)
class OffloadingMetricMetadata:
    documentation: str
    labelnames: tuple = ()


class OffloadingCounterMetadata(OffloadingMetricMetadata):
    pass


class OffloadingGaugeMetadata(OffloadingMetricMetadata):
    pass


@dataclasses.dataclass(frozen=True)
class OffloadingHistogramMetadata(OffloadingMetricMetadata):
    buckets: tuple = ()


@dataclasses.dataclass
class OffloadingEvent:
    keys: list
    medium: Medium
    removed: bool
    locality: Any = None


@dataclasses.dataclass
class RequestOffloadingContext:
    policy: str = "chunk"


@dataclasses.dataclass
class ReqContext:
    req_id: str


class OffloadingConnectorStats:
    def __init__(self):
        self.counters, self.gauges, self.observed = {}, {}, {}

    def increase_counter(self, name, value=1, labelvalues=()):
        self.counters[name, labelvalues] = self.counters.get((name, labelvalues), 0) + value

    def set_gauge(self, name, value, labelvalues=()):
        self.gauges[name, labelvalues] = value

    def observe_histogram(self, name, value, labelvalues=()):
        self.observed.setdefault((name, labelvalues), []).append(value)

    def is_empty(self):
        return not self.counters and not self.gauges and not self.observed


class VllmConfig:
    """Fields by dotted path, such as `model_config.revision`."""

    def __init__(self, **fields):
        for path, value in fields.items():
            *parents, name = path.split(".")
            place = self
            for parent in parents:
                if not hasattr(place, parent):
                    setattr(place, parent, types.SimpleNamespace())
                place = getattr(place, parent)
            setattr(place, name, value)


class FileMapper:
    """The directory's name, as vLLM makes it: `<model>_<12 digits of sha256>`."""

    def __init__(self, fields, rank):
        self.fields, self.rank = fields, rank
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
        self.base_path = f"/{fields['model_name'].replace('/', '_')}_{digest}"

    @classmethod
    def from_offloading_spec(cls, root_dir, offloading_spec, blocks_per_file=1, parallel_agnostic=False):
        return cls({"model_name": offloading_spec.config.model.name, "blocks_per_file": blocks_per_file}, offloading_spec.config.parallel.rank)

    def get_run_config(self):
        return dict(self.fields)


def _tiering(release):
    rows = "chunk_ids" if release >= (0, 30) else "block_ids"
    job = [("job_id", int), ("keys", Any), (rows, Any), ("is_promotion", bool), ("req_context", Any)]
    result = [("job_id", int), ("success", bool)]
    if release >= (0, 28):
        result += [("successful_keys", Any, None), ("transfer_time", Any, None)]
    if release >= (0, 31):
        job += [("submit_time", float, 0.0)]
        result += [("transfer_bytes", Any, None)]
    name = "TransferJob" if release >= (0, 28) else "JobMetadata"
    manager = _TierWithDetector if release >= (0, 31) else _Tier
    return {
        name: dataclasses.make_dataclass(name, job),
        "Job": dataclasses.make_dataclass(name, job),
        "JobResult": dataclasses.make_dataclass("JobResult", result),
        "SecondaryTierManager": manager,
    }


class _Tier(ABC):
    medium = None

    def __init__(self, offloading_spec, primary_kv_view, tier_type):
        self._offloading_spec, self._primary_kv_view, self.tier_type, self.locality = offloading_spec, primary_kv_view, tier_type, None

    @abstractmethod
    def lookup(self, key, req_context): ...

    @abstractmethod
    def submit_store(self, job_metadata): ...

    @abstractmethod
    def submit_load(self, job_metadata): ...

    @abstractmethod
    def get_finished_jobs(self): ...

    @abstractmethod
    def on_new_request(self, req_context): ...

    @abstractmethod
    def drain_jobs(self): ...


class _TierWithDetector(_Tier):
    def __init__(self, offloading_spec, primary_kv_view, tier_type, backpressure_detector=None):
        super().__init__(offloading_spec, primary_kv_view, tier_type)
        self.bp_detector = backpressure_detector


def _factory():
    class SecondaryTierFactory:
        _registry = {}

        @classmethod
        def register_tier(cls, tier_type, module_path, class_name):
            if tier_type in cls._registry:
                raise ValueError(f"Tier '{tier_type}' is already registered.")
            cls._registry[tier_type] = module_path, class_name

    return SecondaryTierFactory


def spec(release=(0, 32), *, events=False, **changes):
    """An offloading specification. `changes` replaces fields of its configuration: `model`, `dtype`, `rank`, `layers`, .."""
    values = {
        "model": "org/model", "dtype": "bfloat16", "tokens_per_hash": 16, "blocks_per_chunk": 1, "layers": ("l.0", "l.1"),
        "tokens_per_block": 16, "group_id": 0, "worker_kv_bytes_per_block": 4096, "replicated_layout": False, "canonical_layout": False,
        "kv_cache_layout": "LBNHC", "engine_id": "engine", "rank": 0, "world_size": 1, "tp_size": 1, "pp_size": 1, "pcp_size": 1,
        "dcp_size": 1, "data_parallel_index": 0, "is_parallelism_agnostic": False,
    } | changes  # fmt: skip

    def pick(*names):
        return types.SimpleNamespace(**{name: values[name] for name in names})

    group = pick("tokens_per_block", "group_id")
    group.layer_names = values["layers"]
    config = pick("worker_kv_bytes_per_block", "replicated_layout", "engine_id")
    if release >= (0, 29):
        vars(config).update(canonical_layout=values["canonical_layout"], kv_cache_layout=values["kv_cache_layout"])
    config.groups = (group,)
    config.model = types.SimpleNamespace(name=values["model"], dtype=values["dtype"])
    config.cache = pick("tokens_per_hash", "blocks_per_chunk")
    config.parallel = pick("rank", "world_size", "tp_size", "pp_size", "pcp_size", "dcp_size", "data_parallel_index", "is_parallelism_agnostic")
    return types.SimpleNamespace(
        config=config, blocks_per_chunk=values["blocks_per_chunk"], kv_events_config=types.SimpleNamespace(enable_kv_cache_events=events)
    )
