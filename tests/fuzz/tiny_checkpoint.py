# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a few hundred numbers, as bytes: what the targets of the importers start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

from ingot_compressor.importers import read_model
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import expected_tensors

__all__ = ["TOKENIZER", "VOCABULARY", "configurations", "weights_of"]

VOCABULARY = {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "[UNK]": 4}
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
    }
).encode()
_COMMON = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 6,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 2.0,
    "original_max_position_embeddings": 8,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def configurations() -> Iterator[dict[str, Any]]:
    """Yield valid configurations: each family, head sizes, biases, kinds of rope."""
    yield {"model_type": "llama", **_COMMON}
    yield {"model_type": "llama", **_COMMON, "attention_bias": True, "mlp_bias": True}
    yield {"model_type": "llama", **_COMMON, "rope_scaling": _LLAMA3, "head_dim": 2}
    yield {"model_type": "qwen2", **_COMMON, "tie_word_embeddings": False}
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    yield {"model_type": "qwen3", **_COMMON, "rope_parameters": dynamic, "hidden_act": "gelu_new"}


def weights_of(config: dict[str, Any]) -> bytes:
    """Return the safetensors file that a configuration describes."""
    rng = np.random.default_rng(1)
    _, decoder = read_model(Configuration(config))
    shapes = expected_tensors(decoder)
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    return bytes(save(arrays))
