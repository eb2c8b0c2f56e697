# SPDX-License-Identifier: Apache-2.0
"""Random tiny checkpoints of every supported configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ingot.format import Dtype
from ingot.packing import Quantized
from ingot_compressor.ir import Program, Tensor, Weight
from tests.benchmarks.random_checkpoint import make_random_checkpoint

# sizes that no tile or group divides
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 40,
    "intermediate_size": 43,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 10,
    "vocab_size": 301,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
QWEN2 = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama_tied_shared_heads": {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 2},
    "llama_wide_heads": {**LLAMA, "head_dim": 14, "num_key_value_heads": 1},
    "llama_llama3": {**LLAMA, "rope_theta": 50.0, "rope_scaling": LLAMA3},
    "llama_linear": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "llama_dynamic": {**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama_dynamic_beyond": {
        **LLAMA,
        "max_position_embeddings": 16,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "llama_nested_rope": {
        **LLAMA,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    },
    "llama_biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama_gelu": {**LLAMA, "hidden_act": "gelu_pytorch_tanh"},
    "llama_relu": {**LLAMA, "hidden_act": "relu"},
    "qwen2": {**QWEN2, "use_sliding_window": False, "sliding_window": 4},
    "qwen2_tied_shared_heads": {**QWEN2, "tie_word_embeddings": True, "num_key_value_heads": 1},
    "qwen3": QWEN3,
    "qwen3_tied_biases": {**QWEN3, "tie_word_embeddings": True, "attention_bias": True},
}


def write_checkpoint(
    folder: Path, values: Mapping[str, Any], seed: int = 0, deviation: float = 0.2
) -> Path:
    """Write a float32 checkpoint whose logits are far from zero, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "description.json"
    description.write_text(json.dumps(values), encoding="utf-8")
    made = make_random_checkpoint(description, folder, seed, "f32", deviation)
    description.unlink()
    return made


def as_f16(tensor: Tensor) -> Tensor:
    """Return a weight rounded to f16."""
    assert isinstance(tensor.source, Weight)
    codes = tensor.source.load().astype(np.float16)
    quantized = Quantized(Dtype.F16, (codes.shape[0], codes.shape[1]), 0, codes)
    return replace(tensor, dtype=Dtype.F16, source=quantized)


def in_f16(program: Program) -> Program:
    """Return a program with every weight in f16."""
    return program.with_tensors({tensor.name: as_f16(tensor) for tensor in program.weights()})
