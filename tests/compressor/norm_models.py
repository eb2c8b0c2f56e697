# SPDX-License-Identifier: Apache-2.0
"""Tiny programs whose norms matter, and how far a changed program is from the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.format import Opcode
from ingot_compressor.execute import execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import CASES, write_checkpoint

CLOSE = 1e-4  # of the logits' spread


def tiny(folder: Path, case: str) -> Program:
    write_checkpoint(folder, CASES[case])
    program = import_checkpoint(folder, 40 if case == "llama_dynamic_beyond" else None).program
    # norms of random checkpoints are near one: make them matter
    generator = np.random.default_rng(3)
    changed = {
        op.inputs[1]: replace(
            program.tensors[op.inputs[1]],
            source=generator.uniform(0.3, 3, program.tensors[op.inputs[1]].shape).astype(
                np.float32
            ),
        )
        for op in program.operations
        if op.opcode is Opcode.RMS_NORM
    }
    return program.with_tensors(changed)


def tokens_of(program: Program) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, program.vocabulary, (2, 24), generator=generator)


def windows_of(program: Program) -> list[NDArray[np.int64]]:
    return list(tokens_of(program).numpy())


def distance(before: Program, after: Program) -> float:
    """Return the largest difference of logits over their spread, fused and unfused."""
    tokens = tokens_of(before)
    with torch.no_grad():
        expected = execute(before, tokens)
        found = [execute(program, tokens) for program in (after, fuse(after))]
    return max(float((x - expected).abs().max() / expected.std()) for x in found)


def thirds(w: NDArray[np.float32], importance: object = None) -> NDArray[np.float32]:
    """Round each row to 7 values: a coarse quantizer."""
    scale = np.abs(w).max(axis=1, keepdims=True) / 3
    return np.asarray(np.rint(w / scale) * scale, np.float32)
