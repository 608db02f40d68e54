"""Runs SGLang's `Engine`: `python -m interop.sglang_whole.serve MODEL CONFIG`.

Reads prompts from the input, one JSON list of tokens a line, and prints an answer to each.
"""

from __future__ import annotations

import json
import os
import sys

PAGE_TOKENS, ANSWER_TOKENS = 16, 8


def main(model: str, config: str) -> None:
    """Ends with the input."""
    import sglang

    # The engine's processes print, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = sglang.Engine(
        model_path=model,
        device="cpu",
        dtype="float32",
        attention_backend="torch_native",
        skip_tokenizer_init=True,
        max_total_tokens=2048,
        page_size=PAGE_TOKENS,
        enable_hierarchical_cache=True,
        hicache_storage_backend="dynamic",
        hicache_storage_backend_extra_config=config,
        hicache_storage_prefetch_policy="wait_complete",
        random_seed=0,
        log_level="info",
    )
    for line in sys.stdin:
        said = engine.generate(input_ids=json.loads(line), sampling_params={"max_new_tokens": ANSWER_TOKENS, "temperature": 0})
        cached = (said["meta_info"]["cached_tokens_details"] or {}).get("storage", 0)
        print(json.dumps({"tokens": said["output_ids"], "cached": cached}), file=answers, flush=True)
    engine.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
