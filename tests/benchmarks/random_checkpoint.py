# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint of random weights for any configuration that the importers take.

python tests/benchmarks/random_checkpoint.py CONFIG.json FOLDER [--seed N] [--dtype f32]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from ingot_compressor.importers import read_model
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import expected_tensors

__all__ = ["make_random_checkpoint", "write_tokenizer"]

SHARD_BYTES = 512 << 20
DEVIATION = 0.02
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def make_random_checkpoint(
    config_path: Path,
    out_dir: Path,
    seed: int = 0,
    dtype: str = "bf16",
    deviation: float = DEVIATION,
) -> Path:
    """Write config, sharded safetensors and a tokenizer; return the folder.

    Weights and biases are N(0, deviation), norms that plus 1. At most one shard is in memory.
    """
    values = json.loads(config_path.read_text(encoding="utf-8"))
    model_type, decoder = read_model(Configuration(values))
    values.setdefault("model_type", model_type)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_tensors(decoder)
    index: dict[str, str] = {}
    for number, names in enumerate(_shards(shapes, DTYPES[dtype].itemsize)):
        shard = f"model-{number:05d}.safetensors"
        tensors = {
            name: _random(name, shapes[name], generator, deviation).to(DTYPES[dtype])
            for name in names
        }
        save_file(tensors, out_dir / shard, metadata={"format": "pt"})
        index.update(dict.fromkeys(names, shard))
    text = json.dumps({"metadata": {}, "weight_map": index})
    (out_dir / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    write_tokenizer(out_dir, decoder.table_rows)
    return out_dir


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        names.append(name)
        size += itemsize * torch.Size(shape).numel()
        if size >= SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _random(
    name: str, shape: tuple[int, ...], generator: torch.Generator, deviation: float
) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator) * deviation
    return noise + 1.0 if "norm" in name else noise


def write_tokenizer(folder: Path, size: int) -> None:
    """Write a byte-level tokenizer of exactly `size` ids: 256 bytes, then dummy tokens.

    Below 257 ids there are only that many bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(alphabet[:size])}
    vocabulary.update({f"<dummy {index}>": index for index in range(len(vocabulary), size)})
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    arguments = parser.parse_args()
    make_random_checkpoint(arguments.config, arguments.folder, arguments.seed, arguments.dtype)


if __name__ == "__main__":
    main()
