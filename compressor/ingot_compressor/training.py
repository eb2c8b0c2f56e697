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
from ingot_compressor.passes.block_methods import (
    BlockMethod,
    SolvedCodes,
    TrainedRounding,
    weight_of,
)
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.distill import DistillSettings, distill
from ingot_compressor.passes.guidance import token_weights
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.refine import BlockReport, refine_blocks
from ingot_compressor.passes.train_block import TrainSettings
from ingot_compressor.provenance import source_facts
from ingot_compressor.recipe import Distil, Rounding
from ingot_compressor.work import WorkFolder, work_key

__all__ = ["TrainingFacts", "train"]

STATE = "distil"
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
        return replace(other, method=first + other.method, blocks=self.blocks + other.blocks)

    def summary(self) -> dict[str, Any]:
        """Return the figures without the curve."""
        return {key: value for key, value in asdict(self).items() if key != "losses"}


def train(job: Job, quantized: Program) -> tuple[Program, TrainingFacts]:
    """Return the program with better codes, as the recipe's rounding and distil sections say.

    A model small enough to be trained as a whole is, from what GPTQ found; a larger one block by
    block. A recipe without these sections, or a job without calibration text, leaves the program as
    it is.
    Raises: InvalidArgumentError if the text is too short; StorageError for the work folder.
    """
    recipe, found = job.recipe, _weights(quantized)
    trainable = [name for name in body_names(job.program) if found[name].dtype is not Dtype.F16]
    if recipe.rounding is None and recipe.distil is None:
        return quantized, TrainingFacts()
    if job.calibration is None:
        job.warnings.append("no calibration text: nothing was trained; give --calibration TEXT")
        return quantized, TrainingFacts()
    work, facts = _work_folder(job), TrainingFacts()
    better = found
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


def _weights(program: Program) -> dict[str, Quantized]:
    found = {}
    for tensor in program.weights():
        if not isinstance(tensor.source, Quantized):
            raise InvalidArgumentError(f"tensor '{tensor.name}' is not quantized")
        found[tensor.name] = tensor.source
    return found


def _work_folder(job: Job) -> WorkFolder | None:
    if job.options.work is None:
        return None
    options = {k: v for k, v in asdict(job.options).items() if k not in ("out", "work", "report")}
    text = job.calibration.sha256 if job.calibration else None
    facts = {
        "options": options,
        "recipe": asdict(job.recipe),
        "text": text,
        "source": source_facts(job.options.source),
    }
    return WorkFolder(job.options.work, work_key(facts))


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
    for block in blocks:
        for weight in block.fallbacks:
            job.warnings.append(f"'{weight}': GPTQ found nothing better than the nearest codes")
    return better, TrainingFacts(f"{name}, block by block", blocks)


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
    options = GptqOptions(sweeps=rounding.sweeps, refit=True)
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
    windows = _text_windows(job, distil.sequences, distil.length)
    part = Part(**dict.fromkeys(distil.parts, True), low_rank=distil.low_rank)
    tensors = job.program.tensors
    weights = {
        name: FakeQuantized(torch.from_numpy(weight_of(tensors[name])), found[name], part)
        for name in trainable
    }
    fixed = {
        name: torch.from_numpy(dequantize(quantized))
        for name, quantized in found.items()
        if name not in weights
    }
    settings = DistillSettings(distil.steps, distil.batch, distil.rate)
    save = None if work is None else (lambda state: work.save_state(STATE, state))
    with job.progress.stage("Training the model", distil.steps) as done:
        result = distill(
            job.program,
            weights,
            fixed,
            windows,
            open_store(job.program),
            settings,
            done,
            work.load_state(STATE) if work is not None else None,
            save,
            _teacher(job),
        )
    facts = TrainingFacts(
        f"trained as a whole: {', '.join(distil.parts)}",
        (),
        result.before,
        result.after,
        result.losses,
    )
    return {**found, **{name: weight.store() for name, weight in weights.items()}}, facts
