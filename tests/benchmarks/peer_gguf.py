# SPDX-License-Identifier: Apache-2.0
"""Write GGUF files of random weights; run by the peer's Python, which has gguf and llama_cpp.

    PEER_PYTHON tests/benchmarks/peer_gguf.py CONFIG.json FOLDER [--seed N]

Writes f16.gguf with the gguf package and makes q4_0.gguf and q4_k_m.gguf of it with llama.cpp's own
quantizer, so that each has the mix of types that its users get.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

DEVIATION = 0.02
# Numbers of enum llama_ftype.
TYPES = {"q4_0": 2, "q4_k_m": 15}


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors that llama.cpp expects of a Llama or Qwen2 model, outermost first."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_size = config.get("head_dim") or width // heads
    yield "token_embd.weight", (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (width,)
        for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield f"{block}attn_{name}.weight", (rows * head_size, width)
            if config["model_type"] == "qwen2":
                yield f"{block}attn_{name}.bias", (rows * head_size,)
        yield block + "attn_output.weight", (width, heads * head_size)
        yield block + "ffn_norm.weight", (width,)
        yield block + "ffn_gate.weight", (inner, width)
        yield block + "ffn_up.weight", (inner, width)
        yield block + "ffn_down.weight", (width, inner)
    yield "output_norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "output.weight", (config["vocab_size"], width)


def write_f16(config: dict[str, Any], path: Path, seed: int) -> None:
    """Write the model: matrices in float16, vectors in float32."""
    writer = gguf.GGUFWriter(path, config["model_type"])
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(1)
    generator = np.random.default_rng(seed)
    for name, shape in tensor_shapes(config):
        values = generator.standard_normal(shape, dtype=np.float32) * np.float32(DEVIATION)
        if "norm" in name:
            values += 1
        writer.add_tensor(name, values if len(shape) == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, file_type: int) -> None:
    """Quantize with llama.cpp. Raises: RuntimeError if it refuses."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if status != 0:
        raise RuntimeError(f"llama_model_quantize of {source}: status {status}")


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    source = arguments.folder / "f16.gguf"
    wanted = {name: arguments.folder / f"{name}.gguf" for name in TYPES}
    if all(path.exists() for path in wanted.values()):
        return
    write_f16(config, source, arguments.seed)
    for name, path in wanted.items():
        partial = path.with_suffix(".partial")
        quantize(source, partial, TYPES[name])
        partial.replace(path)
    source.unlink()


if __name__ == "__main__":
    main()
