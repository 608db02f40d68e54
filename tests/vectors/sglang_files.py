#!/usr/bin/env python3
"""Writes sglang_files.json: the names of SGLang 0.5.23's `HiCacheFile`, which writes each of the files.

Run it with the Python of an environment in which SGLang is installed, as tests/interop/environment.sh makes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig, PoolName

MODELS = ["facebook/opt-125m", "meta-llama/Llama-3.1-8B", "m", "under_score", "model with spaces", "模型", None]
# Sizes and ranks: tensor, pipeline and context parallelism; MLA; DCP.
PARALLEL = [
    {"tp_rank": 0, "tp_size": 1}, {"tp_rank": 3, "tp_size": 8, "pp_rank": 1, "pp_size": 2}, {"tp_rank": 1, "tp_size": 2, "attn_cp_rank": 1, "attn_cp_size": 4},
    {"tp_rank": 0, "tp_size": 1, "is_mla_model": True}, {"tp_rank": 1, "tp_size": 4, "is_mla_model": True, "pp_rank": 0, "pp_size": 2},
    {"tp_rank": 1, "tp_size": 4, "is_mla_model": True, "dcp_rank": 1, "dcp_size": 2, "logical_page_size": 64},
]
PAGES = [hashlib.sha256(b"page 1").hexdigest(), hashlib.sha256(b"page 2").hexdigest()]


def config(model: str | None, parallel: dict[str, object]) -> HiCacheStorageConfig:
    fields = {"pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1, "is_mla_model": False}
    return HiCacheStorageConfig(
        **{**fields, **parallel}, enable_storage_metrics=False, is_page_first_layout=True, model_name=model,
    )


unfinished: list[str] = []
replace = os.replace


def noted_replace(source: str, target: str) -> None:
    unfinished.append(pathlib.PurePath(source).name)
    replace(source, target)


os.replace = noted_replace
rows = []
for model in MODELS:
    for parallel in PARALLEL:
        for pool in PoolName if parallel == PARALLEL[0] else [PoolName.KV, PoolName.MAMBA, PoolName.DEEPSEEK_V4_C4_INDEXER]:
            with tempfile.TemporaryDirectory() as directory:
                file = HiCacheFile(config(model, parallel), directory)
                for page in PAGES[: 2 if pool == PoolName.KV else 1]:
                    value = torch.arange(96, dtype=torch.uint8)
                    assert file.set(file._log_key(pool, page), value)
                    name = f"{file._get_component_key(page, pool)}.bin"
                    assert (pathlib.Path(directory) / name).read_bytes() == bytes(range(96))
                    suffix = name.removeprefix(page).removeprefix("" if pool == PoolName.KV else f".{pool}").removesuffix(".bin")
                    rows.append({
                        "hash_hex": page, "pool": "" if pool == PoolName.KV else str(pool), "suffix": suffix, "name": name,
                    })

lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
pools = json.dumps([str(pool) for pool in PoolName])
out = pathlib.Path(__file__).with_name("sglang_files.json")
out.write_text(
    f'{{\n "source": "sglang 0.5.23",\n "pools": {pools},\n "unfinished": {json.dumps(unfinished[0])},\n "files": [\n  {lines}\n ]\n}}\n'
)
