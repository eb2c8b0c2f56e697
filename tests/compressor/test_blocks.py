# SPDX-License-Identifier: Apache-2.0
"""A program in blocks is the program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ingot.format import Opcode
from ingot_compressor.execute import execute, execute_block
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import CASES, write_checkpoint


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", sorted(CASES))
def test_blocks_in_turn_give_the_logits(case: str, fused: bool, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CASES[case])
    program = import_checkpoint(tmp_path).program
    program = fuse(program) if fused else program
    blocks = split_blocks(program)
    layers = sum(op.opcode is Opcode.ATTENTION for op in program.operations)
    assert [sum(op.opcode is Opcode.ATTENTION for op in b.operations) for b in blocks] == [
        0,
        *[1] * layers,
        0,
    ]
    assert [op for block in blocks for op in block.operations] == list(program.operations)
    tokens = torch.arange(14).reshape(2, 7)
    x = tokens
    for block in blocks:
        x = execute_block(block, x)
    assert torch.equal(x, execute(program, tokens))


def test_head_block_has_the_final_norm_and_the_head_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CASES["llama"])
    program = fuse(import_checkpoint(tmp_path).program)
    tail = split_blocks(program)[-1]
    assert [op.opcode for op in tail.operations if op.opcode is not Opcode.SELECT_LAST] == [
        Opcode.RMS_NORM,
        Opcode.LINEAR,
    ]
    assert program.head() in tail.operations[-1].inputs
