# SPDX-License-Identifier: Apache-2.0
"""Formats under budgets: limits that are those of the file, and mixes no worse than one format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS, calibrate
from ingot_compressor.evaluate import UNSCORED, log_softmax
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.job import CompressOptions, prepare_job
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.knapsack import Row
from ingot_compressor.passes import mixed
from ingot_compressor.passes.assignment import Problem, pareto_curve, uniform_picks
from ingot_compressor.passes.budgets import WEIGHT_TIME_SHARE, Budgets, limit_rows
from ingot_compressor.passes.emit import contents, weight_bytes_per_token
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.mixed import Choice, Evidence, choose_formats, format_choice
from ingot_compressor.passes.probe import Probe
from ingot_compressor.passes.quantize import (
    BUDGET_FORMATS,
    Choices,
    assign,
    body_names,
    measure_sizes,
    quantize,
)
from ingot_compressor.passes.sensitivity import (
    Quantizer,
    measure_units,
    predict_divergence,
    tabulate,
)
from ingot_compressor.passes.swaps import refine
from ingot_compressor.progress import SilentProgress
from tests.compressor.tiny_models import LLAMA, write_checkpoint

C4, Q4, Q8 = Encoding(Dtype.C4, search=False), Encoding(Dtype.Q4), Encoding(Dtype.Q8)
CHOICES = Choices(C4, Q8, Q8)
WIDE = {**LLAMA, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
QUANTIZER = Quantizer(NO_STATISTICS)
RATES = {dtype: 1e6 for dtype, _ in BUDGET_FORMATS}


def silence(program: Program, name: str) -> Program:
    """Return the program with a weight of zeros: what only it reads has no effect."""
    tensor = program.tensors[name]
    zeros = np.zeros(tensor.shape, np.float32)
    source = Weight("zeros", (tensor.shape[0], tensor.shape[1]), lambda: zeros)
    return program.with_tensors({name: replace(tensor, source=source)})


@pytest.fixture(scope="module", params=["untied", "tied"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    values = {**WIDE, "tie_word_embeddings": request.param == "tied"}
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param) / "m", values, deviation=0.08)
    program = fuse(import_checkpoint(folder).program)
    return silence(program, "layers.1.attention.o")


def windows(seed: int, count: int = 2) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 301, 48) for _ in range(count)]


def evidence(swaps: int = 8) -> Evidence:
    return Evidence(QUANTIZER, TensorStore(), windows(1), windows(2), SilentProgress(), swaps)


def choose(program: Program, budgets: Budgets, free_head: bool = False, swaps: int = 8) -> Choice:
    return choose_formats(program, CHOICES, budgets, evidence(swaps), free_head)


def measured(program: Program, encodings: Mapping[str, Encoding]) -> float:
    """Return the mean KL of whole runs on the held-out windows."""
    weights = {
        tensor.name: torch.from_numpy(dequantize(tensor.source))
        for tensor in quantize(program, encodings, NO_STATISTICS).weights()
        if isinstance(tensor.source, Quantized)
    }
    return float(np.mean([measured_by(program, window, weights) for window in windows(2)]))


def measured_by(
    program: Program, window: NDArray[np.int64], weights: Mapping[str, torch.Tensor]
) -> float:
    """Return the mean KL of a window's scored positions with other weights."""
    tokens = torch.from_numpy(window)[None]
    p, q = (
        log_softmax(execute(program, tokens, weights=replaced)[0].numpy())
        for replaced in ({}, weights)
    )
    return float((np.exp(p) * (p - q)).sum(axis=1)[UNSCORED - 1 :].mean())


def uniform(program: Program, dtype: Dtype, group: int) -> dict[str, Encoding]:
    body = replace(C4, dtype=dtype, group=group)
    return assign(program, replace(CHOICES, body=body))


# ---- limits ----


@pytest.mark.parametrize("values", [WIDE, LLAMA, {**LLAMA, "tie_word_embeddings": True}])
def test_rows_are_what_the_file_and_its_plan_say(values: dict[str, object], tmp_path: Path) -> None:
    program = fuse(import_checkpoint(write_checkpoint(tmp_path / "m", values)).program)
    encodings = uniform(program, Dtype.C3, 32)
    quantized = quantize(program, encodings, NO_STATISTICS)
    written = contents(quantized, {})
    limits = Budgets(bits=9, file_bytes=10**9, ram_bytes=10**9, decode=1, decode_rates=RATES)
    options = {name: [one] for name, one in encodings.items()}
    rows = {row.name: row for row in limit_rows(program, options, limits)}
    spare = {name: row.limit - row.total([0] * len(options)) for name, row in rows.items()}
    bits = measure_sizes(program, encodings).bits_per_weight_body
    assert 9 - spare["bits"] == pytest.approx(bits)
    # the gap behind the last tensor is not written
    assert 0 <= 10**9 - spare["file"] - written.weights_size < 256
    assert 0 <= 10**9 - spare["ram"] - written.peaks[-1].peak_bytes < 256
    seconds = WEIGHT_TIME_SHARE - spare["decode"]
    assert seconds == pytest.approx(weight_bytes_per_token(quantized) / 1e6)


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (Budgets(bits=2.0), r"--bpw 2\.000 is below 2\.\d+, the least that the built formats"),
        (Budgets(file_bytes=9000), r"--max-bytes 9000 is below \d{6}, the least"),
        (Budgets(ram_bytes=9000), r"--max-ram 9000 is below \d{6}, the least"),
        (
            Budgets(decode=1e5, decode_rates=RATES),
            r"--min-decode 100000 is above \d+\.\d\d tokens per second",
        ),
        (Budgets(mean_kl=1e-13), r"--max-kl 1e-13 is below"),
    ],
)
def test_what_cannot_be_met_says_what_can(program: Program, budgets: Budgets, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        choose(program, budgets)


def test_the_least_that_an_error_names_is_possible(program: Program) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        choose(program, Budgets(file_bytes=9000, beside_weights=1000))
    least = int(str(error.value).split(" below ")[1].split(",")[0])
    found = choose(program, Budgets(file_bytes=least, beside_weights=1000), swaps=0)
    assert {found.encodings[name].dtype for name in body_names(program)} == {Dtype.C2}
    with pytest.raises(InvalidArgumentError):
        choose(program, Budgets(file_bytes=least - 1, beside_weights=1000))


def test_impossible_budgets_are_refused_before_anything_is_read(program: Program) -> None:
    def load() -> NDArray[np.float32]:
        raise AssertionError("a weight was read")

    unread = program.with_tensors(
        {
            tensor.name: replace(tensor, source=Weight("x", (1, 1), load))
            for tensor in program.weights()
        }
    )
    with pytest.raises(InvalidArgumentError, match="--bpw"):
        choose(unread, Budgets(bits=1.5))


# ---- choices ----


def test_no_format_alone_is_better_at_its_size(program: Program) -> None:
    for dtype, group in BUDGET_FORMATS[:5]:
        alone = uniform(program, dtype, group)
        bits = measure_sizes(program, alone).bits_per_weight_body
        choice = choose(program, Budgets(bits=bits))
        assert choice.sizes.bits_per_weight_body <= bits
        assert choice.divergence == pytest.approx(measured(program, choice.encodings), rel=1e-3)
        assert choice.divergence <= measured(program, alone) * (1 + 1e-6)
        assert choice.encodings[program.head()] == Q8


def test_a_misled_mix_gives_way_to_one_format(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions that are upside down make a bad mix; what is measured decides."""

    def upside_down(errors: NDArray[np.float64], known: Mapping[int, float]) -> NDArray[np.float64]:
        return np.asarray(errors / (1e-9 + max(known.values())) ** 2)

    monkeypatch.setattr(mixed, "predict_divergence", upside_down)
    bits = measure_sizes(program, uniform(program, Dtype.C4, 32)).bits_per_weight_body
    choice = choose(program, Budgets(bits=bits), swaps=0)
    found = {one.name: one.divergence for one in choice.compared}
    assert found["mix"] > 1.5 * found["c4"]
    assert choice.divergence == pytest.approx(found["c4"])
    assert choice.encodings == uniform(program, Dtype.C4, 32)


def test_weights_without_effect_get_the_fewest_bits(program: Program) -> None:
    choice = choose(program, Budgets(bits=4.3), swaps=0)
    silent = [f"layers.1.attention.{part}" for part in "qkv"]
    assert {choice.encodings[name].dtype for name in silent} == {Dtype.C2}
    rest = [name for name in body_names(program) if "layers.1.attention" not in name]
    assert all(choice.encodings[name].dtype is not Dtype.C2 for name in rest)
    rows = {one.name: one for one in choice.tensors}
    assert all(rows[name].divergence < 1e-8 < rows[rest[0]].divergence for name in silent)


def test_the_mix_is_the_best_of_all_that_fit(program: Program) -> None:
    """By predicted divergence, against every assignment of four weights and the rest fixed."""
    names = list(body_names(program))[:4]
    options = {name: [replace(C4, dtype=d, group=g) for d, g in BUDGET_FORMATS] for name in names}
    tables = tabulate(program, options, QUANTIZER)
    losses = tuple(np.array([one.error for one in found]) for found in tables.values())
    sizes = tuple(np.array([float(one.stored_bytes) for one in t]) for t in tables.values())
    problem = Problem(program, tables, losses, ())
    grids = np.meshgrid(*(np.arange(7) for _ in names), indexing="ij")
    cost = sum(loss[grid] for loss, grid in zip(losses, grids, strict=True))
    size = sum(s[grid] for s, grid in zip(sizes, grids, strict=True))
    for point in _curve(problem):
        best = np.min(np.asarray(cost)[np.asarray(size) <= point[0]])
        assert point[1] == pytest.approx(best, rel=1e-4)


def _curve(problem: Problem) -> list[tuple[int, float]]:
    """Return size and loss of the curve of a problem of some weights, the others left out."""
    whole = problem.program
    kept = {name: whole.tensors[name] for name in problem.tables}
    part = replace(problem, program=_Part(whole, kept))  # type: ignore[arg-type]
    return [(point.weight_bytes, point.divergence) for point in pareto_curve(part)]


class _Part:
    """A program of which only some weights count."""

    def __init__(self, whole: Program, kept: Mapping[str, object]) -> None:
        self._whole, self._kept = whole, kept
        self.tensors, self.operations = whole.tensors, whole.operations

    def weights(self) -> list[object]:
        return list(self._kept.values())

    def head(self) -> str:
        return self._whole.head()

    def embedding(self) -> str:
        return self._whole.embedding()


def test_the_curve_falls_while_the_size_rises(program: Program) -> None:
    curve = choose(program, Budgets(bits=5), swaps=0).curve
    sizes, losses = [p.weight_bytes for p in curve], [p.divergence for p in curve]
    assert sizes == sorted(set(sizes)) and losses == sorted(losses, reverse=True)
    assert len(curve) > 6 and losses[0] > 50 * losses[-1]


def test_swaps_repair_a_bad_start(program: Program) -> None:
    """A weight without effect has eight bits, one that matters two: they must change places."""
    options = {
        name: [replace(C4, dtype=d, group=g) for d, g in BUDGET_FORMATS]
        for name in body_names(program)
    }
    tables = tabulate(program, options, QUANTIZER)
    names = list(tables)
    silent, loud = names.index("layers.1.attention.q"), names.index("layers.0.attention.v")
    measured_units = measure_units(Probe(program, windows(1), TensorStore()), tables)
    losses = tuple(
        predict_divergence(np.array([one.error for one in found]), measured_units[name])
        for name, found in tables.items()
    )
    picked = tuple({silent: 6, loud: 0}.get(unit, 3) for unit in range(len(names)))
    sizes = tuple(np.array([float(one.stored_bytes) for one in t]) for t in tables.values())
    row = Row("bytes", sizes, sum(s[i] for s, i in zip(sizes, picked, strict=True)))
    problem = Problem(program, tables, losses, (row,))
    probe = Probe(program, windows(2), TensorStore())
    before = probe.adopt(problem.codes(picked))
    seen: list[int] = []
    refined = refine(problem, probe, picked, 12, seen.append)
    assert refined.divergence < 0.7 * before and 1 < refined.kept <= refined.tried <= 12
    assert row.total(refined.picked) <= row.limit and seen[-1] == 12
    assert refined.picked[silent] < picked[silent] and refined.picked[loud] > picked[loud]
    assert refine(problem, probe, refined.picked, 10).divergence <= refined.divergence
    weights = {n: torch.from_numpy(dequantize(q)) for n, q in problem.codes(refined.picked).items()}
    found = [measured_by(program, window, weights) for window in windows(2)]
    assert refined.divergence == pytest.approx(np.mean(found), rel=1e-3)


def test_head_and_embedding_keep_six_bits_unless_nothing_fits(program: Program) -> None:
    apart = {program.head(), program.embedding()}
    roomy = choose(program, Budgets(file_bytes=10**7), free_head=True, swaps=0)
    assert {roomy.encodings[name].dtype for name in apart} == {Dtype.Q8}
    six = limit_rows(
        program,
        {
            tensor.name: [replace(C4, dtype=Dtype.Q6 if tensor.name in apart else Dtype.C2)]
            for tensor in program.weights()
        },
        Budgets(file_bytes=0),
    )[0]
    least = int(six.total([0] * len(six.amounts)) - six.limit)
    tight = choose(program, Budgets(file_bytes=least), free_head=True, swaps=0)
    assert {tight.encodings[name].dtype for name in apart} == {Dtype.Q6}
    tighter = choose(program, Budgets(file_bytes=least - 256), free_head=True, swaps=0)
    assert not {tighter.encodings[name].dtype for name in apart} <= {Dtype.Q6, Dtype.Q8}


def test_a_divergence_is_kept_with_few_bytes(program: Program) -> None:
    limit = 1.2 * measured(program, uniform(program, Dtype.C4, 32))
    choice = choose(program, Budgets(mean_kl=limit))
    assert choice.divergence is not None and choice.divergence <= limit
    assert measured(program, choice.encodings) == pytest.approx(choice.divergence, rel=1e-3)
    c4 = measure_sizes(program, uniform(program, Dtype.C4, 32))
    assert choice.sizes.weight_bytes < c4.weight_bytes
    with pytest.raises(InvalidArgumentError, match="--max-kl is measured: give a longer"):
        choose_formats(program, CHOICES, Budgets(mean_kl=1), replace(evidence(), held_out=[]))


def test_speed_counts_for_each_format(program: Program) -> None:
    """Where one format is read a hundred times as fast, a tight limit of time takes it."""
    rates = {**RATES, Dtype.C5: 1e8, Dtype.Q8: 1e8}
    choice = choose(program, Budgets(decode=100, decode_rates=rates), swaps=0)
    found = {choice.encodings[name].dtype for name in body_names(program)}
    assert found <= {Dtype.C5, Dtype.Q8, Dtype.C2} and found & {Dtype.C5, Dtype.Q8}


def test_without_a_text_the_errors_decide(program: Program) -> None:
    nothing = replace(evidence(), windows=[], held_out=[])
    choice = choose_formats(program, CHOICES, Budgets(bits=5.0), nothing)
    assert choice.divergence is None and choice.compared == ()
    assert 4.8 < choice.sizes.bits_per_weight_body <= 5.0
    assert choice.predicted == pytest.approx(sum(one.error for one in choice.tensors))


def test_it_is_the_same_every_time_and_can_be_read(program: Program) -> None:
    first, second = (choose(program, Budgets(bits=4.0)) for _ in range(2))
    assert first == second
    text = format_choice(first)
    assert all(f"\n{name}  " in text for name in body_names(program))
    assert {"mix", "c2", "c3"} <= {one.name for one in first.compared}
    own = next(one for one in first.tensors if one.name == body_names(program)[0])
    assert own.lower is None or (own.lower[1] < 0 < own.lower[2])
    assert own.higher is None or (own.higher[1] > 0 > own.higher[2])


def test_uniform_assignments_are_those_that_fit(program: Program) -> None:
    options = {t.name: [C4, Q8] for t in program.weights()}
    tables = tabulate(program, options, QUANTIZER)
    losses = tuple(np.array([one.error for one in found]) for found in tables.values())
    rows = limit_rows(program, options, Budgets(bits=5.0))
    found = uniform_picks(Problem(program, tables, losses, tuple(rows)))
    assert list(found) == ["c4"]
    assert [options[name][i].dtype for name, i in zip(tables, found["c4"], strict=True)] == [
        Dtype.C4 if name in body_names(program) else Dtype.Q8 for name in tables
    ]


@pytest.mark.slow
def test_a_mix_of_lantern_loses_less_than_one_format(repo_root: Path, tmp_path: Path) -> None:
    """On text that took no part in the choice, at no more bits than q4 alone."""
    source = repo_root / "examples" / "models" / "lantern"
    job = prepare_job(CompressOptions(source, tmp_path / "x.ingot"), SilentProgress())
    assert job.calibration is not None and job.evaluation is not None
    own = [window[:160] for window in job.windows(job.calibration, 2048)]
    other = [window[:256] for window in job.windows(job.evaluation, 2048)]
    statistics = calibrate(job.program, own, TensorStore())
    choices = replace(job.choices, body=replace(job.choices.body, search=False))
    part = Evidence(
        Quantizer(statistics), TensorStore(), own[:2], own[2:], SilentProgress(), swaps=4
    )
    body = replace(choices.body, dtype=Dtype.Q4, group=128)
    alone = assign(job.program, replace(choices, body=body))
    bits = measure_sizes(job.program, alone).bits_per_weight_body
    choice = choose_formats(job.program, choices, Budgets(bits=bits), part)
    judge = Probe(job.program, other, TensorStore())
    found, single = (
        judge.adopt(
            {
                tensor.name: tensor.source
                for tensor in quantize(job.program, encodings, statistics).weights()
                if isinstance(tensor.source, Quantized)
            }
        )
        for encodings in (choice.encodings, alone)
    )
    assert found < 0.92 * single
    assert choice.sizes.bits_per_weight_body <= bits
    assert choice.divergence == pytest.approx(choice.predicted, rel=0.15)
