"""A tiny Llama with random weights.

The weights are random float32 numbers. Their scales make the tokens differ from each other and depend on the whole prompt. vLLM's
dummy weights are so small that a cache full of zeroes gives the same tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, FEED, VOCABULARY = 2, 128, 4, 2, 32, 256, 512
MAX_TOKENS = 1024
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float32",
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "intermediate_size": FEED,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write(folder: Path, seed: int = 0) -> Path:
    """Writes the configuration and the weights as Hugging Face does. Equal seeds give equal weights."""
    random = torch.Generator().manual_seed(seed)

    def weight(rows: int, columns: int, gain: float = 2.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=random) * (gain / columns**0.5)

    weights = {"model.embed_tokens.weight": weight(VOCABULARY, HIDDEN, 16.0), "lm_head.weight": weight(VOCABULARY, HIDDEN)}
    weights["model.norm.weight"] = torch.ones(HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.self_attn.q_proj.weight": weight(HEADS * HEAD, HIDDEN),
            f"{at}.self_attn.k_proj.weight": weight(KV_HEADS * HEAD, HIDDEN),
            f"{at}.self_attn.v_proj.weight": weight(KV_HEADS * HEAD, HIDDEN),
            f"{at}.self_attn.o_proj.weight": weight(HIDDEN, HEADS * HEAD),
            f"{at}.mlp.gate_proj.weight": weight(FEED, HIDDEN),
            f"{at}.mlp.up_proj.weight": weight(FEED, HIDDEN),
            f"{at}.mlp.down_proj.weight": weight(HIDDEN, FEED, 1.0),
            f"{at}.input_layernorm.weight": torch.ones(HIDDEN),
            f"{at}.post_attention_layernorm.weight": torch.ones(HIDDEN),
        }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
