# SPDX-License-Identifier: Apache-2.0
"""A recipe measured without a file: its weights in PyTorch, inputs rounded in several ways.

What the runtime has no kernels for (simulated grids, fixed scales of activations) is judged here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError
from ingot_compressor.calibration import Statistics
from ingot_compressor.certificate import Judgement, judge
from ingot_compressor.draft import gather_statistics, quantize_job
from ingot_compressor.evaluate import Quality, Scores, summarize
from ingot_compressor.evaluation.comparison import EvalOptions, scored_windows
from ingot_compressor.execute import Rounding
from ingot_compressor.ir import FloatArray, Program, Tensor, Weight
from ingot_compressor.job import CompressOptions, Job, prepare_job
from ingot_compressor.json_values import finite_values
from ingot_compressor.measure import open_store
from ingot_compressor.numerics.activations8 import ActivationScale, make_rounding
from ingot_compressor.numerics.simulated import SimulatedGrid, simulated_grids
from ingot_compressor.passes.quantize import (
    assign,
    body_elements,
    body_names,
    quantize_tensor,
    true_rows,
)
from ingot_compressor.progress import Progress
from ingot_compressor.recipe import DYNAMIC, FLOAT, STATIC, TOKEN, Activations, load_recipe
from ingot_compressor.simulate import compare_roundings, simulated_logits

__all__ = ["NOT_PACKED", "RECORD", "SimulatedRow", "Simulation", "simulate_recipe"]

RECORD, NOT_PACKED = "format of record", "not packed"
KINDS = {
    DYNAMIC: ActivationScale.BLOCK,
    TOKEN: ActivationScale.TOKEN,
    STATIC: ActivationScale.TENSOR,
}


@dataclass(frozen=True, slots=True)
class SimulatedRow:
    """The recipe's weights with inputs of linear operations rounded in one way.

    `quality` is against the checkpoint; `rounding_kl` in nats against the same weights with inputs
    in float32. `stored`: "format of record" is what a packed file gives, else "not packed".
    """

    activations: str
    stored: str
    quality: Quality
    rounding_kl: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a recipe comes to. `rows` begin with float32 inputs and end with the recipe's own.

    `weights` names grid or format of the body, `scales` how those of a format were found, "" of a
    grid.
    """

    recipe: str
    weights: str
    scales: str
    bits_per_weight_body: float
    rows: tuple[SimulatedRow, ...]
    notes: tuple[str, ...]
    judgement: Judgement | None = None

    @property
    def own(self) -> SimulatedRow:
        """The row of what the recipe asks for."""
        return self.rows[-1]

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object; the figures of the recipe's own row stand at the top."""
        found: dict[str, Any] = asdict(self.own.quality) | asdict(replace(self, judgement=None))
        found |= {"activations": self.own.activations, "stored": self.own.stored}
        del found["judgement"]
        if self.judgement is not None:
            found["verdict"] = self.judgement.verdict.value
            found["reason"] = self.judgement.reason
        result: dict[str, Any] = finite_values(found)
        return result


@dataclass(frozen=True, slots=True)
class _Rounded:
    """The program as its weights are rounded, and what was seen of its inputs."""

    program: Program
    statistics: Statistics
    weights: str
    scales: str
    bits: float


def simulate_recipe(options: EvalOptions, progress: Progress, threads: int = 1) -> Simulation:
    """Measure the recipe that `options.file` names against the checkpoint, writing nothing.

    Everything before packing is done as `compress` does it. The inputs of linear operations are
    then float32, rounded as the runtime does ("dynamic") and as the recipe says; keys and values
    stay float32.

    Raises: InvalidArgumentError for tasks, layers and kv, which need a file, for static scales
        without calibration text, or what `compress` would refuse.
    Cost: a compression without packing, and one run of the model more for each row than for a file.
    """
    if options.tasks or options.layers:
        raise InvalidArgumentError("--tasks and --layers need a file: a recipe has none")
    if options.kv != "f16":
        raise InvalidArgumentError(f"--kv {options.kv} needs a file: a recipe's stay float32")
    gate = load_recipe(options.gate).gate if options.gate is not None else None
    asked = CompressOptions(
        options.source,
        options.file.with_suffix(".ingot"),  # never written
        preset=str(options.file),
        calibration=options.calibration,
        evaluation=options.text,
        threads=threads,
    )
    job = prepare_job(asked, progress, to_pack=False)
    chat = job.imported.chat
    bos = chat["bos_token_id"] if chat["add_bos"] else None
    encode = partial(job.tokenizer().encode, begin=False)
    windows, _ = scored_windows(options, encode, bos, job.program.context)
    rounded = _on_grid(job) if job.recipe.formats.grid else _in_format(job)
    store = open_store(rounded.program)
    candidates = {
        name: simulated_logits(rounded.program, store, activation=rounding)
        for name, rounding in _roundings(job, rounded.statistics)
    }
    exact = simulated_logits(job.reference, open_store(job.reference))
    with progress.stage("Measuring", len(windows)) as done:
        found = compare_roundings(exact, candidates, windows, done)
    return Simulation(
        recipe=job.recipe.name,
        weights=rounded.weights,
        scales=rounded.scales,
        bits_per_weight_body=rounded.bits,
        rows=tuple(_row(job, name, *scores) for name, scores in found.items()),
        notes=tuple(job.warnings),
        judgement=None if options.gate is None else judge(gate, _last(found)),
    )


def _last(found: dict[str, tuple[Scores, Scores]]) -> Scores:
    return list(found.values())[-1][0]


def _row(job: Job, name: str, scores: Scores, rounding: Scores) -> SimulatedRow:
    packed = name == DYNAMIC and not job.recipe.formats.grid
    stored = RECORD if packed else NOT_PACKED
    return SimulatedRow(name, stored, summarize(scores), summarize(rounding).mean_kl)


def _roundings(job: Job, statistics: Statistics) -> Iterator[tuple[str, Rounding | None]]:
    """Yield float inputs, the runtime's, and the recipe's last."""
    own = (job.recipe.activations or Activations()).scales
    if own == STATIC and not statistics.max_abs:
        raise InvalidArgumentError(
            f"recipe {job.recipe.name}: activations.scales '{STATIC}' are fixed by calibration:"
            " give --calibration TEXT of more than a few words"
        )
    names = [name for name in (FLOAT, DYNAMIC) if name != own]
    for name in (*names, own):
        kind = KINDS.get(name)
        yield name, None if kind is None else make_rounding(kind, statistics.max_abs)


def _in_format(job: Job) -> _Rounded:
    with tempfile.TemporaryDirectory() as folder:
        made = quantize_job(job, Path(folder))
    return _Rounded(
        made.program,
        made.statistics,
        job.choices.body.dtype.name.lower(),
        job.choices.body.scales,
        made.sizes.bits_per_weight_body,
    )


def _on_grid(job: Job) -> _Rounded:
    """Round the body to a simulated grid; head and embedding get their formats."""
    grid, program = simulated_grids()[job.recipe.formats.grid], job.program
    _, statistics = gather_statistics(job)
    body, encodings = set(body_names(program)), assign(program, job.choices)
    changed = {}
    for tensor in program.weights():
        if tensor.name in body:
            changed[tensor.name] = _taken_to(grid, tensor)
            continue
        quantized = quantize_tensor(tensor, encodings[tensor.name], statistics, job.options.threads)
        changed[tensor.name] = replace(tensor, dtype=quantized.dtype, source=quantized)
    bits = _grid_bits(program, grid)
    return _Rounded(program.with_tensors(changed), statistics, grid.name, "", bits)


def _taken_to(grid: SimulatedGrid, tensor: Tensor) -> Tensor:
    """Return a weight that is rounded whenever it is read."""
    source = tensor.source
    if not isinstance(source, Weight):
        raise InvalidArgumentError(f"tensor '{tensor.name}' is already quantized")

    def load() -> FloatArray:
        return grid.function(source.load())

    return replace(tensor, source=replace(source, load=load))


def _grid_bits(program: Program, grid: SimulatedGrid) -> float:
    """Return bits per weight of the body, without the rows that only fill tiles."""
    rows, total = true_rows(program), 0.0
    for name in body_names(program):
        n, k = program.tensors[name].shape
        n = rows.get(name, n)
        total += grid.bits(n, k) * n * k
    return total / body_elements(program)
