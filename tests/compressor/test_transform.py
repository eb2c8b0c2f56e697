# SPDX-License-Identifier: Apache-2.0
"""Transforms leave the logits alone, make what they promise, and refuse what cannot be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import (
    ActivationKind,
    ActivationParameters,
    NormParameters,
    Opcode,
)
from ingot_compressor.calibration import NO_STATISTICS, calibrate
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Operation, Program
from ingot_compressor.numerics.rotation import (
    make_rotation,
    rotate,
)
from ingot_compressor.passes.activation_aware import (
    scale_for_activations,
)
from ingot_compressor.passes.flow import find_sites
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.transform import (
    apply_scales,
    fold_norms,
    load_matrix,
    rotate_residual,
    rotate_values,
    smooth,
    untie_head,
)
from tests.compressor.norm_models import CLOSE, distance, thirds, tiny, tokens_of, windows_of
from tests.compressor.tiny_models import CASES

Change = Callable[[Program], Program]


def random_scales(program: Program) -> Program:
    generator = np.random.default_rng(1)
    scales = {}
    for site in find_sites(program):
        channels = program.tensors[site.x].width // site.shared
        scales[site.x] = generator.uniform(0.2, 5, channels)
    return apply_scales(program, scales)


def smoothed(program: Program) -> Program:
    return smooth(program, calibrate(program, windows_of(program), TensorStore()), 0.5)


def searched(program: Program) -> Program:
    return scale_for_activations(program, windows_of(program), thirds, ratios=4, group=10)[0]


CHANGES: dict[str, Change] = {
    "untie_head": untie_head,
    "fold_norms": fold_norms,
    "fold_norms_untied": lambda program: fold_norms(program, untie=True),
    "random_scales": random_scales,
    "smooth": smoothed,
    "activation_aware": searched,
    "rotate_residual": rotate_residual,
    "rotate_values": rotate_values,
    "everything": lambda program: rotate_values(rotate_residual(searched(smoothed(program)), 4), 9),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("case", CASES)
def test_logits_stay(case: str, change: str, tmp_path: Path) -> None:
    program = tiny(tmp_path, case)
    assert distance(program, CHANGES[change](program)) < CLOSE


@pytest.mark.parametrize("change", CHANGES)
def test_logits_of_lantern_stay(change: str, repo_root: Path) -> None:
    program = import_checkpoint(repo_root / "examples" / "models" / "lantern").program
    assert distance(program, CHANGES[change](program)) < CLOSE


@pytest.mark.parametrize("case", ["llama_biases", "qwen3_tied_biases", "llama_wide_heads"])
def test_transforms_change_the_weights_they_should(case: str, tmp_path: Path) -> None:
    """A pass that does nothing would keep the logits too."""
    program = tiny(tmp_path, case)
    layer = [f"layers.0.{name}" for name in ("attention.q", "attention.v", "attention.o")]
    layer += [f"layers.0.mlp.{name}" for name in ("gate", "up", "down")]
    touched = {
        "fold_norms": {0, 1, 3, 4},
        "random_scales": {0, 1, 2, 3, 4, 5},
        "smooth": {0, 1, 2, 3, 4, 5},
        "rotate_residual": {0, 1, 2, 3, 4, 5},
        "rotate_values": {1, 2},
    }
    for change, expected in touched.items():
        after = CHANGES[change](program)
        for index, name in enumerate(layer):
            same = np.array_equal(
                load_matrix(program.tensors[name]), load_matrix(after.tensors[name])
            )
            assert same is (index not in expected), (change, name)
        biased = [name for name in program.tensors if name.endswith(".bias") and "layers.0" in name]
        if change == "random_scales":
            changed = {n for n in biased if after.tensors[n] is not program.tensors[n]}
            assert changed == {n for n in biased if n.split(".")[-2] in ("v", "up")}


def test_folded_norms_are_ones_and_head_norms_stay(tmp_path: Path) -> None:
    program = tiny(tmp_path, "qwen3")
    after = fold_norms(program)
    for operation in program.operations:
        if operation.opcode is Opcode.RMS_NORM:
            name = operation.inputs[1]
            gamma, kept = load_matrix(after.tensors[name]), load_matrix(program.tensors[name])
            of_head = name.endswith(("q_norm", "k_norm"))
            assert np.array_equal(gamma, kept if of_head else np.ones_like(kept)), name


def test_a_tied_norm_is_folded_only_when_untied(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama_tied_shared_heads")
    kept = fold_norms(program)
    assert kept.head() == kept.embedding()
    assert kept.tensors["norm"] is program.tensors["norm"]
    after = fold_norms(program, untie=True)
    assert after.head() != after.embedding()
    gamma = load_matrix(program.tensors["norm"])
    table = load_matrix(program.tensors[program.embedding()])
    assert np.array_equal(load_matrix(after.tensors[after.embedding()]), table)
    assert np.allclose(load_matrix(after.tensors[after.head()]), table * gamma)


def test_an_even_last_norm_lets_a_rotated_head_stay_tied(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama_tied_shared_heads")
    norm = program.tensors["norm"]
    even = program.with_tensors({"norm": replace(norm, source=np.full(norm.shape, 1.7, "f4"))})
    rotated = rotate_residual(even)
    assert rotated.head() == rotated.embedding()
    assert distance(even, rotated) < CLOSE
    assert rotate_residual(program).head() != program.embedding()


def test_weights_are_read_when_loaded_and_not_before(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama")
    reads: list[str] = []

    def counted(name: str) -> Callable[[], NDArray[np.float32]]:
        values = load_matrix(program.tensors[name])

        def load() -> NDArray[np.float32]:
            reads.append(name)
            return values

        return load

    watched = program.with_tensors(
        {
            tensor.name: replace(tensor, source=replace(tensor.source, load=counted(tensor.name)))
            for tensor in program.weights()
        }
    )
    after = rotate_values(rotate_residual(random_scales(watched)))
    assert not reads
    load_matrix(after.tensors["layers.1.mlp.up"])
    assert reads == ["layers.1.mlp.up"]


def test_sites_come_from_the_flow_and_not_from_names(tmp_path: Path) -> None:
    program = tiny(tmp_path, "qwen3_tied_biases")
    titles = {name: f"t{index}" for index, name in enumerate(program.tensors)}
    renamed = replace(
        program,
        tensors={titles[n]: replace(t, name=titles[n]) for n, t in program.tensors.items()},
        operations=tuple(
            replace(
                op,
                inputs=tuple(titles[n] for n in op.inputs),
                outputs=tuple(titles[n] for n in op.outputs),
            )
            for op in program.operations
        ),
        input=titles[program.input],
        output=titles[program.output],
    )
    before, after = find_sites(program), find_sites(renamed)
    assert [titles[site.x] for site in before] == [site.x for site in after]
    assert [tuple(titles[n] for n in site.weights) for site in before] == [
        site.weights for site in after
    ]
    assert len(before) == 8  # four of each layer; a tied head is none
    assert distance(program, rotate_residual(program)) < CLOSE
    tokens = tokens_of(program)
    with torch.no_grad():
        pair = [execute(rotate_residual(p, 3), tokens) for p in (program, renamed)]
    assert torch.equal(*pair)


def test_sites_of_shared_heads_pool_what_the_heads_read(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama_tied_shared_heads")
    site = next(site for site in find_sites(program) if site.shared > 1)
    assert (site.heads, site.shared) == (2, 2)
    scales = np.arange(20.0)
    columns = site.columns(scales)
    assert np.array_equal(columns[:10], scales[:10])
    assert np.array_equal(columns[10:20], scales[:10])
    assert np.array_equal(columns[20:30], scales[10:])
    assert np.array_equal(site.by_channel(columns), np.stack([scales, scales]))


def test_what_cannot_be_transformed_is_refused(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama")
    fused = fuse(program)
    for change in (fold_norms, rotate_residual, rotate_values, random_scales):
        with pytest.raises(InvalidArgumentError, match="before fuse"):
            change(fused)
    x = find_sites(program)[0].x
    with pytest.raises(InvalidArgumentError, match="cannot be scaled"):
        apply_scales(program, {"embed.out": np.ones(40)})
    with pytest.raises(InvalidArgumentError, match=r"expected \(40,\)"):
        apply_scales(program, {x: np.ones(39)})
    with pytest.raises(InvalidArgumentError, match="positive"):
        apply_scales(program, {x: np.zeros(40)})
    with pytest.raises(InvalidArgumentError, match="no statistics"):
        smooth(program, NO_STATISTICS)
    with pytest.raises(InvalidArgumentError, match="at least one window"):
        scale_for_activations(program, [], thirds)


@pytest.mark.parametrize("kind", ["activation", "layer_norm"])
def test_a_stream_that_cannot_turn_is_refused(kind: str, tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama")
    stream = "layers.0.mlp.sum"
    new = replace(program.tensors[stream], name="squashed")
    bias = replace(program.tensors["norm"], name="zeros", source=np.zeros(40, np.float32))
    if kind == "activation":
        parameters = ActivationParameters(kind=ActivationKind.RELU)
        extra = Operation(Opcode.ACTIVATION, (stream,), ("squashed",), parameters)
    else:
        norm = NormParameters(epsilon=1e-5, width=40)
        extra = Operation(Opcode.LAYER_NORM, (stream, "norm", "zeros"), ("squashed",), norm)
    operations = []
    for op in program.operations:
        late = any(made is extra for made in operations)
        inputs = tuple("squashed" if late and n == stream else n for n in op.inputs)
        operations.append(replace(op, inputs=inputs))
        if stream in op.outputs:
            operations.append(extra)
    changed = program.with_tensors({"squashed": new, "zeros": bias})
    changed = replace(changed, operations=tuple(operations))
    with torch.no_grad():
        execute(changed, tokens_of(program))
    with pytest.raises(InvalidArgumentError, match=f"{kind} makes 'squashed'"):
        rotate_residual(changed)


def test_no_rotation_of_heads_passes_the_position_encoding(tmp_path: Path) -> None:
    """Why keys and queries have no offline rotation: turned before rope, the scores change."""
    program = tiny(tmp_path, "qwen3")  # heads of 16
    program = program.with_tensors(
        {
            name: replace(program.tensors[name], source=np.ones(16, np.float32))
            for name in program.tensors
            if name.endswith(("q_norm", "k_norm"))
        }
    )
    rotation = make_rotation(64, 1, 16)
    rotation = replace(rotation, signs=np.tile(rotation.signs[:16], 4))
    turned = {}
    for layer in range(2):
        for part in "qk":
            w = load_matrix(program.tensors[f"layers.{layer}.attention.{part}"])
            turned[f"layers.{layer}.attention.{part}"] = torch.from_numpy(
                np.ascontiguousarray(rotate(w.T, rotation).T)
            )
    tokens = tokens_of(program)
    with torch.no_grad():
        plain, wrong = execute(program, tokens), execute(program, tokens, weights=turned)
        first = (plain - wrong)[:, 0].abs().max()  # one position sees itself alone
    assert float(first) < 1e-3
    assert float((plain - wrong).abs().max()) > 0.05 * float(plain.std())


@pytest.mark.parametrize("case", ["llama", "llama_tied_shared_heads"])
def test_smooth_balances_what_the_linears_read(case: str, tmp_path: Path) -> None:
    program = tiny(tmp_path, case)
    windows = windows_of(program)
    after = smooth(program, calibrate(program, windows, TensorStore()), 0.5)
    statistics = calibrate(after, windows, TensorStore())
    for site in find_sites(program):
        if len(site.weights) > 1 or not site.weights[0].startswith("layers"):
            continue
        # columns of down and o are scaled once: there both sides are equally large now
        w = np.abs(load_matrix(after.tensors[site.weights[0]])).max(axis=0).astype(np.float64)
        sides = [
            site.by_channel(largest).max(axis=0)
            for largest in (w, statistics.max_abs[site.weights[0]])
        ]
        assert np.allclose(*sides, rtol=1e-3), site.x
    only = smooth(program, calibrate(program, windows, TensorStore()), norms_only=True)
    before = load_matrix(program.tensors["layers.1.mlp.down"])
    assert np.array_equal(before, load_matrix(only.tensors["layers.1.mlp.down"]))
