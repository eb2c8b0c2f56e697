# SPDX-License-Identifier: Apache-2.0
"""Channels, heads and layers taken out: what is left computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot.format import AttentionParameters, Opcode, Role
from ingot_compressor.calibration import Statistics, calibrate
from ingot_compressor.execute import TensorStore, execute, execute_block
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import FloatArray, Program, Tensor, Weight
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.structured import (
    block_influence,
    drop_layers,
    least_influential,
    prune_channels,
    prune_head_groups,
)
from tests.compressor.tiny_models import CASES, LLAMA, QWEN3, in_f16, write_checkpoint

WIDE = {"intermediate_size": 80, "num_attention_heads": 8, "num_key_value_heads": 4}
MODELS = {
    "llama": {**LLAMA, **WIDE},
    "llama_biases": {**CASES["llama_biases"], **WIDE},
    "qwen3_tied": {**QWEN3, **WIDE, "tie_word_embeddings": True},
    "llama_relu": {**CASES["llama_relu"], **WIDE},
}
TOKENS = torch.arange(14).reshape(2, 7)
WINDOWS = [np.arange(20, dtype=np.int64) * 7 % 300, np.arange(20, dtype=np.int64) * 13 % 300]


def load(folder: Path, case: str) -> Program:
    return import_checkpoint(write_checkpoint(folder, MODELS[case])).program


def logits(program: Program, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.inference_mode():
        return execute(program, tokens)


def with_values(program: Program, name: str, change: Callable[[FloatArray], None]) -> Program:
    """Return the program with the values of a weight or constant changed in place."""
    tensor = program.tensors[name]
    source = tensor.source
    values = (source.load() if isinstance(source, Weight) else np.asarray(source)).copy()
    change(values)
    changed: Tensor = replace(tensor, source=values)
    if isinstance(source, Weight):
        changed = replace(tensor, source=Weight(name, source.shape, partial(np.copy, values)))
    return program.with_tensors({name: changed})


def set_rows(rows: slice, value: float, values: FloatArray) -> None:
    values[rows] = value


def set_columns(columns: slice, value: float, values: FloatArray) -> None:
    values[:, columns] = value


def statistics_of(program: Program) -> Statistics:
    return calibrate(program, WINDOWS, TensorStore())


# Channels


@pytest.mark.parametrize("case", sorted(MODELS))
def test_channels_that_do_nothing_can_go(case: str, tmp_path: Path) -> None:
    program = load(tmp_path, case)
    dead = {0: slice(8, 24), 1: slice(40, 56)}
    for layer, channels in dead.items():
        name = f"layers.{layer}.mlp.down"
        program = with_values(program, name, partial(set_columns, channels, 0.0))
    smaller, records = prune_channels(program, statistics_of(program), 0.2)
    assert [record.removed for record in records] == [
        tuple(range(part.start, part.stop)) for part in dead.values()
    ]
    assert smaller.tensors["layers.0.mlp.gate"].shape == (64, 40)
    assert smaller.tensors["layers.1.mlp.down"].shape == (40, 64)
    assert torch.allclose(logits(smaller), logits(program), atol=1e-5)
    assert torch.allclose(logits(fuse(smaller)), logits(program), atol=1e-5)
    # the same channels alive: now they are missed, and others would have gone
    alive = load(tmp_path / "alive", case)
    cut, other = prune_channels(alive, statistics_of(alive), 0.2)
    assert [record.removed for record in other] != [record.removed for record in records]
    assert not torch.allclose(logits(cut), logits(alive), atol=1e-2)


def test_score_of_a_channel_is_what_the_output_loses(tmp_path: Path) -> None:
    program = load(tmp_path, "llama")
    statistics = statistics_of(program)
    _, records = prune_channels(program, statistics, 0.2)
    name = "layers.0.mlp.down"
    source = program.tensors[name].source
    assert isinstance(source, Weight)
    w = source.load()
    loss = np.array([statistics.mean_squares[name][j] * (w[:, j] ** 2).sum() for j in range(80)])
    assert set(records[0].removed) == set(np.argsort(loss)[:16].tolist())
    assert records[0].where == name and records[0].of == 80


def moments(program: Program, name: str) -> NDArray[np.float64]:
    rows: list[torch.Tensor] = []

    def observe(weight: str, x: torch.Tensor) -> None:
        if weight == name:
            rows.append(x.flatten(0, -2).double())

    execute(program, torch.from_numpy(np.stack(WINDOWS)), observe=observe)
    x = torch.cat(rows).numpy()
    hessian: NDArray[np.float64] = x.T @ x / len(x)
    return hessian


def test_channels_that_stay_make_up_for_a_copy_that_goes(tmp_path: Path) -> None:
    program = load(tmp_path, "llama")

    def twin(values: FloatArray) -> None:
        values[:16] = values[16:32]

    for part in ("gate", "up"):
        program = with_values(program, f"layers.1.mlp.{part}", twin)
    name = "layers.1.mlp.down"
    program = with_values(program, name, partial(set_columns, slice(0, 16), 0.002))
    hessian = moments(program, name)
    statistics = Statistics({**statistics_of(program).mean_squares}, 40)
    plain, records = prune_channels(program, statistics, 0.2)
    fitted, again = prune_channels(program, statistics, 0.2, {name: hessian})
    assert records == again
    assert records[1].removed == tuple(range(16))
    blocks = [split_blocks(p)[2] for p in (program, plain, fitted)]
    x = torch.randn(1, 30, 40, generator=torch.Generator().manual_seed(0))
    exact, masked, refitted = (execute_block(block, x) for block in blocks)
    assert (refitted - exact).square().sum() < 0.5 * (masked - exact).square().sum()


@pytest.mark.parametrize(
    ("share", "multiple", "width"),
    [(0.0, 16, 80), (0.15, 16, 80), (0.2, 16, 64), (0.99, 16, 16), (0.5, 8, 40), (0.1, 100, 80)],
)
def test_channels_stay_in_multiples(
    share: float, multiple: int, width: int, tmp_path: Path
) -> None:
    program = load(tmp_path, "llama")
    smaller, records = prune_channels(program, statistics_of(program), share, multiple=multiple)
    assert smaller.tensors["layers.0.mlp.up"].shape[0] == width
    assert len(records[0].removed) == 80 - width
    if width == 80:
        assert torch.equal(logits(smaller), logits(program))


# Heads


@pytest.mark.parametrize("case", sorted(MODELS))
def test_head_group_that_does_nothing_can_go(case: str, tmp_path: Path) -> None:
    program = load(tmp_path, case)
    parameters = next(op.parameters for op in program.operations if op.opcode is Opcode.ATTENTION)
    assert isinstance(parameters, AttentionParameters)
    width = 2 * parameters.head_size  # query heads of a group
    for layer, group in ((0, 1), (1, 3)):
        columns = slice(group * width, (group + 1) * width)
        name = f"layers.{layer}.attention.o"
        program = with_values(program, name, partial(set_columns, columns, 0.0))
    smaller, records = prune_head_groups(program, statistics_of(program), 0.25)
    assert [record.removed for record in records] == [(1,), (3,)]
    assert smaller.tensors["layers.0.attention.keys"].shape == (3, 0, parameters.head_size)
    assert smaller.tensors["layers.1.attention.q"].shape[0] == 3 * width
    assert torch.allclose(logits(smaller), logits(program), atol=1e-5)
    alive = load(tmp_path / "alive", case)
    cut, _ = prune_head_groups(alive, statistics_of(alive), 0.25)
    assert not torch.allclose(logits(cut), logits(alive), atol=1e-2)


# Layers


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dropped", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_dropped_layer_is_not_executed(
    dropped: tuple[int, ...], fused: bool, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, {**MODELS["llama"], "num_hidden_layers": 3})
    program = import_checkpoint(folder).program
    program = fuse(program) if fused else program
    x = TOKENS
    for number, block in enumerate(split_blocks(program), start=-1):
        if number not in dropped:
            x = execute_block(block, x)
    smaller, records = drop_layers(program, dropped)
    assert torch.equal(logits(smaller), x)
    assert not torch.allclose(logits(program), x, atol=1e-3)
    assert [record.removed for record in records] == [(number,) for number in dropped]
    states = [t for t in smaller.tensors.values() if t.role is Role.STATE]
    assert len(states) == 2 * (3 - len(dropped))


def test_influence_of_a_layer_is_how_far_it_turns_what_flows_through(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, {**MODELS["llama"], "num_hidden_layers": 3})
    program = import_checkpoint(folder).program
    for part in ("attention.o", "mlp.down"):
        name = f"layers.1.{part}"
        program = with_values(program, name, partial(set_rows, slice(None), 0.0))
    influence = block_influence(program, WINDOWS, TensorStore())
    blocks = split_blocks(program)
    similar = np.zeros((3, len(WINDOWS)))
    for column, window in enumerate(WINDOWS):
        x = execute_block(blocks[0], torch.from_numpy(window)[None])
        for layer in range(3):
            y = execute_block(blocks[1 + layer], x)
            a, b = x[0].double(), y[0].double()
            cosines = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
            similar[layer, column] = float(cosines.mean())
            x = y
    assert influence == pytest.approx(1 - similar.mean(axis=1), abs=1e-5)
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert min(influence[0], influence[2]) > 0.01
    assert least_influential(influence, 1) == (1,)
    other = 0 if influence[0] < influence[2] else 2
    assert least_influential(influence, 2) == tuple(sorted((1, other)))
    smaller, _ = drop_layers(program, least_influential(influence, 1))
    assert torch.allclose(logits(smaller), logits(program), atol=1e-5)


def test_layers_that_cannot_go(tmp_path: Path) -> None:
    program = load(tmp_path, "llama")
    for layers in ((2,), (-1,)):
        with pytest.raises(InvalidArgumentError, match="of 2 that are there"):
            drop_layers(program, layers)
    with pytest.raises(InvalidArgumentError, match="one must stay"):
        drop_layers(program, (0, 1))
    with pytest.raises(InvalidArgumentError, match="no window"):
        block_influence(program, [], TensorStore())


def test_passes_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    program = load(tmp_path, "llama")
    statistics = statistics_of(program)
    for run in (prune_channels, prune_head_groups):
        with pytest.raises(InvalidArgumentError, match="share"):
            run(program, statistics, 1.0)
        with pytest.raises(InvalidArgumentError, match="unfused"):
            run(fuse(program), statistics, 0.25)
        with pytest.raises(InvalidArgumentError, match="no calibration"):
            run(program, Statistics({}, 0), 0.25)
    quantized = program.with_tensors(
        {t.name: t for t in in_f16(program).weights() if t.name == "layers.0.mlp.gate"}
    )
    with pytest.raises(InvalidArgumentError, match=r"layers\.0\.mlp\.gate"):
        prune_channels(quantized, statistics, 0.25)


def test_smaller_models_run_natively(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", {**MODELS["llama"], "num_hidden_layers": 3})
    imported = import_checkpoint(folder)
    program, _ = drop_layers(imported.program, (1,))
    program, _ = prune_channels(program, statistics_of(program), 0.3)
    program, _ = prune_head_groups(program, statistics_of(program), 0.5)
    path = tmp_path / "small.ingot"
    emit(in_f16(fuse(program)), path, imported.tokenizer_json, imported.chat, {})
    expected = logits(in_f16(fuse(program)), TOKENS[:1])[0].numpy()
    with Model(path) as model, model.session(logits_rows=7) as session:
        found = session.logits(TOKENS[0].numpy())
    assert np.abs(found - expected[:, : found.shape[1]]).max() < 2e-2 * np.abs(expected).max()
