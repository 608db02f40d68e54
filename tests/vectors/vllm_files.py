#!/usr/bin/env python3
"""Writes vllm_files.json: the paths of vLLM 0.32.0's `fs` tier.

Run it with the Python of an environment in which vLLM is installed, as tests/interop/environment.sh makes one.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import random

from vllm.v1.kv_offload.base import make_offload_key
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering.fs.io import _get_tmp_suffix

ROOT = "/root"
MODELS = ["meta-llama/Llama-3.1-8B", "m", "a_r1", "model with spaces", "-模型", "/models/current", "x_r0_r12"]
HASHES = [hashlib.sha256(b"1").digest(), b"\x1f\x2e\x3d\x4c\x5b\x6a\x79\x88", bytes(8), b"\xff", b"\x0a\xb0", b"\x12\x34\x56"]
# A rank, whether the layout is replicated, and groups.
RANKS = [(0, False, [0]), (3, False, [0, 1, 12]), (11, False, [4096, 2**32 - 1]), (5, True, [0])]

rows = []
for model in MODELS:
    for rank, replicated, groups in RANKS:
        mapper = FileMapper(
            ROOT, model, tokens_per_hash=16, blocks_per_file=4, tp_size=4, pp_size=3, pcp_size=1, dcp_size=1, rank=rank,
            dtype="bfloat16", kv_cache_groups=[{"tokens_per_block": 16, "layer_names": ["l0", "l1"]}],
            parallel_agnostic=replicated, replicated_layout=replicated,
        )
        directory = pathlib.PurePosixPath(mapper.base_path).name
        for group in groups:
            for block in HASHES:
                path = mapper.get_file_name(make_offload_key(block, group)).removeprefix(ROOT + "/")
                rows.append({
                    "model": directory, "rank": mapper.rank, "group": group, "hash_hex": block.hex(), "path": path,
                    "config": mapper.get_config_file_path().removeprefix(ROOT + "/"),
                })

random.seed(0)
unfinished = rows[0]["path"] + _get_tmp_suffix()
lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
out = pathlib.Path(__file__).with_name("vllm_files.json")
out.write_text(f'{{\n "source": "vllm 0.32.0",\n "unfinished": {json.dumps(unfinished)},\n "files": [\n  {lines}\n ]\n}}\n')
