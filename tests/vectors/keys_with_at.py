#!/usr/bin/env python3
"""Writes keys_with_at.json: in-process keys of LMCache 0.5.6 whose model or tags contain `@`.

Run it with the Python of tests/interop/environment.sh, in which LMCache is installed.
"""

import json
import pathlib

import torch
from lmcache.utils import CacheEngineKey, LayerCacheEngineKey

MODELS = [
    "ann@example.com/opt-125m", "models@2024-01-01/x", "@", "@@", "a@", "@a", "a@1", "a@1@0", "a@1@0@ff", "a@1@0@ff@half", "a@01000100",
    "a@01000100@0@ff", "a@0x01000100@0@ff", "a@12345678", "a%b@c", "m",
]
TAGS = [
    {}, {"user": "ann@example.com"}, {"user": "ann@example.com", "team": "x"}, {"us@er": "ann"}, {"7@x": "y"}, {"7": "y"}, {"": "@"},
    {"a": "b@c%d"}, {"a": "x@1@0@ee@half"}, {"a": "@1@0@ee@half@7"}, {"a": "b "}, {"a": "b@"},
]


def parsed(text, kind):
    try:
        key = kind.from_string(text)
    except Exception:
        return None
    tags = [list(tag) for tag in key.tags or ()]
    return {"model_name": key.model_name, "chunk_hash_hex": key.chunk_hash_hex, "layer_id": getattr(key, "layer_id", None), "tags": tags}


rows = []
for n, model in enumerate(MODELS):
    for tags in TAGS:
        for layer_id in (None, 7):
            fields = {
                "model_name": model, "world_size": 1 + n, "worker_id": n, "chunk_hash": 0xABC0 + n, "dtype": torch.float16,
                "request_configs": {f"lmcache.tag.{name}": value for name, value in tags.items()},
            }
            key = CacheEngineKey(**fields) if layer_id is None else LayerCacheEngineKey(**fields, layer_id=layer_id)
            text = key.to_string()
            rows.append({
                "text": text, "model_name": model, "chunk_hash_hex": key.chunk_hash_hex, "layer_id": layer_id,
                # The fs connector's base path of 1000.
                "path_index": abs(key.chunk_hash) % 1000,
                "parsed": parsed(text, type(key)),
            })

note = "Keys with an at sign: fields, text, and what LMCache's parser gives back. Written by keys_with_at.py."
head = f'{{"note": "{note}",\n"source": "lmcache 0.5.6",\n"keys": [\n'
lines = [json.dumps(row, ensure_ascii=False) for row in rows]
pathlib.Path(__file__).with_suffix(".json").write_text(head + ",\n".join(lines) + "\n]}\n")
print(len(rows), "rows")
