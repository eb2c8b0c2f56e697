# SPDX-License-Identifier: Apache-2.0
"""A small checkpoint, recipes and what is asked of the files that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ingot.container import Container
from ingot.format import Opcode, Section
from ingot_compressor.compress import CompressOptions, CompressReport, compress
from ingot_compressor.execute import execute
from ingot_compressor.ir import Program
from ingot_compressor.job import Job, prepare_job
from ingot_compressor.progress import SilentProgress
from tests.compressor.tiny_models import LLAMA

SHAPE = {
    **LLAMA,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
WORDS = (
    "the lamp was lit and nobody in the house had seen who had done it before the rain",
    "a boat came in at noon with salt, rope and two letters for the keeper of the light",
    "she counted the steps again, ninety-one, and wrote the number under the others",
)
RECIPE = """
name = "mine"
description = "for tests"
[formats]
body = "{body}"
head = "{body}"
embedding = "{body}"
q4_group = 32
[method]
search = false
calibrate = false
calibration_tokens = 1024
evaluation_tokens = 512
{rest}
"""
GATE = "[gate]\nmean_kl = 99\np99_kl = 999\nconfidence = 0.95\nleast_windows = 1\n"


def write_recipe(folder: Path, rest: str, body: str = "f16") -> str:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(rest=rest, body=body), encoding="utf-8")
    return str(path)


def settings(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> CompressOptions:
    body = options.pop("body", "f16")
    preset = write_recipe(folder, rest, body)
    return CompressOptions(checkpoint, folder / "x.ingot", preset=preset, **texts, **options)


def prepared(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> Job:
    return prepare_job(settings(checkpoint, texts, folder, rest, **options), SilentProgress())


def made(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> CompressReport:
    return compress(settings(checkpoint, texts, folder, rest, **options))


def section(path: str, kind: Section) -> Any:
    with Container(Path(path)) as container:
        return json.loads(bytes(container.section(kind)) or b"null")


def logits(program: Program, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = execute(program, torch.from_numpy(tokens)[None])[0].numpy()
    return found


def attentions(program: Program) -> list[Any]:
    return [op.parameters for op in program.operations if op.opcode is Opcode.ATTENTION]
