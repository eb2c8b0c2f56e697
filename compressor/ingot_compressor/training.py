# SPDX-License-Identifier: Apache-2.0
"""The training that a recipe asks for, between the search and the packing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration_texts import rank_warning
from ingot_compressor.execute import execute
from ingot_compressor.ir import Program
from ingot_compressor.job import Job
from ingot_compressor.measure import open_store
from ingot_compressor.numerics.fake_quantize import FakeQuantized, Part
from ingot_compressor.numerics.gptq import GptqOptions
from ingot_compressor.numerics.ternary import is_ternary
from ingot_compressor.passes.block_methods import (
    BlockMethod,
    SolvedCodes,
    TrainedRounding,
    weight_of,
)
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.distill import DistillSettings, distill
from ingot_compressor.passes.guidance import token_weights
from ingot_compressor.passes.quantize import assign, body_elements, body_names
from ingot_compressor.passes.refine import BlockReport, refine_blocks
from ingot_compressor.passes.train_block import TrainSettings
from ingot_compressor.recipe import Distil, Rounding
from ingot_compressor.work import WorkFolder

__all__ = ["TrainingFacts", "refuse_untrained_ternary", "train"]

STATE, THEN_STATE = "distil", "distil-scales"
# Where rounding loses most: on the bundled model four groups gain 4 % of KL in c3 and 3 % in c2.
GUIDED = (Dtype.C3, Dtype.C2, Dtype.T2)


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What was trained and what came of it; goes into the certificate."""

    method: str = "nearest"
    blocks: tuple[BlockReport, ...] = ()
    divergence_before: float | None = None
    divergence_after: float | None = None
    losses: tuple[float, ...] = field(default=())

    def then(self, other: TrainingFacts) -> TrainingFacts:
        """Return the facts of both, one after the other."""
        first = "" if self.method == "nearest" else f"{self.method}; "
        before = self.divergence_before
        return TrainingFacts(
            first + other.method,
            self.blocks + other.blocks,
            other.divergence_before if before is None else before,
            self.divergence_after if other.divergence_after is None else other.divergence_after,
            self.losses + other.losses,
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures without the curve."""
        return {key: value for key, value in asdict(self).items() if key != "losses"}


def train(
    job: Job, quantized: Program, work: WorkFolder | None = None
) -> tuple[Program, TrainingFacts]:
    """Return the program with better codes, as the recipe's rounding and distil sections say.

    A model small enough to be trained as a whole is, from what GPTQ found; a larger one block by
    block. A recipe without these sections, or a job without calibration text, leaves the program as
    it is. Finished parts are kept in `work` and read from there.
    Raises: InvalidArgumentError if the text is too short; StorageError for the work folder.
    """
    recipe, found = job.recipe, _weights(quantized)
    trainable = [name for name in body_names(job.program) if found[name].dtype is not Dtype.F16]
    if recipe.rounding is None and recipe.distil is None:
        return quantized, TrainingFacts()
    if job.calibration is None:
        job.warnings.append("no calibration text: nothing was trained; give --calibration TEXT")
        return quantized, TrainingFacts()
    facts, better = TrainingFacts(), found
    for step in _steps(job, sum(found[name].codes.size for name in trainable)):
        if isinstance(step, Distil):
            better, done = _distil(job, step, better, trainable, work)
        else:
            better, done = _refine(job, *step, better, work)
        facts = facts.then(done)
    changed = {n: replace(quantized.tensors[n], source=better[n]) for n in trainable}
    return quantized.with_tensors(changed), facts


def _steps(job: Job, elements: int) -> Iterator[Distil | tuple[Rounding, str]]:
    """Yield what is done in turn: a model that is trained as a whole is not trained by blocks."""
    rounding, distil = job.recipe.rounding, job.recipe.distil
    whole = distil is not None and elements <= distil.most_weights
    for method in rounding.methods if rounding is not None else ():
        if rounding is not None and (method == "gptq" or (method == "trained" and not whole)):
            yield rounding, method
    if distil is not None and whole:
        yield distil


def refuse_untrained_ternary(job: Job) -> None:
    """Refuse t2 for weights that are neither ternary already nor trained to be.

    Rounding to three levels leaves nothing of a model that was not made for them.
    Raises: InvalidArgumentError naming a weight; with --allow-failing it is a warning.
    """
    formats = assign(job.program, job.choices)
    body = set(body_names(job.program))
    whole = any(isinstance(step, Distil) for step in _steps(job, body_elements(job.program)))
    distil = job.recipe.distil
    moved = distil is not None and distil.moves_weights and whole and job.calibration is not None
    for tensor in job.program.weights():
        inside = tensor.name in body
        if formats[tensor.name].dtype is not Dtype.T2 or (
            inside and (moved or job.options.budgeted)
        ):
            continue
        if not is_ternary(weight_of(tensor)):
            message = (
                f"format t2 for '{tensor.name}': its weights are not ternary and not trained to be:"
                " for linear layers take --preset tiny, for the head another format"
            )
            if not job.options.allow_failing:
                raise InvalidArgumentError(f"{message}; or take it as it is with --allow-failing")
            job.warnings.append(message)
            return


def _weights(program: Program) -> dict[str, Quantized]:
    found = {}
    for tensor in program.weights():
        if not isinstance(tensor.source, Quantized):
            raise InvalidArgumentError(f"tensor '{tensor.name}' is not quantized")
        found[tensor.name] = tensor.source
    return found


def _text_windows(job: Job, sequences: int, length: int) -> list[Any]:
    if job.calibration is None:
        return []
    return job.windows(job.calibration, sequences * min(length, job.program.context), length)


def _refine(
    job: Job,
    rounding: Rounding,
    name: str,
    found: Mapping[str, Quantized],
    work: WorkFolder | None,
) -> tuple[dict[str, Quantized], TrainingFacts]:
    windows = _text_windows(job, rounding.sequences, rounding.length)
    if len(windows) < rounding.batch:
        raise InvalidArgumentError("the calibration text is too short to train on: give more")
    warning = rank_warning(sum(map(len, windows)), job.program) if name == "gptq" else None
    job.warnings.extend([] if warning is None else [warning])
    guidance = _guidance(job, rounding, found, windows) if name == "gptq" else {}
    method = _block_method(rounding, name, guidance)
    stage = "Training blocks" if name == "trained" else "Solving blocks"
    total = sum(method.steps(block) for block in split_blocks(job.program)[1:-1])
    with job.progress.stage(stage, total) as done:
        store = open_store(job.program)
        better, blocks = refine_blocks(job.program, found, windows, method, store, done, work)
    job.warnings.extend(note for block in blocks for note in _notes(block))
    return better, TrainingFacts(f"{name}, block by block", blocks)


def _notes(block: BlockReport) -> Iterator[str]:
    """Yield what was left as it was, and why."""
    for weight in block.fallbacks:
        yield f"'{weight}': GPTQ found nothing better than the nearest codes"
    for weight in block.unsolved:
        yield f"'{weight}': its Hessian does not fit in memory; it keeps the nearest codes"
    for weight in block.unguided:
        yield f"'{weight}': Hessians of several groups do not fit in memory; all tokens count alike"


def _guidance(
    job: Job, rounding: Rounding, found: Mapping[str, Quantized], windows: list[Any]
) -> dict[str, torch.Tensor]:
    """Return the weights of tokens for what is stored in few bits; without such nothing is run."""
    few = [name for name, quantized in found.items() if quantized.dtype in GUIDED]
    if rounding.guided == 0 or not few:
        return {}
    with job.progress.stage("Weighing tokens", len(windows)) as done:
        store = open_store(job.program)
        weights = token_weights(job.program, windows, rounding.guided, store, rounding.batch, done)
    return {name: weights[name] for name in few if name in weights}


def _block_method(
    rounding: Rounding, name: str, guidance: Mapping[str, torch.Tensor]
) -> BlockMethod:
    if name == "trained":
        return TrainedRounding(TrainSettings(rounding.iterations, rounding.batch))
    damping, order = rounding.damping, rounding.act_order
    options = GptqOptions(damping, order, sweeps=rounding.sweeps, refit=True)
    return SolvedCodes(options, rounding.batch, guidance=guidance)


def _teacher(job: Job) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the original where the program is not the same function any more."""
    if job.lossless:
        return None
    return partial(execute, job.reference, store=open_store(job.reference))


def _distil(
    job: Job,
    distil: Distil,
    found: Mapping[str, Quantized],
    trainable: list[str],
    work: WorkFolder | None,
) -> tuple[dict[str, Quantized], TrainingFacts]:
    """Train the model as a whole, then its scales alone if the recipe says so."""
    windows = _text_windows(job, distil.sequences, distil.length)
    better, facts = dict(found), TrainingFacts()
    for phase in _phases(distil):
        better, done = _distil_phase(job, phase, windows, better, trainable, work)
        facts = facts.then(done)
    return better, facts


@dataclass(frozen=True, slots=True)
class _Phase:
    """One training of the whole model. `state`: what its state is kept under."""

    state: str
    label: str
    part: Part
    settings: DistillSettings


def _phases(distil: Distil) -> Iterator[_Phase]:
    spread = distil.held_out == "spread"
    part = Part(**dict.fromkeys(distil.parts, True), low_rank=distil.low_rank)
    settings = DistillSettings(distil.steps, distil.batch, distil.rate, spread=spread)
    yield _Phase(STATE, f"trained as a whole: {', '.join(distil.parts)}", part, settings)
    if distil.then_steps:
        settings = replace(settings, steps=distil.then_steps, rate=distil.then_rate, seed=1)
        yield _Phase(THEN_STATE, "then scales alone", Part(scales=True, frozen=True), settings)


def _distil_phase(
    job: Job,
    phase: _Phase,
    windows: list[Any],
    found: Mapping[str, Quantized],
    trainable: list[str],
    work: WorkFolder | None,
) -> tuple[dict[str, Quantized], TrainingFacts]:
    tensors, part = job.program.tensors, phase.part
    weights = {
        name: FakeQuantized(torch.from_numpy(weight_of(tensors[name])), found[name], part)
        for name in trainable
    }
    fixed = {
        name: torch.from_numpy(dequantize(quantized))
        for name, quantized in found.items()
        if name not in weights
    }
    save = None if work is None else (lambda state: work.save_state(phase.state, state))
    stage = "Training scales" if part.frozen else "Training the model"
    with job.progress.stage(stage, phase.settings.steps) as done:
        result = distill(
            job.program,
            weights,
            fixed,
            windows,
            open_store(job.program),
            phase.settings,
            done,
            work.load_state(phase.state) if work is not None else None,
            save,
            _teacher(job),
        )
    facts = TrainingFacts(phase.label, (), result.before, result.after, result.losses)
    return {**found, **{name: weight.store() for name, weight in weights.items()}}, facts
