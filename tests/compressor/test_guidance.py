# SPDX-License-Identifier: Apache-2.0
"""Gradients at the outputs of linear operations, and Hessians that weigh tokens by them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Opcode
from ingot.packing import Quantized
from ingot_compressor.calibration import calibrate
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.block_methods import SolvedCodes
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.guidance import token_weights
from ingot_compressor.passes.quantize import Choices, assign, quantize
from ingot_compressor.passes.refine import refine_blocks
from tests.compressor.tiny_models import CASES, write_checkpoint

GROUPS = 4


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("tiny")
    return fuse(import_checkpoint(write_checkpoint(folder, CASES["llama_biases"])).program)


def biases_of(program: Program) -> dict[str, str]:
    linear = [op.linear() for op in program.operations if op.opcode is Opcode.LINEAR]
    return {w: b for op in linear for w, b in zip(op.weights, op.biases, strict=False)}


def test_token_weights_are_the_squared_gradients_of_biases(program: Program) -> None:
    # in windows of two tokens only the first has a next one: its gradient is that of the bias
    windows = list(np.random.default_rng(3).integers(0, 300, (6, 2)))
    store = TensorStore()
    found = token_weights(program, windows, GROUPS, store, batch=4)
    biases = biases_of(program)
    assert set(found) == set(biases) and len(found) >= 8
    given = {b: store.get(program.tensors[b]).clone().requires_grad_() for b in biases.values()}
    squares: dict[str, list[torch.Tensor]] = {name: [] for name in biases}
    for window in windows:
        tokens = torch.from_numpy(window)[None]
        logits = execute(program, tokens, weights=given, store=store)
        loss = functional.cross_entropy(logits[:, 0], tokens[:, 1])
        gradients = torch.autograd.grad(loss, list(given.values()))
        for name, gradient in zip(biases, gradients, strict=True):
            ends = [len(gradient) * part // GROUPS for part in range(GROUPS + 1)]
            parts = [gradient[a:b].square().mean() for a, b in pairwise(ends)]
            squares[name].append(torch.stack(parts))
    # a token that sees itself alone has no use for queries and keys
    unused = {name for name in found if torch.stack(squares[name]).max() < 1e-12}
    assert unused == {name for name in found if name.endswith(("attention.q", "attention.k"))}
    for name in set(found) - unused:
        expected = torch.stack(squares[name])
        expected *= 2 / expected.mean(0)
        assert not found[name][:, 1].any()
        torch.testing.assert_close(found[name][:, 0], expected, rtol=1e-3, atol=1e-4)


def test_tokens_without_weight_do_not_count(program: Program) -> None:
    windows = list(np.random.default_rng(4).integers(0, 300, (12, 16)))
    encoding, head = Encoding(Dtype.C3), Encoding(Dtype.Q8)
    statistics = calibrate(program, windows, TensorStore())
    rounded = quantize(program, assign(program, Choices(encoding, head, head)), statistics)
    start = {t.name: t.source for t in rounded.weights() if isinstance(t.source, Quantized)}
    body = [name for name in start if name in biases_of(program)]
    first_half = torch.cat([torch.full((6, 16, 1), 2.0), torch.zeros(6, 16, 1)])
    guided, _ = refine_blocks(
        program,
        start,
        windows,
        SolvedCodes(guidance=dict.fromkeys(body, first_half)),
        TensorStore(),
    )
    alone, _ = refine_blocks(program, start, windows[:6], SolvedCodes(), TensorStore())
    both, _ = refine_blocks(program, start, windows, SolvedCodes(), TensorStore())
    same = [float((guided[name].codes == alone[name].codes).mean()) for name in body]
    other = [float((guided[name].codes == both[name].codes).mean()) for name in body]
    assert min(same) > 0.999
    assert max(other) < 0.98


def test_windows_of_one_token_are_refused(program: Program) -> None:
    with pytest.raises(InvalidArgumentError, match="no next token"):
        token_weights(program, [np.zeros(1, np.int64)], GROUPS, TensorStore())
