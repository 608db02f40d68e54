#!/usr/bin/env python3
"""Writes prefix_hashes.json: chunk hashes of LMCache 0.5.6, inside vLLM 0.32.0 and in its server.

Run it with the Python of vLLM's environment of tests/interop/environment.sh, and with PYTHONHASHSEED=0.
"""

import json
import os
import pathlib

from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.multiprocess.token_hasher import TokenHasher
from lmcache.v1.token_database import ChunkedTokenDatabase

SEED = os.environ["PYTHONHASHSEED"]
TOKENS = [n * 7919 % 151_936 for n in range(600)]
CASES = [(TOKENS, 256), (TOKENS[:512], 256), (TOKENS[:255], 256), ([], 256), ([0, 23, 24, 255, 256, 65_535, 65_536, 4_294_967_295], 3)]


def inside_engine(algorithm, tokens, chunk_size):
    config = LMCacheEngineConfig.from_defaults(pre_caching_hash_algorithm=algorithm, chunk_size=chunk_size, save_unfull_chunk=True)
    hashed = ChunkedTokenDatabase(config).process_tokens(tokens, make_key=False)
    return [f"{chunk_hash:x}" for _, _, chunk_hash in hashed]


def in_server(algorithm, tokens, chunk_size):
    return [chunk_hash.hex() for chunk_hash in TokenHasher(chunk_size, algorithm).compute_chunk_hashes(tokens)]


rows = []
for where, hashes, algorithms in (("engine", inside_engine, ("sha256_cbor", "builtin")), ("server", in_server, ("blake3", "sha256_cbor"))):
    for algorithm in algorithms:
        for tokens, chunk_size in CASES:
            rows.append({
                "where": where, "algorithm": algorithm, "chunk_size": chunk_size, "hashes": hashes(algorithm, tokens, chunk_size),
                "tokens": tokens,
            })

note = "Chunk hashes, in hex, also of a partial last chunk inside an engine. Written by prefix_hashes.py."
head = f'{{"note": "{note}",\n"source": "lmcache 0.5.6 with vllm 0.32.0",\n"seed": "{SEED}",\n"rows": [\n'
pathlib.Path(__file__).with_suffix(".json").write_text(head + ",\n".join(map(json.dumps, rows)) + "\n]}\n")
print(len(rows), "rows")
