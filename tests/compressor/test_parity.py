# SPDX-License-Identifier: Apache-2.0
"""The same program in NumPy, from a file, and in PyTorch: with float and with int8 activations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot.container import Container
from ingot.format import AttentionParameters, Dtype
from ingot.reference import ReferenceSession, linear, prepare
from ingot_compressor.execute import TensorStore, execute, quantize_activation
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Operation, Program, Tensor, Weight
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import CASES, in_f16, write_checkpoint
from tests.runtime.small_program import random_weight

TOLERANCE = 1e-4
CHOSEN = ("llama_tied_shared_heads", "llama_llama3", "llama_gelu", "qwen2", "qwen3_tied_biases")
FORMATS = [(Dtype.F16, 32), (Dtype.Q8, 32), (Dtype.Q4, 64), (Dtype.C4, 32)]
TOKENS = [5, 300, 17, 17, 0, 41, 250, 99, 3, 8, 123, 77]


def in_format(program: Program, dtype: Dtype, group: int) -> Program:
    """Return a program with every weight rounded to one format, without a search."""

    def rounded(tensor: Tensor) -> Tensor:
        assert isinstance(tensor.source, Weight)
        quantized = quantize_matrix(tensor.source.load(), Encoding(dtype, group, search=False))
        return replace(tensor, dtype=dtype, source=quantized)

    return program.with_tensors({tensor.name: rounded(tensor) for tensor in program.weights()})


def torch_logits(program: Program, tokens: list[int], *, quantized: bool) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = execute(program, torch.tensor([tokens]), quantize_activations=quantized)
    return logits[0].numpy()


@pytest.mark.parametrize(("dtype", "group"), FORMATS, ids=lambda v: str(int(v)))
@pytest.mark.parametrize("case", CHOSEN)
def test_numpy_equals_pytorch(case: str, dtype: Dtype, group: int, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "source", CASES[case])
    program = in_format(fuse(import_checkpoint(checkpoint).program), dtype, group)
    emit(program, tmp_path / "model.ingot", b"{}", {}, {})
    with Container(tmp_path / "model.ingot") as container:
        exact = ReferenceSession(container, exact=True).eval(TOKENS, len(TOKENS))
        session = ReferenceSession(container)
        chunks = [session.eval(TOKENS[:5], 5), session.eval(TOKENS[5:], 7)]
    assert float(exact.std()) > 0.1
    floating = torch_logits(program, TOKENS, quantized=False)
    assert float(np.abs(exact - floating).max()) < TOLERANCE

    rounded = np.abs(np.vstack(chunks) - torch_logits(program, TOKENS, quantized=True)).max(axis=1)
    if dtype == Dtype.F16:
        assert rounded.max() < TOLERANCE
        return
    # A last bit of difference may round an int8 activation the other way, which changes that
    # position, and through the keys a little of those behind it; it must stay the exception.
    assert np.median(rounded) < TOLERANCE
    assert rounded.max() < 0.2 * np.abs(exact - np.vstack(chunks)).max() + TOLERANCE


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (4, 0), (4, 2), (3, 9), (30, 1)])
def test_windows_are_the_same_in_numpy_and_pytorch(window: int, sinks: int, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "source", CASES["llama_tied_shared_heads"])
    program = in_format(fuse(import_checkpoint(checkpoint).program), Dtype.F16, 32)
    full = torch_logits(program, TOKENS, quantized=False)
    program = replace(
        program, operations=tuple(narrowed(o, window, sinks) for o in program.operations)
    )
    emit(program, tmp_path / "model.ingot", b"{}", {}, {})
    with Container(tmp_path / "model.ingot") as container:
        session = ReferenceSession(container, exact=True)
        found = np.concatenate([session.eval(TOKENS[:5], 5), session.eval(TOKENS[5:], 7)])
    expected = torch_logits(program, TOKENS, quantized=False)
    assert np.abs(found[:, : expected.shape[1]] - expected).max() < TOLERANCE
    if window + sinks < len(TOKENS):
        assert np.abs(full[-1] - expected[-1]).max() > 1e-3


def narrowed(operation: Operation, window: int, sinks: int) -> Operation:
    """Return an operation, its attention with a window."""
    if not isinstance(operation.parameters, AttentionParameters):
        return operation
    return replace(operation, parameters=replace(operation.parameters, window=window, sinks=sinks))


@pytest.mark.parametrize(("dtype", "group"), FORMATS[1:], ids=lambda v: str(int(v)))
def test_int8_activations_are_the_same_function(dtype: Dtype, group: int) -> None:
    """On one operation no rounding can fall the other way, and the strict tolerance holds."""
    rng = np.random.default_rng(5)
    weight = random_weight(rng, dtype, group, 33, 200)
    x = (rng.normal(size=(20, 200)) * rng.uniform(0.1, 10, (20, 1))).astype(np.float32)
    dequantized = prepare(weight, exact=True).values
    product = quantize_activation(torch.from_numpy(x)) @ torch.from_numpy(dequantized).T
    largest = float(product.abs().max())
    assert float(np.abs(product.numpy() - linear(x, prepare(weight))).max()) < 1e-6 * largest


def greedy(session: ReferenceSession, prompt: list[int], count: int) -> list[int]:
    """Return `count` tokens, each the largest logit; one token a call after the prompt."""
    logits = session.eval(prompt, 1)
    found: list[int] = []
    for _ in range(count):
        found.append(int(logits[0].argmax()))
        logits = session.eval(found[-1:], 1)
    return found


def test_stories260k_text_in_f16(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "models" / "stories260k"
    expected = json.loads((folder / "expected_greedy.json").read_text(encoding="utf-8"))
    imported = import_checkpoint(folder)
    emit(in_f16(fuse(imported.program)), tmp_path / "s.ingot", imported.tokenizer_json, {}, {})
    answers = [answer for prompt, answer in expected.items() if not prompt.startswith("_")]
    assert len(answers) == 3
    with Container(tmp_path / "s.ingot") as container:
        session = ReferenceSession(container)
        for answer in answers:
            session.reset()
            assert greedy(session, answer["prompt_ids"], 40) == answer["greedy_ids"][:40]
        session.reset()
        first = session.eval([1], 1)[0]
    # f16 weights against float32 ones: the text is the same, the logits nearly.
    assert float(np.abs(first - expected["_first_logits_after_bos"]).max()) < 0.02


def test_lantern_in_numpy_and_pytorch(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "models" / "lantern"
    expected = json.loads((folder / "expected_greedy.json").read_text(encoding="utf-8"))
    answer = expected["It was a dark and stormy night, and"]
    ids = answer["prompt_ids"] + answer["greedy_ids"][:30]
    imported = import_checkpoint(folder)
    program = in_f16(fuse(imported.program))
    emit(program, tmp_path / "l.ingot", imported.tokenizer_json, {}, {})
    with Container(tmp_path / "l.ingot") as container:
        exact = ReferenceSession(container, exact=True).eval(ids, len(ids))
        logits = ReferenceSession(container).eval(ids, len(ids))
    with torch.no_grad():
        given = execute(program, torch.tensor([ids]), store=TensorStore())[0].numpy()
    assert float(np.abs(exact - given).max()) < TOLERANCE
    # Keys and values in float16 move the logits a little, and not the text.
    assert 0 < float(np.abs(exact - logits).max()) < 0.02
    start = len(answer["prompt_ids"])
    assert logits[start - 1 : -1].argmax(1).tolist() == answer["greedy_ids"][:30]
