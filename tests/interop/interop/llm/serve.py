"""A process with a whole `LLM(..)`: `python -m interop.llm.serve MODEL EXTRA_CONFIG HASH_ALGORITHM`.

Reads a JSON list of token ids from each line of stdin, and answers with one line. The line has the tokens that follow, and the number
of the prompt's tokens that the model did not compute.
"""

from __future__ import annotations

import json
import os
import sys

from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig

from . import model

NEW_TOKENS, BLOCK = 16, 32


def main(path: str, extra_config: str, hash_algorithm: str) -> None:
    """Serves until stdin ends."""
    # vLLM logs to stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    llm = LLM(
        model=path,
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=model.MAX_TOKENS,
        max_num_seqs=4,
        block_size=BLOCK,
        prefix_caching_hash_algo=hash_algorithm,
        enforce_eager=True,
        kv_cache_memory_bytes=64 << 20,
        disable_log_stats=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=json.loads(extra_config)
        ),
    )
    parameters = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    for line in sys.stdin:
        (output,) = llm.generate([{"prompt_token_ids": json.loads(line)}], parameters, use_tqdm=False)
        found = {"tokens": list(output.outputs[0].token_ids), "cached": output.num_cached_tokens}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
