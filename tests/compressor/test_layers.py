# SPDX-License-Identifier: Apache-2.0
"""Which layer of a file departs from the checkpoint, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ingot.errors import IngotError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS
from ingot_compressor.evaluation.layers import LayerError, compare_layers, program_of_file
from ingot_compressor.execute import execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import quantize
from tests.compressor.tiny_models import LLAMA, in_f16, write_checkpoint

LAYERS = {**LLAMA, "num_hidden_layers": 3}
WINDOWS = [np.random.default_rng(i).integers(0, 301, 40) for i in range(3)]


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("layers")
    imported = import_checkpoint(write_checkpoint(folder / "source", LAYERS))
    program = fuse(imported.program)

    def write(quantized: Program, name: str) -> Path:
        emit(quantized, folder / name, imported.tokenizer_json, imported.chat, {})
        return folder / name

    encodings = {tensor.name: Encoding(Dtype.C4) for tensor in program.weights()}
    c4 = quantize(program, encodings, NO_STATISTICS)
    return SimpleNamespace(
        program=program, c4=c4, path=write(c4, "c4.ingot"), f16=write(in_f16(program), "f16.ingot")
    )


def compare(program: Program, path: Path) -> list[LayerError]:
    return compare_layers(program, program_of_file(program, path), WINDOWS, lambda done: None)


def test_weights_of_a_file_are_what_was_quantized(tiny: SimpleNamespace) -> None:
    found = program_of_file(tiny.program, tiny.path)
    for tensor in found.weights():
        stored = tiny.c4.tensors[tensor.name].source
        assert isinstance(tensor.source, Weight) and isinstance(stored, Quantized)
        assert tensor.dtype is Dtype.C4
        assert np.array_equal(tensor.source.load(), dequantize(stored))


def test_figures_are_those_of_the_whole_programs(tiny: SimpleNamespace) -> None:
    """The last block gives the logits, which the programs give without being cut."""
    seen: list[int] = []
    candidate = program_of_file(tiny.program, tiny.path)
    found = compare_layers(tiny.program, candidate, WINDOWS, seen.append)
    names = ["embedding", "layer 0", "layer 1", "layer 2", "head"]
    assert [layer.name for layer in found] == names and seen == [1, 2, 3, 4, 5]
    tokens = torch.from_numpy(np.stack(WINDOWS))
    with torch.inference_mode():
        right = execute(tiny.program, tokens).double()
        wrong = execute(candidate, tokens, quantize_activations=True).double()
    ratio = float((right**2).sum() / ((right - wrong) ** 2).sum())
    assert found[-1].decibels == pytest.approx(10 * math.log10(ratio), abs=1e-3)
    lengths = right.norm(dim=-1) * wrong.norm(dim=-1)
    cosine = float(((right * wrong).sum(dim=-1) / lengths).mean())
    assert found[-1].cosine == pytest.approx(cosine, abs=1e-6)
    assert found[0].decibels == found[0].own_decibels < 40
    assert all(layer.own_decibels > layer.decibels for layer in found[1:])


def test_f16_loses_next_to_nothing(tiny: SimpleNamespace) -> None:
    found = compare(tiny.program, tiny.f16), compare(tiny.program, tiny.path)
    for near, far in zip(*found, strict=True):
        assert near.decibels > 50 > 30 > far.decibels
        assert 1 - near.cosine < 1e-5 < 1e-4 < 1 - far.cosine


def test_a_damaged_layer_stands_out(tiny: SimpleNamespace) -> None:
    name = next(name for name in tiny.program.tensors if name.startswith("layers.1.mlp.down"))
    tensor = tiny.program.tensors[name]
    turned = tensor.source.load()[:, ::-1].copy()
    damaged = tiny.program.with_tensors(
        {name: replace(tensor, source=Weight(name, tensor.shape, lambda: turned))}
    )
    found = compare_layers(tiny.program, in_f16(damaged), WINDOWS, lambda done: None)
    own = {layer.name: layer.own_decibels for layer in found}
    assert min(own, key=lambda name: own[name]) == "layer 1" and own["layer 1"] < 10
    assert all(value > 50 for name, value in own.items() if name != "layer 1")
    assert found[1].decibels > 50 and all(layer.decibels < 25 for layer in found[2:])


def test_nothing_lost_is_infinite(tiny: SimpleNamespace) -> None:
    found = compare_layers(tiny.program, in_f16(tiny.program), WINDOWS[:1], lambda done: None)
    exact = in_f16(tiny.program)
    same = compare_layers(exact, exact, WINDOWS[:1], lambda done: None)
    assert same[0].decibels == math.inf > found[0].decibels


def test_a_file_of_another_model_is_refused(tiny: SimpleNamespace, tmp_path: Path) -> None:
    wide = {**LAYERS, "intermediate_size": 59}
    other = fuse(import_checkpoint(write_checkpoint(tmp_path / "wide", wide)).program)
    with pytest.raises(IngotError, match="not the same model"):
        program_of_file(other, tiny.path)
    deep = {**LAYERS, "num_hidden_layers": 4}
    other = fuse(import_checkpoint(write_checkpoint(tmp_path / "deep", deep)).program)
    with pytest.raises(IngotError, match=r"layers\.3"):
        program_of_file(other, tiny.path)
