# SPDX-License-Identifier: Apache-2.0
"""What a changed weight does to the logits: measured from its block on, and predicted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS, Statistics
from ingot_compressor.evaluate import UNSCORED, log_softmax
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.divergence import keep_likeliest, kl_from
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.probe import Probe
from ingot_compressor.passes.sensitivity import (
    Quantizer,
    measure_beyond,
    measure_units,
    predict_divergence,
    tabulate,
)
from tests.compressor.tiny_models import LLAMA, write_checkpoint

C3, C4, Q8 = Encoding(Dtype.C3), Encoding(Dtype.C4), Encoding(Dtype.Q8)
Floats = NDArray[np.float64]


@pytest.fixture(scope="module", params=["untied", "tied"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    values = {**LLAMA, "tie_word_embeddings": request.param == "tied"}
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param) / "m", values)
    return fuse(import_checkpoint(folder).program)


def windows(count: int = 2, length: int = 44, seed: int = 0) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 301, length) for _ in range(count)]


def quantized(program: Program, name: str, encoding: Encoding) -> Quantized:
    source = program.tensors[name].source
    assert isinstance(source, Weight)
    return quantize_matrix(source.load(), encoding)


def whole(program: Program, changed: Mapping[str, Quantized]) -> float:
    """Return the mean KL of whole runs of both programs, written out in NumPy."""
    weights = {name: torch.from_numpy(dequantize(q)) for name, q in changed.items()}
    found = []
    for window in windows():
        tokens = torch.from_numpy(window)[None]
        p, q = (
            log_softmax(execute(program, tokens, weights=w)[0, :, : program.vocabulary].numpy())
            for w in ({}, weights)
        )
        found.append((np.exp(p) * (p - q)).sum(axis=1)[UNSCORED - 1 :])
    return float(np.concatenate(found).mean())


def test_a_trial_equals_whole_runs(program: Program) -> None:
    probe = Probe(program, windows(), TensorStore())
    assert probe.divergence == 0
    for tensor in program.weights():
        changed = {tensor.name: quantized(program, tensor.name, C3)}
        expected = whole(program, changed)
        assert expected > 1e-6
        assert probe.try_out(changed).divergence == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert probe.try_out({}).divergence == pytest.approx(0, abs=1e-9)


def test_the_probe_goes_where_it_is_taken(program: Program) -> None:
    names = [tensor.name for tensor in program.weights()]
    probe = Probe(program, windows(), TensorStore())
    every = {name: quantized(program, name, C4) for name in names}
    assert probe.adopt(every) == pytest.approx(whole(program, every), rel=1e-3)
    # a late weight first, then an early one: its run must see the late one's change
    for name in (names[-2], names[2], names[0]):
        change = {name: quantized(program, name, C3)}
        before = probe.divergence
        trial = probe.try_out(change)
        assert probe.divergence == before
        every |= change
        probe.keep(trial)
        assert probe.divergence == trial.divergence
        assert probe.divergence == pytest.approx(whole(program, every), rel=1e-3)


def test_a_probe_needs_windows_of_one_length_that_are_scored(program: Program) -> None:
    for bad in (windows(2, UNSCORED), [*windows(1, 40), *windows(1, 41)]):
        with pytest.raises(InvalidArgumentError, match="windows of one length above 32"):
            Probe(program, bad, TensorStore())


def test_likeliest_tokens_give_the_divergence_or_a_bound() -> None:
    random = np.random.default_rng(1)
    reference, candidate = random.standard_normal((2, 5, 40)) * 3
    p, q = log_softmax(reference), log_softmax(candidate)
    exact = (np.exp(p) * (p - q)).sum(axis=1)
    first, second = torch.from_numpy(reference), torch.from_numpy(candidate)
    assert kl_from(keep_likeliest(first, 40), second).numpy() == pytest.approx(exact)
    assert kl_from(keep_likeliest(first, 4000), second).numpy() == pytest.approx(exact)
    few = kl_from(keep_likeliest(first, 12), second).numpy()
    kept = np.argsort(-p, axis=1)[:, :12]
    merged = []
    for row in range(5):
        groups = [[i] for i in kept[row]] + [sorted(set(range(40)) - set(kept[row]))]
        a, b = (np.array([np.exp(x[row][g]).sum() for g in groups]) for x in (p, q))
        merged.append((a * np.log(a / b)).sum())
    assert few == pytest.approx(merged) and bool((few <= exact + 1e-12).all())
    assert kl_from(keep_likeliest(first, 12), first).numpy() == pytest.approx(0, abs=1e-12)


def test_tables_have_bytes_and_errors_and_read_each_weight_once(program: Program) -> None:
    name = [tensor.name for tensor in program.weights()][1]
    tensor, reads = program.tensors[name], []
    assert isinstance(tensor.source, Weight)
    load = tensor.source.load

    def counted() -> NDArray[np.float32]:
        reads.append(1)
        return load()

    source = replace(tensor.source, load=counted)
    watched = program.with_tensors({name: replace(tensor, source=source)})
    h = np.linspace(0.1, 3, tensor.shape[1])
    held: list[Quantized] = []
    statistics = Statistics({name: h}, 1)

    def hold(one: Quantized) -> Quantized:
        held.append(one)
        return one

    done: list[int] = []
    tables = tabulate(watched, {name: [Q8, C3, C4]}, Quantizer(statistics, 1, hold), done.append)
    assert [one.encoding for one in tables[name]] == [C3, C4, Q8] and done == [1]
    assert len(reads) == 1 and len(held) == 3
    w = load().astype(np.float64)
    for one in tables[name]:
        e = w - dequantize(one.quantized)
        expected = (e * e * (h / h.mean())).sum() / (w * w * (h / h.mean())).sum()
        assert one.error == pytest.approx(expected, rel=1e-4)
    bad = watched.with_tensors({name: replace(tensor, source=None)})
    with pytest.raises(InvalidArgumentError, match="already quantized"):
        tabulate(bad, {name: [C3]}, Quantizer(NO_STATISTICS))


def test_units_are_measured_alone_at_their_anchors(program: Program) -> None:
    names = [tensor.name for tensor in program.weights()]
    options = {name: [C3, C4, Q8] for name in names[1:4]} | {names[0]: [Q8]}
    tables = tabulate(program, options, Quantizer(NO_STATISTICS))
    measured = measure_units(Probe(program, windows(), TensorStore()), tables)
    assert {name: sorted(found) for name, found in measured.items()} == {
        **{name: [0, 1] for name in names[1:4]},
        names[0]: [0],
    }
    for name, found in measured.items():
        for index, divergence in found.items():
            expected = whole(program, {name: tables[name][index].quantized})
            assert divergence == pytest.approx(expected, rel=1e-2, abs=1e-8)


def test_what_is_picked_beyond_the_anchors_is_measured(program: Program) -> None:
    names = [tensor.name for tensor in program.weights()][1:4]
    options = {name: [Encoding(Dtype.C2), C3, C4, Q8] for name in names}
    tables = tabulate(program, options, Quantizer(NO_STATISTICS))
    probe = Probe(program, windows(), TensorStore())
    measured = measure_units(probe, tables)
    assert measure_beyond(probe, tables, (0, 1, 3), measured) == 1
    assert [sorted(measured[name]) for name in names] == [[0, 1, 2], [1, 2], [1, 2]]
    expected = whole(program, {names[0]: tables[names[0]][0].quantized})
    assert measured[names[0]][0] == pytest.approx(expected, rel=1e-2)
    assert measure_beyond(probe, tables, (0, 2, 3), measured) == 0


def test_prediction_follows_a_law_and_keeps_what_was_measured() -> None:
    errors = np.array([0.1, 0.03, 0.012, 0.007, 0.002, 1e-4])
    law = 0.4 * errors
    assert predict_divergence(errors, {1: law[1], 3: law[3]}) == pytest.approx(law)
    # 0.5 at the larger error, 0.3 at the smaller: each keeps its own beyond, between it is between
    found = predict_divergence(errors, {1: 0.5 * errors[1], 3: 0.3 * errors[3]})
    assert found[[0, 1]] == pytest.approx(0.5 * errors[:2])
    assert found[3:] == pytest.approx(0.3 * errors[3:])
    assert 0.3 * errors[2] < found[2] < 0.5 * errors[2]
    assert predict_divergence(np.array([0.0, 0.0]), {0: 0.0})[1] == 0.0


def regression(y: Sequence[float]) -> Floats:
    """Return the nearest rising sequence: the best cut into blocks of equal value."""
    best, least = np.zeros(len(y)), np.inf
    for cuts in itertools.product([False, True], repeat=len(y) - 1):
        ends = [0, *[i + 1 for i, cut in enumerate(cuts) if cut], len(y)]
        blocks = list(itertools.pairwise(ends))
        means = [float(np.mean(y[a:b])) for a, b in blocks]
        fitted = np.repeat(means, [b - a for a, b in blocks])
        error = float(((fitted - y) ** 2).sum())
        if means == sorted(means) and error < least:
            best, least = fitted, error
    return best


@pytest.mark.parametrize("seed", range(5))
def test_prediction_never_rises_while_the_error_falls(seed: int) -> None:
    random = np.random.default_rng(seed)
    errors = np.sort(random.uniform(0.01, 0.1, 6))[::-1]
    measured = random.uniform(0.01, 0.1, 6)
    found = predict_divergence(errors, dict(enumerate(measured)))
    assert found == pytest.approx(regression(measured[::-1].tolist())[::-1])
    shuffled = random.permutation(6)
    again = predict_divergence(errors[shuffled], dict(enumerate(measured[shuffled])))
    assert again == pytest.approx(found[shuffled])
