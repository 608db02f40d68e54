"""Names of SGLang's pages in a store."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kvconn._identity import is_local_path, store_model, warn_once
from kvconn._sglang_pages import Pages, is_multi_head

logger = logging.getLogger("kvconn.sglang")

# SGLang's hashes are 64 hex digits of SHA-256. File names have no room for more.
_HASH = re.compile(r"(?:[0-9a-f]{2}){1,32}")
_KV = "kv"
_MAMBA = "mamba"
# The longest pool name of SGLang has 28 characters, and a salt at most 40.
_POOL_DIGITS = 11
# The fields of SGLang's published configuration that change the bytes of a page with the same geometry. The functions of
# `sglang.srt.runtime_context` give them. `kv_cache_dtype` is one of them because the pools show both FP8 types as uint8.
_FACTS = {
    "get_model": (
        "model_path",
        "revision",
        "dtype",
        "quantization",
        "kv_cache_dtype",
        "quantization_param_path",
        "json_model_override_args",
        "load_format",
    ),
    "get_serving": ("weight_version",),
}
_DRAFT_FACTS = {
    "get_spec": (
        "speculative_algorithm",
        "speculative_draft_model_path",
        "speculative_draft_model_revision",
        "speculative_draft_kv_cache_dtype",
    )
}


@dataclass(frozen=True)
class Names:
    """The names of one pool's pages: ``<model>@<rank>@<group>@<hash>[@<salt>]``, an `ObjectKey` for each object of a page.

    The group is the number of the object in its page.
    """

    model: str
    rank: int
    salt: str
    objects: int

    def keys(self, hashes: Iterable[str]) -> list[str]:
        """The names of the pages' objects, page by page."""
        start, end = f"{self.model}@{self.rank:08x}@", f"@{self.salt}" if self.salt else ""
        return [f"{start}{group:x}@{hash_of(key)}{end}" for key in hashes for group in range(self.objects)]


def hash_of(key: str) -> str:
    """The hash in a page's name: the key itself if it is hex, as SGLang's keys are, else the SHA-256 of the key."""
    return key if _HASH.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def of_pool(config: Any, pages: Pages, kv_model: str) -> Names:
    """The names of `pages`. `kv_model` is the model that `model_of` gave for the KV pool."""
    name = pages.name
    each_rank = is_of_each_rank(config, pages)
    salt = ""
    if name != _KV:
        fields: dict[str, object] = {"pool": name, "geometry": pages.geometry(), "draft": _facts(_DRAFT_FACTS) if _has_draft(pages) else {}}
        if config.is_mla_model and each_rank:
            fields["tp_size"] = config.tp_size
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        salt = f"{name}-{digest[:_POOL_DIGITS]}"
    return Names(kv_model, _rank(config, each_rank), salt, pages.objects)


def of_pool_in_files(config: Any, pages: Pages) -> Names:
    """The names of `pages` in files of SGLang's `file` backend, whose ranks are in the model."""
    salt = "" if pages.name == _KV else pages.name
    # SGLang's file backend has one file of a replicated model for all ranks, except for Mamba's states. With several ranks, it gives
    # each rank the first one's heads of a draft model. kvconn names those by rank.
    each_rank = not config.is_mla_model or pages.name == _MAMBA or (is_multi_head(pages.pool) and config.tp_size > 1)
    return Names(file_suffix(config, each_rank), 0, salt, 1)


def model_of(config: Any, pages: Pages, namespace: str, revision: str) -> str:
    """The model field of the KV pool's names: SGLang's model and a digest over everything that makes pages incompatible.

    `namespace` is the store's option. It and `revision` say which weights a local path has.
    """
    facts = _facts(_FACTS)
    if not facts:
        warn_once(logger, "SGLang shows no configuration here, so names of pages lack quantization, revision and dtype: set `namespace`")
    model = config.model_name or ""
    path = facts.get("model_path") or model
    if is_local_path(path):
        if namespace:
            # Two hosts may have the same weights in different folders.
            facts.pop("model_path", None)
            model = os.path.basename(model.rstrip("/"))
        elif not revision:
            warn_once(
                logger,
                f"`{path}` is a path, which does not say which weights are there: set `namespace` or `revision` in "
                "--hicache-storage-backend-extra-config, and change it with the weights",
            )
    if revision:
        facts["revision"] = revision
    if _has_draft(pages):
        facts.update(_facts(_DRAFT_FACTS))
    # Other formats have the same weights.
    has_weights = facts.pop("load_format", None) != "dummy"
    fields: dict[str, object] = {
        "geometry": pages.geometry(),
        "sglang": facts,
        "weights": has_weights,
        "namespace": namespace,
        "release": _release(),
        "replicated": bool(config.is_mla_model),
    }
    for name in ("pp_size", "attn_cp_size", "dcp_size", "logical_page_size"):
        fields[name] = getattr(config, name, None)
    if not config.is_mla_model:
        fields["tp_size"] = config.tp_size
    return store_model("sglang", model, fields)


def is_of_each_rank(config: Any, pages: Pages) -> bool:
    """Whether each tensor parallel rank has bytes of its own. If not, all ranks have the same bytes, and one rank writes them."""
    return not config.is_mla_model or pages.name == _MAMBA or is_multi_head(pages.pool)


def file_suffix(config: Any, each_rank: bool) -> str:
    """The text after a page's hash in the file names of SGLang's file backend, without the ``_`` in front.

    Source: ``HiCacheFile.__init__`` in SGLang's ``sglang/srt/mem_cache/hicache_storage.py``.
    """
    parts: list[object] = [(config.model_name or "").replace("/", "-")]
    if each_rank:
        parts += [config.tp_rank, config.tp_size]
    if config.pp_size > 1:
        parts += [config.pp_size, config.pp_rank]
    if config.attn_cp_size > 1:
        parts += [f"cp{config.attn_cp_rank}", config.attn_cp_size]
    if getattr(config, "dcp_size", 1) > 1:
        parts += [f"tp{config.tp_size}", f"dcp{config.dcp_rank}", config.dcp_size, f"page{config.logical_page_size}"]
    return "_".join(map(str, parts))


def _rank(config: Any, each_rank: bool) -> int:
    """The number of the rank among those with bytes of their own: by pipeline stage, then context, then tensor parallel rank."""
    stage = config.pp_rank * config.attn_cp_size + config.attn_cp_rank
    if each_rank:
        return int(stage * config.tp_size + config.tp_rank)
    return int(stage * getattr(config, "dcp_size", 1) + getattr(config, "dcp_rank", 0))


def _has_draft(pages: Pages) -> bool:
    """Whether pages have bytes of a draft model."""
    pool = pages.pool
    layers = getattr(pool, "layer_num", None)
    return pages.name.startswith("draft") or getattr(pool, "target_layer_num", layers) != layers


def _release() -> str:
    """SGLang's version without the patch level. Empty for a source tree. Another release may lay out the cache differently."""
    try:
        return ".".join(version("sglang").split(".")[:2])
    except PackageNotFoundError:
        return ""


def _facts(wanted: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The values of `wanted` that SGLang has published in this process. Empty outside of a server."""
    context = sys.modules.get("sglang.srt.runtime_context")
    found = {}
    for getter, names in wanted.items():
        try:
            published = getattr(context, getter)()
            values = {name: getattr(published, name, None) for name in names}
        except (AttributeError, ValueError, RuntimeError):
            continue
        found.update({name: str(value) for name, value in values.items() if value is not None})
    return found
