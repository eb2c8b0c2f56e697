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
    block_size,
    hadamard,
    make_rotation,
    rotate,
    tile_heads,
    unrotate,
)
from ingot_compressor.numerics.scaling import (
    activation_aware_scales,
    clip_groups,
    column_largest,
    group_grams,
    grouped_errors,
    relative_magnitudes,
    search_clips,
    smoothing_scales,
)
from ingot_compressor.passes.activation_aware import (
    clip_weights,
    parent_program,
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
from tests.compressor.tiny_models import CASES, write_checkpoint

CLOSE = 1e-4  # of the logits' spread
Change = Callable[[Program], Program]


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


@pytest.mark.parametrize("width, most, block", [(40, 128, 8), (256, 128, 128), (43, 128, 1)])
def test_hadamard_is_the_sylvester_matrix_in_blocks(width: int, most: int, block: int) -> None:
    assert block_size(width, most) == block
    matrix = np.array([[(-1) ** ((i & j).bit_count()) for j in range(block)] for i in range(block)])
    expected = np.kron(np.eye(width // block), matrix / np.sqrt(block))
    assert np.allclose(hadamard(np.eye(width), block), expected)
    assert np.allclose(expected @ expected.T, np.eye(width))
    rotation = make_rotation(width, 3, most)
    x = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32)
    assert np.allclose(rotate(x, rotation), (x * rotation.signs) @ expected, atol=1e-6)
    assert np.allclose(unrotate(rotate(x, rotation), rotation), x, atol=1e-6)
    assert np.array_equal(make_rotation(width, 3, most).signs, rotation.signs)
    assert not np.array_equal(make_rotation(width, 4, most).signs, rotation.signs)
    assert set(np.unique(rotation.signs)) == {-1.0, 1.0}


def test_rotations_refuse_blocks_that_do_not_fit() -> None:
    for block in (3, 16, 0):
        with pytest.raises(ValueError, match="power of two"):
            hadamard(np.ones((1, 24)), block)
    with pytest.raises(ValueError, match="positive"):
        block_size(0)
    heads = tile_heads(make_rotation(8, 1, 4), 2, 3)
    assert np.array_equal(heads.signs.reshape(2, 3, 4)[:, 0], heads.signs.reshape(2, 3, 4)[:, 2])
    assert len(heads.signs) == 24


def test_a_rotation_spreads_an_outlier_over_its_block(tmp_path: Path) -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 7] = 128
    turned = rotate(x, make_rotation(256, 0))
    assert np.allclose(np.abs(turned[0, :128]), 128 / np.sqrt(128))
    assert not turned[0, 128:].any()


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


def test_smoothing_scales_are_the_formula_and_even_out() -> None:
    x, w = np.array([8.0, 0.5, 0.0, 2.0]), np.array([2.0, 2.0, 1.0, 0.0])
    s = smoothing_scales(x, w, 0.5)
    assert np.allclose(s, [2.0, 0.5, 1.0, 1.0])
    # at one half both sides have the same largest magnitude
    assert np.allclose((x / s)[:2], (w * s)[:2])
    assert np.allclose(smoothing_scales(x, w, 1.0)[:2], x[:2])
    with pytest.raises(ValueError, match="alpha"):
        smoothing_scales(x, w, 1.5)
    with pytest.raises(ValueError, match="channels"):
        smoothing_scales(x, w[:2])
    pair = [np.array([[1, -3], [2, 0]], np.float32), np.array([[-5, 1]], np.float32)]
    assert column_largest(pair).tolist() == [5, 3]


def test_smooth_balances_what_the_linears_read(tmp_path: Path) -> None:
    program = tiny(tmp_path, "llama")
    windows = windows_of(program)
    after = smooth(program, calibrate(program, windows, TensorStore()), 0.5)
    statistics = calibrate(after, windows, TensorStore())
    for name in ("layers.1.mlp.down", "layers.0.attention.o"):
        w = np.abs(load_matrix(after.tensors[name])).max(axis=0)
        # the down projection is itself smoothed last, its columns are final
        assert np.allclose(statistics.max_abs[name], w, rtol=1e-3), name
    only = smooth(program, calibrate(program, windows, TensorStore()), norms_only=True)
    before = load_matrix(program.tensors["layers.1.mlp.down"])
    assert np.array_equal(before, load_matrix(only.tensors["layers.1.mlp.down"]))


def test_activation_aware_scales_are_centred_and_follow_the_formula() -> None:
    x, w = np.array([1.0, 4.0, 0.25]), np.array([0.5, 0.25, 1.0])
    for ratio in (0.0, 0.3, 1.0):
        s = activation_aware_scales(x, w, ratio)
        raw = x**ratio / (w ** (1 - ratio) + 1e-4)
        assert np.allclose(s / s[0], raw / raw[0])
        assert np.isclose(s.max() * s.min(), 1)
    assert np.allclose(activation_aware_scales(x, w, 0.0, duo=False), 1)
    parts = np.array([[1, -2, 4, 8], [0, 0, 3, -3]], np.float32)
    assert np.allclose(relative_magnitudes([parts], 2), [0.25, 0.5, 0.75, 1])
    assert np.allclose(relative_magnitudes([parts, parts[:1]], 4), [1 / 12, 1 / 6, 2 / 3, 1])


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


def test_clip_search_is_the_brute_force_optimum_of_each_group() -> None:
    generator = np.random.default_rng(2)
    w = generator.standard_t(2, (3, 10)).astype(np.float32)
    x = generator.normal(size=(50, 10)).astype(np.float32) * generator.uniform(0.1, 3, 10)
    grams = group_grams(x.astype(np.float32), 4)

    def rounding(values: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = np.pad(values, ((0, 0), (0, 2))).reshape(3, 3, 4)
        scale = np.abs(parts).max(axis=2, keepdims=True) / 3
        return np.asarray((np.rint(parts / scale) * scale).reshape(3, 12)[:, :10], np.float32)

    limits = search_clips(w, grams, rounding)
    for row in range(3):
        for first in (0, 4, 8):
            part = w[row : row + 1, first : first + 4]
            inputs = x[:, first : first + 4]
            errors = {}
            for step in range(21):
                limit = np.abs(part).max() * (1 - 0.5 * step / 20)
                clipped = np.clip(part, -limit, limit)
                scale = np.abs(clipped).max() / 3
                tried = np.rint(clipped / scale) * scale
                errors[limit] = float(np.square(inputs @ (tried - part).T).mean())
            best = min(errors, key=lambda limit: errors[limit])
            assert np.isclose(limits[row, first // 4], best, rtol=1e-5)
    error = rounding(w) - w
    whole = np.stack([np.square(x[:, s] @ error[:, s].T).mean(axis=0) for s in _slices()], axis=1)
    assert np.allclose(grouped_errors(error, grams), whole)
    assert np.array_equal(clip_groups(w, limits, 4), np.clip(w, -_spread(limits), _spread(limits)))


def test_a_short_last_group_has_its_own_limit() -> None:
    w = np.full((1, 33), 5, np.float32)
    clipped = clip_groups(w, np.array([[2, 3]], np.float32), 32)
    assert clipped[0].tolist() == [2.0] * 32 + [3.0]


def _slices() -> list[slice]:
    return [slice(0, 4), slice(4, 8), slice(8, 10)]


def _spread(limits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.repeat(limits, 4, axis=1)[:, :10])


def tens(w: NDArray[np.float32], importance: object = None) -> NDArray[np.float32]:
    """Round each 10 of a row to 7 values."""
    n, k = w.shape
    parts = np.pad(w, ((0, 0), (0, -k % 10))).reshape(-1, 10)
    return thirds(parts).reshape(n, -1)[:, :k]


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
