# SPDX-License-Identifier: Apache-2.0
"""AWQ's searches against brute force over the model part that they judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.execute import execute
from ingot_compressor.numerics.scaling import activation_aware_scales, relative_magnitudes
from ingot_compressor.passes.activation_aware import (
    clip_weights,
    parent_program,
    scale_for_activations,
)
from ingot_compressor.passes.flow import find_sites
from ingot_compressor.passes.transform import load_matrix
from tests.compressor.norm_models import CLOSE, distance, thirds, tiny, tokens_of, windows_of


def tens(w: NDArray[np.float32], importance: object = None) -> NDArray[np.float32]:
    """Round each 10 of a row to 7 values."""
    n, k = w.shape
    parts = np.pad(w, ((0, 0), (0, -k % 10))).reshape(-1, 10)
    return thirds(parts).reshape(n, -1)[:, :k]


def test_the_chosen_ratio_has_the_least_error_of_the_parent(tmp_path: Path) -> None:
    """Brute force over every ratio, by running the scaled and quantized model part itself."""
    program = tiny(tmp_path, "llama_tied_shared_heads")
    windows = windows_of(program)
    after, choices = scale_for_activations(program, windows, thirds, ratios=5, group=10)
    assert len(choices) == 8
    assert sum(choice.ratio is not None for choice in choices) >= 4
    assert all(choice.loss <= choice.plain_loss for choice in choices)
    choice = choices[2]  # of the first layer's gate and up
    site = next(site for site in find_sites(program) if site.x == choice.x)
    assert site.weights == ("layers.0.mlp.gate", "layers.0.mlp.up")
    assert parent_program(program, site.x).output == "layers.0.mlp.down.out"
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        execute(program, tokens_of(program), observe=lambda name, x: seen.update({name: x}))
    x = seen[site.weights[0]].numpy().reshape(-1, 40)
    gate, up, down = (
        load_matrix(program.tensors[f"layers.0.mlp.{n}"]) for n in ("gate", "up", "down")
    )

    def gated(g: NDArray[np.float32], u: NDArray[np.float32]) -> NDArray[np.float32]:
        z = x @ g.T
        return np.asarray((z / (1 + np.exp(-z)) * (x @ u.T)) @ down.T)

    x_mean, w_mean = np.abs(x).mean(axis=0), relative_magnitudes([gate, up], 10)
    losses = []
    for s in (np.ones(40), *(activation_aware_scales(x_mean, w_mean, r / 4) for r in range(5))):
        tried = gated(thirds(gate * s) / s, thirds(up * s) / s)
        losses.append(float(np.square(tried - gated(gate, up)).mean()))
    assert np.isclose(choice.loss, min(losses), rtol=1e-3)
    assert np.isclose(choice.plain_loss, losses[0], rtol=1e-3)
    assert choice.ratio == (None if np.argmin(losses) == 0 else (np.argmin(losses) - 1) / 4)
    assert distance(program, after) < CLOSE


def test_the_quantizer_is_told_of_the_inputs_it_will_see(tmp_path: Path) -> None:
    """Columns times s read inputs over s: their mean squares fall by its square."""
    program = tiny(tmp_path, "llama")
    told: list[tuple[NDArray[np.float32], NDArray[np.float64]]] = []

    def noting(w: NDArray[np.float32], importance: NDArray[np.float64] | None) -> Any:
        assert importance is not None
        told.append((w, importance))
        return thirds(w)

    scale_for_activations(program, windows_of(program), noting, ratios=3, group=10)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        execute(program, tokens_of(program), observe=lambda name, x: seen.update({name: x}))
    name = "layers.0.attention.q"
    w, squares = load_matrix(program.tensors[name]), seen[name].double().square().mean(dim=(0, 1))
    changed = 0
    for scaled, importance in told[: 3 * 4 : 3]:  # q of q, k and v; no scale and three ratios
        columns = np.median(scaled / w, axis=0).astype(np.float64)
        assert np.allclose(importance * columns**2, squares.numpy(), rtol=1e-3)
        changed += not np.allclose(columns, 1)
    assert changed == 3


def test_parents_end_where_the_readers_meet(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama")
    ends = [parent_program(program, site.x).output for site in find_sites(program)]
    assert ends[:4] == [
        "layers.0.attention.o.out",
        "layers.0.attention.o.out",
        "layers.0.mlp.down.out",
        "layers.0.mlp.down.out",
    ]
    assert ends[-1] == "logits"
    with pytest.raises(InvalidArgumentError, match="does not meet"):
        parent_program(program, "layers.0.attention.q.out")


def test_clipping_leaves_queries_and_keys_and_lowers_the_error(tmp_path: Path) -> None:
    program = tiny(tmp_path, "qwen3")
    after = clip_weights(program, windows_of(program), tens, group=10)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        execute(program, tokens_of(program), observe=lambda name, x: seen.update({name: x}))
    better = 0
    for tensor in program.weights():
        if tensor.name in (program.head(), program.embedding()):
            continue
        w, clipped = load_matrix(tensor), load_matrix(after.tensors[tensor.name])
        if tensor.name.endswith((".q", ".k")):
            assert np.array_equal(w, clipped)
            continue
        x = seen[tensor.name].flatten(0, -2).numpy()
        errors = [float(np.square(x @ (tens(v) - w).T).mean()) for v in (w, clipped)]
        better += errors[1] < 0.9 * errors[0]
    assert better == 10  # v, o, gate, up and down of two layers
