"""Hits in another process: vLLM's own block hashes, which for some algorithms start from random bytes in each process."""

from __future__ import annotations

import os
import subprocess
import sys

from vllm.v1.core import kv_cache_utils

from ..report import Failed, Report, equal
from .places import Place, places

TOKENS_PER_BLOCK = 16
BLOCKS = 8
# Before vLLM 0.29, a process without PYTHONHASHSEED has hashes of its own by every algorithm.
SEEDLESS = hasattr(kv_cache_utils, "DEFAULT_NONE_HASH_SEED")
# vLLM's algorithms, and whether such a process has hashes of its own.
ALGORITHMS = {"sha256": not SEEDLESS, "sha256_cbor": not SEEDLESS, "xxhash": True, "xxhash_cbor": True}


def run(report: Report) -> None:
    """Each algorithm without a seed and with one: the chunks of one process, looked for by another one."""
    with places("fs") as (place,):
        for seed in (None, "0"):
            _in_a_process(place, "store", seed)
            hits = _in_a_process(place, "found", seed)
            for algorithm, is_random in ALGORITHMS.items():
                alone = is_random and seed is None
                what = "another process has no hit, and a warning" if alone else "another process has hits"
                with report.check(f"{algorithm}, PYTHONHASHSEED={seed}: {what}"):
                    equal("hits and warning", hits[algorithm], (0 if alone else BLOCKS, alone))


def _in_a_process(place: Place, what: str, seed: str | None) -> dict[str, tuple[int, bool]]:
    """Runs a fresh process for all algorithms: algorithm -> hits, and whether kvconn has warned of random hashes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    if seed is not None:
        environment["PYTHONHASHSEED"] = seed
    command = [sys.executable, "-c", f"from {__name__} import child; child(*__import__('sys').argv[1:])", str(place.tier["url"]), what]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        raise Failed(f"{what}: exit code {ended.returncode}:\n{ended.stderr[-4000:]}")
    found = {}
    for line in ended.stdout.splitlines():
        if line.startswith("RESULT "):
            _, algorithm, hits, warned = line.split()
            found[algorithm] = int(hits), warned == "True"
    return found


def child(url: str, what: str) -> None:
    """One process: stores the chunks of each algorithm or looks for them, and prints the hits."""
    import logging

    from vllm.config import VllmConfig
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.kv_offload.base import make_offload_key

    from .engine import Engine, config

    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger("kvconn").addHandler(Keep(logging.WARNING))
    for algorithm in ALGORITHMS:
        # As `EngineCore` does. The tier reads the algorithm from the configuration of its callers.
        vllm_config = VllmConfig()
        vllm_config.cache_config.prefix_caching_hash_algo = algorithm
        hash_of = get_hash_fn_by_name(algorithm)
        kv_cache_utils.init_none_hash(hash_of)
        parent, prompt = None, []
        for block in range(BLOCKS):
            tokens = range(block * TOKENS_PER_BLOCK, (block + 1) * TOKENS_PER_BLOCK)
            parent = kv_cache_utils.hash_block_tokens(hash_of, parent, tokens)
            prompt.append(make_offload_key(parent, 0))
        before = len(messages)
        with Engine(config([{"type": "kvconn", "url": url}])) as engine:
            if what == "store":
                engine.store(prompt)
            else:
                engine.forget()
            hits = engine.found(prompt)
        print("RESULT", algorithm, hits, any("PYTHONHASHSEED" in text for text in messages[before:]), flush=True)

