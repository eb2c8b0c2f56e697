# SPDX-License-Identifier: Apache-2.0
"""Masks against brute force, sweeps against exact least squares."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Layout
from ingot.packing import WEIGHT_FORMATS, Quantized, dequantize, stored_bytes
from ingot_compressor.calibration import NO_STATISTICS, calibrate
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import Encoding, quantize_matrix, relative_error
from ingot_compressor.numerics.groups import column_importance
from ingot_compressor.numerics.matrix import drop_superblocks
from ingot_compressor.numerics.pruning import (
    COMPUTED,
    STORED,
    keep_n_of_m,
    keep_share,
    keep_superblocks,
    magnitude_scores,
    n_of_m_bits,
    stored_bits,
    superblock_mask,
    superblock_power,
    superblock_saliency,
    superblock_width,
    unstructured_bits,
    wanda_scores,
    with_superblocks,
)
from ingot_compressor.numerics.sparse_gpt import (
    choose_given,
    choose_n_of_m,
    choose_share,
    damped,
    inverse_factor,
    output_error,
    refit,
    refit_matrix,
    sparse_gpt,
)
from ingot_compressor.numerics.stored_grid import StoredGrid
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.prune import SuperblockChoice, choose_superblocks, prune_superblocks
from ingot_compressor.passes.quantize import (
    Choices,
    assign,
    body_names,
    measure_sizes,
    quantize,
)
from tests.compressor.tiny_models import LLAMA, write_checkpoint

Double = NDArray[np.float64]


def matrix(n: int, k: int, seed: int = 0) -> Double:
    return np.random.default_rng(seed).standard_normal((n, k))


def correlated_hessian(k: int, seed: int = 1, samples: int = 400) -> Double:
    """Second moments of inputs that share a few strong directions, columns of unlike size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 4)) @ rng.standard_normal((4, k))
    x = (x + 0.5 * rng.standard_normal((samples, k))) * rng.uniform(0.2, 3.0, k)
    hessian: Double = x.T @ x / samples
    return hessian


# Masks


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8), (1, 4)])
def test_n_of_m_by_wanda_is_the_best_mask_of_uncorrelated_inputs(kept: int, of: int) -> None:
    w = matrix(5, 3 * of)
    h = np.random.default_rng(2).uniform(0.01, 9.0, w.shape[1])
    mask = keep_n_of_m(wanda_scores(w, h), kept, of)
    loss = w * w * h
    for row in range(len(w)):
        for first in range(0, w.shape[1], of):
            part = slice(first, first + of)
            assert mask[row, part].sum() == kept
            dropped = combinations(range(first, first + of), of - kept)
            best = min(loss[row, list(columns)].sum() for columns in dropped)
            assert loss[row, part][~mask[row, part]].sum() == pytest.approx(best)
    by_size = keep_n_of_m(magnitude_scores(w), kept, of)
    assert loss[~by_size].sum() > loss[~mask].sum()


def test_share_is_dropped_of_each_row_or_of_the_matrix() -> None:
    w = matrix(6, 10)
    w[0] *= 100
    by_row = keep_share(magnitude_scores(w), 0.35)
    assert (by_row.sum(axis=1) == 7).all()
    for row in range(6):
        assert np.abs(w[row][~by_row[row]]).max() < np.abs(w[row][by_row[row]]).min()
    whole = keep_share(magnitude_scores(w), 0.35, by_row=False)
    assert (~whole).sum() == int(0.35 * 60)
    assert whole[0].all()
    assert np.abs(w[~whole]).max() < np.abs(w[whole]).min()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(InvalidArgumentError, match="share"):
        keep_share(matrix(2, 4), share)


def test_patterns_that_do_not_fit() -> None:
    for kept, of in ((0, 4), (5, 4)):
        with pytest.raises(InvalidArgumentError, match="keeps nothing"):
            keep_n_of_m(matrix(2, 8), kept, of)
    with pytest.raises(InvalidArgumentError, match="does not divide"):
        keep_n_of_m(matrix(2, 6), 2, 4)
    with pytest.raises(InvalidArgumentError, match="mean squares"):
        wanda_scores(matrix(2, 6), np.ones(5))
    with pytest.raises(InvalidArgumentError, match="not negative"):
        wanda_scores(matrix(2, 6), -np.ones(6))


# The sweep


def test_factor_is_that_of_the_inverse() -> None:
    h = correlated_hessian(12)
    factor = inverse_factor(h, 0.05)
    assert np.array_equal(factor, np.triu(factor))
    assert np.allclose(factor.T @ factor @ damped(h, 0.05), np.eye(12), atol=1e-8)


def test_input_that_was_never_seen_does_no_harm() -> None:
    h = correlated_hessian(8)
    h[3, :] = h[:, 3] = 0
    w = matrix(4, 8)
    pruned, mask = sparse_gpt(w, inverse_factor(h), choose_share(0.5), block=8)
    assert np.isfinite(pruned).all()
    # what no input reaches costs nothing: it is among the first to go
    assert not mask[:, 3].all()
    # and makes no Hessian singular, not even without damping, or where nothing was seen at all
    assert np.isfinite(inverse_factor(h, 0.0)).all()
    assert np.array_equal(inverse_factor(np.zeros((8, 8))), np.eye(8))


def test_sweep_that_drops_the_first_columns_is_exact() -> None:
    h = damped(correlated_hessian(16))
    w = matrix(7, 16)
    mask = np.ones(w.shape, np.bool_)
    mask[:, :5] = False
    pruned, _ = sparse_gpt(w, inverse_factor(h, 0.0), choose_given(mask), block=4)
    assert np.allclose(pruned, refit(w, mask, h), atol=1e-8)


def test_chooser_sees_weights_that_already_make_up_for_what_is_gone() -> None:
    h = damped(correlated_hessian(16))
    w, factor = matrix(7, 16), inverse_factor(h, 0.0)
    seen: dict[int, tuple[Double, Double]] = {}

    def drop_first(first: int, weights: Double, saliency: Double) -> NDArray[np.bool_]:
        seen[first] = (weights.copy(), saliency)
        return np.full(weights.shape, first > 0)

    sparse_gpt(w, factor, drop_first, block=4)
    mask = np.tile(np.arange(16) >= 4, (7, 1))
    expected = refit(w, mask, h)
    assert list(seen) == [0, 4, 8, 12]
    for first in (4, 8, 12):
        columns = slice(first, first + 4)
        weights, saliency = seen[first]
        assert np.allclose(weights, expected[:, columns])
        assert np.allclose(saliency, np.square(weights / np.diagonal(factor)[columns]))
    # the saliency of a column is the error that its loss makes, all after it refitted
    first_gone = np.tile(np.arange(16) > 0, (7, 1))
    lost = w - refit(w, first_gone, h)
    assert np.allclose(seen[0][1][:, 0], np.einsum("ij,ij->i", lost @ h, lost))


@pytest.mark.parametrize("block", [4, 8, 32])
def test_sweep_lies_between_plain_masking_and_the_exact_refit(block: int) -> None:
    h = damped(correlated_hessian(32))
    w = matrix(12, 32)
    factor = inverse_factor(h, 0.0)
    pruned, mask = sparse_gpt(w, factor, choose_share(0.5), block)
    assert (~mask).sum() == w.size // 2
    assert not pruned[~mask].any()
    swept = output_error(w, pruned, h)
    exact = output_error(w, refit(w, mask, h), h)
    assert exact * 0.999 <= swept <= output_error(w, w * mask, h)
    by_size = keep_share(magnitude_scores(w), 0.5)
    by_wanda = keep_share(wanda_scores(w, np.diagonal(h)), 0.5)
    assert swept < 0.7 * output_error(w, w * by_wanda, h)
    assert swept < 0.7 * output_error(w, w * by_size, h)
    # with the same mask for both, the sweep alone makes the difference
    compensated, _ = sparse_gpt(w, factor, choose_given(by_size), block)
    assert output_error(w, compensated, h) < 0.7 * output_error(w, w * by_size, h)


def test_block_of_the_update_does_not_matter_for_a_given_mask() -> None:
    h, w = correlated_hessian(24), matrix(5, 24)
    mask = keep_share(magnitude_scores(w), 0.4)
    swept = [sparse_gpt(w, inverse_factor(h), choose_given(mask), b)[0] for b in (1, 5, 24, 99)]
    for other in swept[1:]:
        assert np.allclose(swept[0], other, atol=1e-10)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8)])
def test_sweep_of_n_of_m_keeps_the_pattern_and_beats_a_plain_mask(kept: int, of: int) -> None:
    h, w = damped(correlated_hessian(32)), matrix(9, 32)
    pruned, mask = sparse_gpt(w, inverse_factor(h, 0.0), choose_n_of_m(kept, of), block=of)
    assert (mask.reshape(-1, of).sum(axis=1) == kept).all()
    plain = keep_n_of_m(wanda_scores(w, np.diagonal(h)), kept, of)
    assert output_error(w, pruned, h) < 0.8 * output_error(w, w * plain, h)


def test_sweep_without_correlation_is_wanda() -> None:
    w = matrix(6, 16)
    h = np.diag(np.random.default_rng(5).uniform(0.1, 4.0, 16))
    pruned, mask = sparse_gpt(w, inverse_factor(h, 0.0), choose_n_of_m(2, 4), block=4)
    assert np.array_equal(mask, keep_n_of_m(wanda_scores(w, np.diagonal(h)), 2, 4))
    assert np.allclose(pruned, w * mask)


def test_rounding_in_the_sweep_beats_rounding_after_it() -> None:
    h, w = damped(correlated_hessian(48)), 2 * matrix(10, 48)
    step, seen = 0.5, []

    def to_grid(column: int, values: Double) -> Double:
        seen.append(column)
        return np.round(values / step) * step

    factor = inverse_factor(h, 0.0)
    joint, mask = sparse_gpt(w, factor, choose_share(0.3), 16, to_grid)
    assert seen == list(range(48))
    assert np.array_equal(joint, np.round(joint / step) * step)
    assert not joint[~mask].any()
    after, _ = sparse_gpt(w, factor, choose_given(mask), 16)
    after = np.round(after / step) * step * mask
    assert output_error(w, joint, h) < 0.8 * output_error(w, after, h)


def test_refit_is_least_squares_on_the_inputs() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((60, 6)) @ rng.standard_normal((6, 10)) + rng.standard_normal((60, 10))
    w = matrix(5, 10)
    mask = keep_share(magnitude_scores(w), 0.4)
    mask[0] = True
    mask[1] = False
    fitted = refit(w, mask, x.T @ x / 60)
    assert np.allclose(fitted[0], w[0])
    assert not fitted[1].any()
    for row in range(2, 5):
        kept = mask[row]
        expected, *_ = np.linalg.lstsq(x[:, kept], x @ w[row], rcond=None)
        assert np.allclose(fitted[row][kept], expected, atol=1e-8)
        assert not fitted[row][~kept].any()
        assert np.allclose(w[row] @ refit_matrix(kept, x.T @ x / 60), expected, atol=1e-8)
    assert np.array_equal(refit_matrix(mask[0], x.T @ x), np.eye(10))


def test_hessians_and_masks_that_do_not_fit() -> None:
    w, h = matrix(4, 8), correlated_hessian(8)
    with pytest.raises(InvalidArgumentError, match="square"):
        damped(h[:, :5])
    with pytest.raises(InvalidArgumentError, match="square"):
        damped(h * np.inf)
    with pytest.raises(InvalidArgumentError, match="damping"):
        damped(h, -1.0)
    with pytest.raises(InvalidArgumentError, match="positive definite"):
        inverse_factor(-h)
    with pytest.raises(InvalidArgumentError, match="factor"):
        sparse_gpt(w, np.eye(7), choose_share(0.5))
    with pytest.raises(InvalidArgumentError, match="mask"):
        sparse_gpt(w, np.eye(8), choose_given(np.ones((3, 8), np.bool_)))
    with pytest.raises(InvalidArgumentError, match="Hessian"):
        refit(w, np.ones((4, 8), np.bool_), h[:7, :7])
    with pytest.raises(InvalidArgumentError, match="Hessian"):
        refit_matrix(np.ones(7, np.bool_), h)
    singular = np.zeros((8, 8))
    half = np.tile(np.arange(8) < 4, (4, 1))
    with pytest.raises(InvalidArgumentError, match="singular"):
        refit(w, half, singular)


GROUPED = [Dtype.Q8, Dtype.Q4, Dtype.Q4Z, Dtype.Q6, Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2]


@pytest.mark.parametrize("dtype", GROUPED, ids=lambda d: d.name.lower())
def test_grid_holds_the_nearest_of_all_values_that_codes_give(dtype: Dtype) -> None:
    w = matrix(20, 70).astype(np.float32)
    w[3] = 0  # scales of zero
    start = quantize_matrix(w, Encoding(dtype))
    count = 1 << WEIGHT_FORMATS[dtype].bits
    codes = range(-127, 128) if dtype is Dtype.Q8 else range(count)
    held = [dequantize(replace(start, codes=np.full_like(start.codes, code))) for code in codes]
    values = 1.5 * matrix(20, 70, seed=9)
    expected = np.min([np.abs(one - values) for one in held], axis=0)
    grid = StoredGrid(start)
    rounded = np.stack([grid.round(j, values[:, j]) for j in range(70)], axis=1)
    assert np.allclose(np.abs(rounded - values), expected, atol=1e-6)
    assert np.allclose(dequantize(grid.result()), rounded, rtol=1e-6, atol=1e-7)
    assert not rounded[3].any()


def test_grid_takes_a_codebook_in_any_order() -> None:
    start = quantize_matrix(matrix(16, 64).astype(np.float32), Encoding(Dtype.C3))
    turned = replace(start, codebook=start.codebook[::-1].copy(), codes=7 - start.codes)
    values = matrix(16, 64, seed=3)
    for column in (0, 40):
        grids = StoredGrid(start), StoredGrid(turned)
        first, second = (grid.round(column, values[:, column]) for grid in grids)
        assert np.array_equal(first, second)
        assert np.array_equal(grids[0].codes[:, column], 7 - grids[1].codes[:, column])


@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.T2])
def test_grid_needs_groups(dtype: Dtype) -> None:
    with pytest.raises(InvalidArgumentError, match="groups"):
        StoredGrid(quantize_matrix(matrix(16, 32).astype(np.float32), Encoding(dtype)))


# Superblocks


def test_saliency_is_the_error_of_each_superblock_alone() -> None:
    w = matrix(21, 40)  # the last tile has 5 rows, the last superblock 8 columns
    h = damped(correlated_hessian(40))
    saliency = superblock_saliency(w, np.linalg.inv(h), 16)
    assert saliency.shape == (2, 3)
    for tile in range(2):
        for block in range(3):
            present = np.ones((2, 3), np.bool_)
            present[tile, block] = False
            fitted = refit(w, superblock_mask(present, w.shape, 16), h)
            assert saliency[tile, block] == pytest.approx(output_error(w, fitted, h), rel=1e-6)


def test_saliency_without_correlation_is_wanda_s_power() -> None:
    w = matrix(35, 96)
    h = np.random.default_rng(3).uniform(0.1, 5.0, 96)
    power = superblock_power(wanda_scores(w, h), 32)
    assert np.allclose(superblock_saliency(w, np.diag(1 / h), 32), power)
    assert power.sum() == pytest.approx((w * w * h).sum())
    with pytest.raises(InvalidArgumentError, match="inverse"):
        superblock_saliency(w, np.eye(95), 32)


def test_superblocks_by_wanda_over_the_matrix_are_those_that_the_encoder_drops() -> None:
    w = matrix(70, 512).astype(np.float32)
    h = np.random.default_rng(4).uniform(0.1, 5.0, 512)
    encoding = Encoding(Dtype.C4, search=False, layout=Layout.T16_K8)
    quantized = quantize_matrix(w, encoding, h)
    width = superblock_width(Dtype.C4, 32)
    assert width == 128
    present = keep_superblocks(superblock_power(wanda_scores(w, h), width), 0.3)
    expected = drop_superblocks(quantized, w, column_importance(h, 512), 0.3)
    assert np.array_equal(present, expected.present)
    sparse = with_superblocks(quantized, present)
    assert sparse.layout is Layout.T16
    assert np.array_equal(dequantize(sparse), dequantize(expected))
    zero = ~superblock_mask(present, w.shape, width)
    assert not dequantize(sparse)[zero].any()


def test_share_of_superblocks_of_each_sixteen_rows() -> None:
    power = np.arange(40.0).reshape(4, 10)
    assert keep_superblocks(power, 0.25).sum(axis=1).tolist() == [0, 10, 10, 10]
    assert keep_superblocks(power, 0.25, by_tile=True).sum(axis=1).tolist() == [8, 8, 8, 8]
    with pytest.raises(InvalidArgumentError, match="superblocks"):
        superblock_mask(np.ones((3, 3), np.bool_), (32, 40), 16)


# Net bits


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (n_of_m_bits(2, 4, 4), 3.0),
        (n_of_m_bits(4, 8, 4), 3.0),
        (n_of_m_bits(1, 8, 4), 0.5 + 3 / 8),
        (unstructured_bits(0.5, 4), 3.0),
        (unstructured_bits(0.7, 4), 2.2),
        (n_of_m_bits(2, 4, 4, scale_bits=0.25), 3.125),
        (unstructured_bits(0.75, 4, scale_bits=0.5), 1.0 + 0.125 + 1.0),
    ],
)
def test_computed_bits_are_those_of_the_arithmetic(found: object, expected: float) -> None:
    assert found.total == pytest.approx(expected)  # type: ignore[attr-defined]
    assert found.status == COMPUTED  # type: ignore[attr-defined]


def test_stored_bits_are_those_of_the_packed_bytes() -> None:
    w = matrix(64, 512).astype(np.float32)
    dense = quantize_matrix(w, Encoding(Dtype.C4, search=False))
    bits = stored_bits(dense)
    assert (bits.pattern, bits.index, bits.status) == ("dense", 0.0, STORED)
    assert bits.total == pytest.approx(8 * stored_bytes(dense) / w.size)
    present = keep_superblocks(superblock_power(magnitude_scores(w), 128), 0.25)
    sparse = stored_bits(with_superblocks(dense, present))
    assert sparse.pattern == "superblocks 25%"
    assert sparse.total == pytest.approx(
        8 * stored_bytes(with_superblocks(dense, present)) / w.size
    )
    # 16 superblocks of 4 KB codes; a tile keeps its 64 bytes of row scales, a list is 64 bytes
    assert sparse.index == pytest.approx(8 * 4 * 64 / w.size)
    assert sparse.codes == pytest.approx(
        0.75 * (bits.codes - 8 * 4 * 64 / w.size) + 8 * 4 * 64 / w.size
    )


# A whole model


def tiny(folder: Path) -> Program:
    values = {**LLAMA, "hidden_size": 160, "intermediate_size": 192, "head_dim": 40}
    return fuse(import_checkpoint(write_checkpoint(folder, values, deviation=0.08)).program)


def windows(count: int = 6, length: int = 40) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 300, length) for _ in range(count)]


def encodings(program: Program, dtype: Dtype) -> dict[str, Encoding]:
    encoding = Encoding(dtype, search=False)
    return assign(program, Choices(encoding, encoding, encoding))


def distance(program: Program, other: Program) -> float:
    tokens = torch.from_numpy(np.stack(windows()))
    with torch.inference_mode():
        return float((execute(program, tokens) - execute(other, tokens)).square().mean())


def test_nothing_dropped_is_plain_quantization(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    chosen = encodings(program, Dtype.Q8)
    found, records = prune_superblocks(program, windows(), chosen, SuperblockChoice(0.0))
    plain = quantize(program, chosen, NO_STATISTICS)
    for tensor in program.weights():
        ours, theirs = (p.tensors[tensor.name].source for p in (found, plain))
        assert isinstance(ours, Quantized) and isinstance(theirs, Quantized)
        assert not ours.present.size
        assert np.array_equal(ours.codes, theirs.codes)
    assert {record.name for record in records} == set(body_names(program))
    assert not any(record.dropped or record.error > 1e-10 for record in records)


def test_superblocks_of_a_model_go_by_share_and_the_others_make_up_for_them(
    tmp_path: Path,
) -> None:
    program = tiny(tmp_path)
    chosen = encodings(program, Dtype.Q4)
    errors = {}
    for name, choice in {
        "magnitude": SuperblockChoice(0.3, "magnitude", compensate=False),
        "wanda": SuperblockChoice(0.3, "wanda", compensate=False),
        "hessian": SuperblockChoice(0.3, "hessian"),
        "sweep": SuperblockChoice(0.3, "hessian", sweep=True),
        "by tile": SuperblockChoice(0.4, "wanda", compensate=True, by_tile=True),
    }.items():
        pruned, records = prune_superblocks(program, windows(), chosen, choice)
        errors[name] = distance(program, pruned)
        for record in records:
            source = pruned.tensors[record.name].source
            assert isinstance(source, Quantized)
            assert record.dropped == (~source.present).sum()
            if not choice.by_tile:
                assert record.dropped == int(0.3 * record.of)
            else:
                # 3 superblocks of 64 in 160 or 192 columns: one of them goes in every tile
                assert ((~source.present).sum(axis=1) == 1).all()
        for name in (program.head(), program.embedding()):
            source = pruned.tensors[name].source
            assert isinstance(source, Quantized) and not source.present.size
    assert errors["hessian"] < 0.9 * min(errors["wanda"], errors["magnitude"])
    assert errors["sweep"] < 0.95 * errors["hessian"]


def test_pruned_model_runs_natively_and_takes_fewer_bytes(tmp_path: Path) -> None:
    program = tiny(tmp_path / "m")
    imported = import_checkpoint(tmp_path / "m")
    chosen = encodings(program, Dtype.Q8)
    pruned, _ = prune_superblocks(program, windows(), chosen, SuperblockChoice(0.3))
    path = tmp_path / "pruned.ingot"
    emit(pruned, path, imported.tokenizer_json, imported.chat, {})
    tokens = windows()[0]
    expected = execute(pruned, torch.from_numpy(tokens)[None], quantize_activations=True)
    with Model(path) as model, model.session(logits_rows=len(tokens)) as session:
        found = session.logits(tokens)
    # int8 activations that round the other way, and a state that is rounded too
    wrong = np.sqrt(np.square(found - expected[0].numpy()).mean())
    assert wrong < 0.05 * float(expected.std())
    assert distance(program, pruned) > 0.1**2 * float(expected.var())
    dense = measure_sizes(quantize(program, chosen, NO_STATISTICS), chosen)
    sparse = measure_sizes(pruned, chosen)
    # the lists of superblocks take their share on matrices as narrow as these
    assert 0.7 < sparse.bits_per_weight_body / dense.bits_per_weight_body < 0.85


def test_tied_table_is_quantized_for_what_flows_into_the_head(tmp_path: Path) -> None:
    values = {**LLAMA, "tie_word_embeddings": True}
    program = fuse(import_checkpoint(write_checkpoint(tmp_path, values)).program)
    rough = Encoding(Dtype.C3)
    chosen = {**encodings(program, Dtype.Q8), program.head(): rough}
    found, _ = prune_superblocks(program, windows(), chosen, SuperblockChoice(0.0))
    table = program.tensors[program.head()].source
    stored = found.tensors[program.head()].source
    assert isinstance(table, Weight) and isinstance(stored, Quantized)
    h = calibrate(program, windows(), TensorStore()).importance(program.head())
    blind = quantize_matrix(table.load(), rough)
    assert relative_error(table.load(), stored, h) < 0.99 * relative_error(table.load(), blind, h)


def test_short_superblock_counts_by_the_weights_that_it_has() -> None:
    w = np.ones((16, 160), np.float32)  # superblocks of q8: 64, 64 and 32 columns
    w[:, 128:] = 1.2
    choice = SuperblockChoice(0.34, "magnitude", compensate=False)
    present, pruned = choose_superblocks(w, np.eye(160), Encoding(Dtype.Q8), choice)
    assert present.tolist() == [[False, True, True]]
    assert not pruned[:, :64].any() and np.array_equal(pruned[:, 64:], w[:, 64:])
    w[:, 128:] = 0.9
    present, _ = choose_superblocks(w, np.eye(160), Encoding(Dtype.Q8), choice)
    assert present.tolist() == [[True, True, False]]


def test_pruning_refuses(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    chosen = encodings(program, Dtype.Q8)
    for choice, message in (
        (SuperblockChoice(1.0), "share"),
        (SuperblockChoice(0.1, "guess"), "expected one of magnitude, wanda, hessian"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            prune_superblocks(program, windows(), chosen, choice)
    with pytest.raises(InvalidArgumentError, match="no window"):
        prune_superblocks(program, [], chosen, SuperblockChoice(0.1))
    done = quantize(program, chosen, NO_STATISTICS)
    with pytest.raises(InvalidArgumentError, match="already quantized"):
        prune_superblocks(done, windows(), chosen, SuperblockChoice(0.1))
