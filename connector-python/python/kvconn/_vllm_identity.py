"""The names of vLLM's chunks: everything in vLLM's configuration that makes the bytes of a row incompatible.

vLLM's block hashes cover the tokens, the LoRA name, the images and the cache salt of a chunk. They do not cover the model, its weights or the
layout of the bytes, so these go into the model field of the keys.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import vllm
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.core import kv_cache_utils

from kvconn._identity import is_local_path, store_model, warn_once

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec

_log = logging.getLogger("kvconn.vllm")

# A model in Hugging Face's cache. With `HF_HUB_OFFLINE`, vLLM has this path in place of the model's name. The path names the weights.
_SNAPSHOT = re.compile(r"/(?:.*/)?models--(?P<model>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})/?")

# From vLLM 0.29 on, the cryptographic hashes start from a constant.
_SEEDLESS = hasattr(kv_cache_utils, "DEFAULT_NONE_HASH_SEED")

# Fields of `VllmConfig` (vLLM 0.27 to 0.33) that change the bytes of a chunk, or its hash. A field that a release lacks counts as None.
_SETTINGS = (
    # The weights. With `model_weights`, the model is a local copy of this URL.
    "model_config.model_weights",
    "model_config.revision",
    "model_config.code_revision",
    "model_config.quantization",
    "model_config.quantization_config",
    "load_config.model_loader_extra_config",
    # The computation of the layers.
    "model_config.dtype",
    "model_config.hf_config_path",
    "model_config.hf_overrides",
    "model_config.hf_text_config.rope_parameters",
    "model_config.hf_text_config.rope_scaling",
    "model_config.hf_text_config.rope_theta",
    # LongRoPE chooses its factors by this length, and Llama 4 the scale of its attention.
    "model_config.max_model_len",
    "model_config.override_generation_config.attn_temperature_tuning",
    "model_config.disable_sliding_window",
    "model_config.model_impl",
    "model_config.model_class_overrides",
    "use_v2_model_runner",
    "model_config.multimodal_config.mm_processor_kwargs",
    "model_config.multimodal_config.mm_device_do_normalize",
    "model_config.multimodal_config.video_pruning_rate",
    "model_config.multimodal_config.video_pruning_method",
    # Types, scales and layout in the cache.
    "cache_config.cache_dtype",
    "cache_config.calculate_kv_scales",
    "cache_config.kv_cache_dtype_skip_layers",
    "cache_config.mamba_cache_dtype",
    "cache_config.mamba_ssm_cache_dtype",
    "cache_config.mamba_cache_mode",
    "cache_config.use_replayssm",
    "cache_config.replayssm_buffer_len",
    "cache_config.use_kda_recoverssm",
    "cache_config.enable_mamba_shared_prefix_checkpoint",
    "cache_config.sliding_window",
    "attention_config.backend",
    "attention_config.backend_per_kind",
    "attention_config.indexer_kv_dtype",
    "attention_config.use_non_causal",
    "attention_config.hisparse_config",
    # The tokens that a rank has.
    "parallel_config.cp_kv_cache_interleave_size",
    "parallel_config.dcp_kv_cache_interleave_size",
    # The draft model has layers in the cache, too.
    "speculative_config.method",
    "speculative_config.model",
    "speculative_config.revision",
    "speculative_config.quantization",
    "speculative_config.kv_cache_dtype",
    "speculative_config.attention_backend",
    "speculative_config.draft_tensor_parallel_size",
    "cache_config.prefix_caching_hash_algo",
)


@dataclass(frozen=True)
class Identity:
    """The constant part of a tier's keys."""

    model: str
    kv_rank: int


def identify(spec: OffloadingSpec, row_bytes: int, namespace: str, revision: str) -> Identity:
    """The identity of the rows of `row_bytes` bytes that this offloading specification describes.

    `namespace` and `revision` are the tier's options. They say which weights a local path has.
    """
    engine = _configuration()
    if engine is None:
        warn_once(_log, "kvconn does not see vLLM's configuration, so names of chunks lack quantization, revision and rope: set `namespace`")
    model = spec.config.model.name
    fields = _layout(spec, row_bytes) | {
        "vllm": _release(),
        "namespace": namespace,
        "revision": revision,
        "seed": os.environ.get("PYTHONHASHSEED"),
        "settings": {path: _plain(_setting(engine, path)) for path in _SETTINGS},
    }
    if _setting(engine, "load_config.load_format") == "dummy":
        fields["dummy_weights"] = _plain(_setting(engine, "model_config.seed"))
    if _setting(engine, "cache_config.calculate_kv_scales"):
        # Each process computes its scales from its first batch. No other process can read its bytes.
        fields["engine_id"] = spec.config.engine_id
        warn_once(_log, "with `calculate_kv_scales`, each process has scales of its own, and no other process uses its chunks")
    snapshot = _SNAPSHOT.fullmatch(model)
    if snapshot:
        model = snapshot["model"].replace("--", "/")
        fields["snapshot"] = snapshot["revision"]
    elif is_local_path(model):
        if namespace:
            model = Path(model).name
        elif not revision:
            warn_once(_log, f"the model `{model}` is a path, which does not say which weights are there: set `namespace` or `revision` in the tier")
    _warn_of_random_hashes(engine)
    return Identity(store_model("vllm", model, fields), _rank(spec))


def of_files(spec: OffloadingSpec) -> tuple[Identity, dict[str, object]]:
    """The identity that vLLM's own fs tier gives its files, and the content of its ``config.json``.

    The model is the name of the tier's directory, without the rank: ``<model>_<12 digits>``. vLLM leaves out the size of a row.
    """
    from vllm.v1.kv_offload.file_mapper import FileMapper

    mapper = FileMapper.from_offloading_spec("", spec, blocks_per_file=spec.blocks_per_chunk, parallel_agnostic=True)
    _warn_of_random_hashes(_configuration())
    return Identity(os.path.basename(mapper.base_path), mapper.rank), mapper.get_run_config()


def _layout(spec: OffloadingSpec, row_bytes: int) -> dict[str, object]:
    """The fields of `OffloadingConfig` that change the bytes of a row. Two data-parallel replicas have equal ones."""
    config = spec.config
    parallel = config.parallel
    copies = 1 if config.replicated_layout else parallel.world_size
    ranks = {name: getattr(parallel, name) for name in ("world_size", "tp_size", "pp_size", "pcp_size", "dcp_size")}
    return {
        "row_bytes": row_bytes,
        "bytes_per_block": config.worker_kv_bytes_per_block * copies,
        "dtype": config.model.dtype,
        "tokens_per_hash": config.cache.tokens_per_hash,
        "blocks_per_chunk": config.cache.blocks_per_chunk,
        "groups": [[getattr(group, "group_id", None), group.tokens_per_block, list(group.layer_names)] for group in config.groups],
        "parallel": None if _any_parallelism(spec) else ranks,
        "replicated_layout": config.replicated_layout,
        # vLLM 0.28 and 0.29 added these, and 0.30 the groups' `group_id`.
        "canonical_layout": getattr(config, "canonical_layout", False),
        "kv_cache_layout": getattr(config, "kv_cache_layout", None),
        # Before 0.29, this variable set the layout.
        "layout_variable": os.environ.get("VLLM_KV_CACHE_LAYOUT"),
        "device": current_platform.device_type,
        # `device_type` is `cuda` on ROCm, too, and the FP8 type of MI300 is not that of other GPUs.
        "rocm": current_platform.is_rocm(),
        "fp8": str(current_platform.fp8_dtype()),
        "rocm_layout_variable": os.environ.get("VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT"),
    }


def _any_parallelism(spec: OffloadingSpec) -> bool:
    """Whether rows are equal under every parallelism.

    A row holds the bytes of one worker after the other, layer by layer. So it depends on the number of workers, unless vLLM writes its
    canonical layout or each worker has the same bytes. vLLM's own `FileMapper` also trusts `is_parallelism_agnostic` alone.
    """
    config = spec.config
    is_portable = getattr(config, "canonical_layout", False) and config.parallel.is_parallelism_agnostic
    return bool(is_portable or config.replicated_layout)


def _rank(spec: OffloadingSpec) -> int:
    return 0 if _any_parallelism(spec) else spec.config.parallel.rank


def _release() -> str:
    """vLLM's version without the patch level. Another release may lay out the cache differently, as 0.29 did for FlashAttention."""
    return ".".join(vllm.__version__.split(".")[:2])


def _configuration() -> VllmConfig | None:
    """The `VllmConfig` of the connector that makes the tier. vLLM passes a tier only an extract, so this reads it from the callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        value = frame.f_locals.get("vllm_config")
        if isinstance(value, VllmConfig):
            return value
        frame = frame.f_back
    return None


def _setting(config: object, path: str) -> object:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return config


def _plain(value: object) -> object:
    """`value` as JSON states it. Two processes with equal configurations get equal results."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    # For example `torch.bfloat16`. An address would differ in every process.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _warn_of_random_hashes(engine: VllmConfig | None) -> None:
    """Warns if this process's block hashes start from random bytes, so that no other process has the same ones.

    With ``PYTHONHASHSEED``, no hash starts from random bytes. Without it, every algorithm does up to vLLM 0.28, and from 0.29 on `xxhash`
    and `xxhash_cbor` do (``vllm/v1/core/kv_cache_utils.py``, `init_none_hash`).
    """
    if os.environ.get("PYTHONHASHSEED") is not None:
        return
    algorithm = str(_setting(engine, "cache_config.prefix_caching_hash_algo") or "sha256")
    if _SEEDLESS and not algorithm.startswith("xxhash"):
        return
    other = ", or use `--prefix-caching-hash-algo sha256`" if _SEEDLESS else ""
    warn_once(
        _log,
        f"vLLM {vllm.__version__} starts its {algorithm} hashes from random bytes, so no other process finds this one's chunks: set "
        f"PYTHONHASHSEED to the same number in all processes{other}",
    )
