# SPDX-License-Identifier: Apache-2.0
"""A format for every weight under budgets of bits, bytes, memory, speed or divergence.

Source: compression study, section 3 (KL-MCKP): sensitivities by swapping in one weight at a time
(exllamav3, HIGGS arXiv:2411.17525), a multiple-choice knapsack, measured swaps (EvoPress
arXiv:2410.14649).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot_compressor.execute import TensorStore
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.knapsack import InfeasibleError, Row, solve_knapsack
from ingot_compressor.passes.assignment import (
    CurvePoint,
    Picked,
    Problem,
    pareto_curve,
    uniform_picks,
)
from ingot_compressor.passes.budgets import Budgets, limit_rows
from ingot_compressor.passes.probe import Probe
from ingot_compressor.passes.quantize import (
    BUDGET_FORMATS,
    Choices,
    Sizes,
    assign,
    body_names,
    stored_bytes,
)
from ingot_compressor.passes.sensitivity import (
    Quantizer,
    Tables,
    measure_beyond,
    measure_units,
    predict_divergence,
    tabulate,
)
from ingot_compressor.passes.swaps import refine
from ingot_compressor.progress import Progress

__all__ = ["Choice", "Evidence", "Measured", "TensorChoice", "choose_formats", "format_choice"]

# Head and embedding get at least six bits unless no budget leaves room for that.
HEAD_FORMATS = (Dtype.Q6, Dtype.Q8)
ROUNDS = 6
# Mixes of which what lies beyond the anchors is measured before they are final.
CHECKS = 2
# A mix this near below the divergence asked for is near enough.
NEAR = 0.97

Windows = Sequence[NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a choice is made on: the weights' statistics and two sets of windows of a text.

    `windows` give the sensitivities, `held_out` compare whole assignments; without them
    weighted relative errors decide. Shapes: windows each (t,) int64, of one length.
    """

    quantizer: Quantizer
    store: TensorStore
    windows: Windows
    held_out: Windows
    progress: Progress
    swaps: int = 40


@dataclass(frozen=True, slots=True)
class TensorChoice:
    """What one weight got and why. Units: bytes, nats.

    `lower` and `higher` are the next formats with the bytes and the predicted divergence that they
    would add; None at the end of the candidates.
    """

    name: str
    format: str
    stored_bytes: int
    error: float
    divergence: float
    lower: tuple[str, int, float] | None
    higher: tuple[str, int, float] | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole assignment on the held-out windows. Units: bits per weight of the body, nats."""

    name: str
    bits_per_weight_body: float
    weight_bytes: int
    predicted: float
    divergence: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The result: encodings by name, what is expected of them, and what else could be had.

    `divergence` is measured on the held-out windows, None where there was no text. `compared` has
    the mix and the uniform assignments within the same limits; the result is never worse than the
    best of them there.
    """

    encodings: dict[str, Encoding]
    sizes: Sizes
    predicted: float
    divergence: float | None
    tensors: tuple[TensorChoice, ...]
    compared: tuple[Measured, ...]
    curve: tuple[CurvePoint, ...]
    swaps_kept: int

    def to_json(self) -> dict[str, Any]:
        """Return it without the encodings, which are those of the tensors."""
        return {
            "predicted": self.predicted,
            "divergence": self.divergence,
            "sizes": asdict(self.sizes),
            "tensors": [asdict(one) for one in self.tensors],
            "compared": [asdict(one) for one in self.compared],
            "curve": [asdict(one) for one in self.curve],
            "swaps_kept": self.swaps_kept,
        }


def choose_formats(
    program: Program,
    choices: Choices,
    budgets: Budgets,
    evidence: Evidence,
    free_head: bool = False,
) -> Choice:
    """Return the formats that lose least within the budgets, or, for a divergence, the smallest.

    The body takes any of BUDGET_FORMATS with the settings of `choices.body`; head and embedding
    theirs of `choices`, or with `free_head` six and eight bits, or anything if that does not fit.
    Raises: InvalidArgumentError naming the budget that cannot be met and what is possible.
    Cost: one quantization of every weight in each format, two to four runs of half the model for
        each weight, `swaps` more, and a run for each uniform format; on the windows given.
    """
    options, rows = _feasible(program, choices, budgets, free_head)
    if budgets.mean_kl is not None and not (evidence.windows and evidence.held_out):
        raise InvalidArgumentError("--max-kl is measured: give a longer --calibration TEXT")
    with evidence.progress.stage("Weighing formats", len(options)) as done:
        tables = tabulate(program, options, evidence.quantizer, done)
    problem = Problem(program, tables, _errors(tables), tuple(rows))
    if not evidence.windows or not evidence.held_out:
        picked = solve_knapsack(problem.divergences, problem.rows)
        return _choice(problem, picked, None, (), 0)
    problem = _measured_problem(problem, budgets, evidence)
    probe = Probe(program, evidence.held_out, evidence.store)
    if budgets.mean_kl is not None:
        return _smallest(problem, probe, budgets, evidence.progress)
    return _best(problem, probe, evidence)


def _feasible(
    program: Program, choices: Choices, budgets: Budgets, free_head: bool
) -> tuple[dict[str, list[Encoding]], list[Row]]:
    """Return the candidates of each weight and the limits, before anything is quantized."""
    apart: list[tuple[Dtype, ...]] = [()]
    if free_head:
        apart = [HEAD_FORMATS, tuple(dtype for dtype, _ in BUDGET_FORMATS)]
    for index, formats in enumerate(apart):
        options = _options(program, choices, formats)
        rows = limit_rows(program, options, budgets)
        zeros = [np.zeros(len(encodings)) for encodings in options.values()]
        try:
            solve_knapsack(zeros, rows)
        except InfeasibleError as error:
            if index == len(apart) - 1:
                raise budgets.explain(error) from error
            continue
        break
    return options, rows


def _options(
    program: Program, choices: Choices, apart: tuple[Dtype, ...]
) -> dict[str, list[Encoding]]:
    """Return the candidates of each weight, rising in stored bytes."""
    body, given = set(body_names(program)), assign(program, choices)
    options: dict[str, list[Encoding]] = {}
    for tensor in program.weights():
        own = given[tensor.name]
        found = [
            replace(own, dtype=dtype, group=group)
            for dtype, group in BUDGET_FORMATS
            if tensor.name in body or dtype in apart
        ]
        shape = tensor.shape
        options[tensor.name] = sorted(found or [own], key=lambda one: stored_bytes(shape, one))
    return options


def _errors(tables: Tables) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.array([one.error for one in found]) for found in tables.values())


def _measured_problem(problem: Problem, budgets: Budgets, evidence: Evidence) -> Problem:
    """Return the problem with divergences: measured at the anchors, the others predicted.

    Beyond the anchors a prediction falls short: what the first mixes take there is measured too.
    """
    probe = Probe(problem.program, evidence.windows, evidence.store)
    tables, limit = problem.tables, budgets.mean_kl
    with evidence.progress.stage("Measuring sensitivity", (1 + CHECKS) * len(tables)) as done:
        measured = measure_units(probe, tables, done)
        for number in range(1, 1 + CHECKS):
            problem = replace(problem, divergences=_predicted(tables, measured))
            try:
                picked = _solve(problem, limit)
            except InfeasibleError:  # told where the divergence is looked for
                break
            measure_beyond(probe, tables, picked, measured)
            done((1 + number) * len(tables))
        done((1 + CHECKS) * len(tables))
    return replace(problem, divergences=_predicted(tables, measured))


def _predicted(
    tables: Tables, measured: Mapping[str, Mapping[int, float]]
) -> tuple[NDArray[np.float64], ...]:
    return tuple(
        predict_divergence(errors, measured[name])
        for name, errors in zip(tables, _errors(tables), strict=True)
    )


def _solve(problem: Problem, mean_kl: float | None) -> Picked:
    """Return the least divergence within the limits, or the fewest bytes within a divergence."""
    if mean_kl is None:
        return solve_knapsack(problem.divergences, problem.rows)
    row = Row("kl", problem.divergences, mean_kl)
    return solve_knapsack(problem.bytes(), [*problem.rows, row])


def _best(problem: Problem, probe: Probe, evidence: Evidence) -> Choice:
    """Return the least divergence within the limits: mix, uniform formats, then swaps."""
    mix = _solve(problem, None)
    contenders = {"mix": mix, **uniform_picks(problem)}
    with evidence.progress.stage("Comparing mixes", len(contenders)) as done:
        compared = []
        for name, picked in contenders.items():
            compared.append(_measure(problem, probe, name, picked))
            done(len(compared))
    winner = min(compared, key=lambda one: one.divergence)
    start = contenders[winner.name]
    probe.adopt(problem.codes(start))
    with evidence.progress.stage("Swapping formats", evidence.swaps) as done:
        refined = refine(problem, probe, start, evidence.swaps, done)
    return _choice(problem, refined.picked, refined.divergence, tuple(compared), refined.kept)


def _smallest(problem: Problem, probe: Probe, budgets: Budgets, progress: Progress) -> Choice:
    """Return the smallest assignment whose measured divergence is within the one asked for.

    The predicted sum is held below an aim, which is corrected by what the last mix measured.
    """
    limit = aim = budgets.mean_kl or 0.0
    compared: list[Measured] = []
    found: list[tuple[Measured, Picked]] = []
    with progress.stage("Comparing mixes", ROUNDS) as done:
        for number in range(ROUNDS):
            try:
                picked = _solve(problem, aim)
            except InfeasibleError as error:
                if not compared:
                    raise budgets.explain(error) from error
                break
            found.append((_measure(problem, probe, f"mix {number + 1}", picked), picked))
            compared.append(found[-1][0])
            done(number + 1)
            if NEAR * limit <= compared[-1].divergence <= limit:
                break
            aim *= limit / max(compared[-1].divergence, 1e-12)
        for name, uniform in uniform_picks(problem).items():
            found.append((_measure(problem, probe, name, uniform), uniform))
            compared.append(found[-1][0])
        done(ROUNDS)
    good = [(one, picked) for one, picked in found if one.divergence <= limit]
    if not good:
        least = min(one.divergence for one in compared)
        raise InvalidArgumentError(
            f"--max-kl {limit:g} is below {least:.3g}, the least that was measured"
        )
    best, picked = min(good, key=lambda pair: (pair[0].weight_bytes, pair[0].divergence))
    return _choice(problem, picked, best.divergence, tuple(compared), 0)


def _measure(problem: Problem, probe: Probe, name: str, picked: Picked) -> Measured:
    sizes = problem.sizes(picked)
    divergence = probe.adopt(problem.codes(picked))
    predicted = problem.predicted(picked)
    return Measured(name, sizes.bits_per_weight_body, sizes.weight_bytes, predicted, divergence)


def _choice(
    problem: Problem,
    picked: Picked,
    divergence: float | None,
    compared: tuple[Measured, ...],
    swaps_kept: int,
) -> Choice:
    return Choice(
        encodings=problem.encodings(picked),
        sizes=problem.sizes(picked),
        predicted=problem.predicted(picked),
        divergence=divergence,
        tensors=tuple(_tensor_choice(problem, unit, at) for unit, at in enumerate(picked)),
        compared=compared,
        curve=pareto_curve(problem),
        swaps_kept=swaps_kept,
    )


def _tensor_choice(problem: Problem, unit: int, index: int) -> TensorChoice:
    name, candidates = list(problem.tables.items())[unit]
    losses, own = problem.divergences[unit], candidates[index]

    def neighbour(other: int) -> tuple[str, int, float] | None:
        if not 0 <= other < len(candidates):
            return None
        one = candidates[other]
        added = one.stored_bytes - own.stored_bytes
        return one.encoding.dtype.name.lower(), added, float(losses[other] - losses[index])

    return TensorChoice(
        name=name,
        format=own.encoding.dtype.name.lower(),
        stored_bytes=own.stored_bytes,
        error=own.error,
        divergence=float(losses[index]),
        lower=neighbour(index - 1),
        higher=neighbour(index + 1),
    )


def format_choice(choice: Choice) -> str:
    """Return the choice as text: one line for each weight, the comparison, the curve."""
    lines = ["weight  format  bytes  share of the divergence  one step down, one step up"]
    lines += [_tensor_line(one) for one in choice.tensors]
    lines.append("compared at the same limits: bits per weight, predicted and measured nats")
    lines += [
        f"{one.name}  {one.bits_per_weight_body:.3f}  {one.predicted:.3g}  {one.divergence:.3g}"
        for one in choice.compared
    ]
    lines.append("what could be had: bytes of weights, bits per weight, predicted nats")
    lines += [
        f"{one.weight_bytes}  {one.bits_per_weight_body:.3f}  {one.divergence:.3g}"
        for one in choice.curve
    ]
    measured = "" if choice.divergence is None else f", measured {choice.divergence:.3g}"
    lines.append(f"predicted {choice.predicted:.3g}{measured}; {choice.swaps_kept} swaps kept")
    return "\n".join(lines)


def _tensor_line(one: TensorChoice) -> str:
    steps = [
        f"{step[0]} {step[1]:+d} bytes {step[2]:+.2g} nats" if step else "-"
        for step in (one.lower, one.higher)
    ]
    share = f"{one.stored_bytes}  {one.divergence:.2g}"
    return f"{one.name}  {one.format}  {share}  {steps[0]}, {steps[1]}"
