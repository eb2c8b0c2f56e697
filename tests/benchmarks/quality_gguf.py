# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's quantization types of a model; run by the peer's Python (numpy, gguf, llama_cpp).

    PEER_PYTHON tests/benchmarks/quality_gguf.py WORK TYPE [TYPE ...]

WORK holds config.json, tensors.npz (float32 by Hugging Face name), importance.npz (mean squares of
each matrix's input columns by GGUF name) and windows.npy (token ids). For each TYPE, with "+pure"
for one type in all layers and "+head8" for a q8_0 table, writes WORK/TYPE.npz, the weights that it
stands for, and WORK/TYPE.npy, the logits that llama.cpp computes with it on the windows.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

FILE_TYPES = {
    "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q4_0": 2, "q4_k_s": 14, "q4_k_m": 15, "iq4_xs": 30,
    "q3_k_s": 11, "q3_k_m": 12, "q2_k": 10, "iq3_xxs": 23, "iq2_xs": 20,
}  # fmt: skip
GGML_Q8_0 = 8

Array = NDArray[np.float32]


def names(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the GGUF and the Hugging Face name of each tensor of a Llama model."""
    parts = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    yield "token_embd.weight", "model.embed_tokens.weight"
    for layer in range(config["num_hidden_layers"]):
        for short, long in parts.items():
            yield f"blk.{layer}.{short}.weight", f"model.layers.{layer}.{long}.weight"
    yield "output_norm.weight", "model.norm.weight"


def rotary_heads(name: str, config: dict[str, Any]) -> int:
    """Return the heads whose rows GGUF stores with their pairs side by side, 0 for none."""
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else 0


def interleave(w: Array, heads: int) -> Array:
    """Return rows (halves of each head) as GGUF has them (pairs of each head)."""
    n, k = w.shape
    return w.reshape(heads, 2, n // heads // 2, k).swapaxes(1, 2).reshape(n, k)


def separate(w: Array, heads: int) -> Array:
    """Undo interleave."""
    n, k = w.shape
    return w.reshape(heads, n // heads // 2, 2, k).swapaxes(1, 2).reshape(n, k)


def write_full(work: Path, config: dict[str, Any], path: Path) -> None:
    """Write the model in float32."""
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(0)
    tensors = np.load(work / "tensors.npz")
    for name, source in names(config):
        heads = rotary_heads(name, config)
        w = tensors[source]
        writer.add_tensor(name, interleave(w, heads) if heads else w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(work: Path, source: Path, target: Path, wanted: str) -> None:
    """Quantize with llama.cpp and its importance matrix. Raises: RuntimeError if it refuses."""
    kind, *options = wanted.split("+")
    importance = {name: np.ascontiguousarray(x, np.float32) for name, x in load(work).items()}
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[kind]
    parameters.nthread = 2
    parameters.imatrix = entries
    parameters.pure = "pure" in options
    if "head8" in options:
        parameters.token_embedding_type = parameters.output_tensor_type = GGML_Q8_0
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if status != 0:
        raise RuntimeError(f"llama_model_quantize to {wanted}: status {status}")


def load(work: Path) -> dict[str, Array]:
    """Return the importance of each matrix by its GGUF name."""
    with np.load(work / "importance.npz") as file:
        return {name: file[name] for name in file.files}


def dequantize(path: Path, config: dict[str, Any]) -> tuple[dict[str, Array], float, int]:
    """Return the weights by Hugging Face name, bits per weight of the layers, bytes of matrices."""
    sources = dict(names(config))
    found, bits, count, size = {}, 0, 0, 0
    for tensor in gguf.GGUFReader(path).tensors:
        w = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        heads = rotary_heads(tensor.name, config)
        found[sources[tensor.name]] = separate(w, heads) if heads else w
        size += int(tensor.n_bytes) if w.ndim == 2 else 0
        if w.ndim == 2 and tensor.name.startswith("blk."):
            bits, count = bits + 8 * int(tensor.n_bytes), count + w.size
    return found, bits / count, size


def logits(path: Path, windows: NDArray[np.int64]) -> Iterator[Array]:
    """Yield the logits (t, v) of each window in llama.cpp."""
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    parameters = llama_cpp.llama_context_default_params()
    length = windows.shape[1]
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = length
    parameters.n_threads = parameters.n_threads_batch = 2
    context = llama_cpp.llama_init_from_model(model, parameters)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(length, 0, 1)
    for window in windows:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = length
        for i, token in enumerate(window):
            batch.token[i], batch.pos[i], batch.logits[i] = int(token), i, 1
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        values = llama_cpp.llama_get_logits(context)
        yield np.ctypeslib.as_array(values, (length, vocabulary)).astype(np.float32)
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def main() -> None:
    """Write weights and logits of each type, and a line of JSON for it."""
    work, wanted = Path(sys.argv[1]), sys.argv[2:]
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    config = json.loads((work / "config.json").read_text(encoding="utf-8"))
    windows = np.load(work / "windows.npy")
    full = work / "full.gguf"
    write_full(work, config, full)
    for kind in wanted:
        path = work / f"{kind}.gguf"
        quantize(work, full, path, kind)
        weights, bits, size = dequantize(path, config)
        np.savez(work / f"{kind}.npz", **weights)
        np.save(work / f"{kind}.npy", np.stack(list(logits(path, windows))).astype(np.float16))
        print(json.dumps({"type": kind, "bits": bits, "bytes": size}), flush=True)


if __name__ == "__main__":
    main()
