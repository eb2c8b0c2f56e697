# SPDX-License-Identifier: Apache-2.0
"""The file before it is measured: calibration, formats, codes, packing, reference vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.container import Container
from ingot.reference import conformance
from ingot_compressor.calibration import NO_STATISTICS, Statistics, calibrate
from ingot_compressor.choosing import choose_encodings
from ingot_compressor.ir import Program, Tensor
from ingot_compressor.job import Job
from ingot_compressor.measure import open_store
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.mixed import Choice
from ingot_compressor.passes.quantize import (
    Sizes,
    body_names,
    measure_sizes,
    quantize,
)
from ingot_compressor.provenance import licence_of, source_facts, versions
from ingot_compressor.spool import Spool
from ingot_compressor.training import TrainingFacts, train

__all__ = ["Draft", "compute_vectors", "write_draft"]

CONFORMANCE_PROMPTS = ("The quick brown fox jumps over", "In the beginning", "1, 2, 3,")
CONFORMANCE_TOKENS = 16
# The NumPy reference takes seconds for each evaluation of a model of this many weights.
LARGE_MODEL = 100_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written. `formats` by kind of weight, a mix as "c4+q8".

    `choice` says how a mix was found, None where formats were named.
    """

    sizes: Sizes
    formats: dict[str, str]
    calibration_tokens: int
    training: TrainingFacts
    choice: Choice | None = None


def write_draft(job: Job, path: Path) -> Draft:
    """Quantize and write the file, one weight in memory at a time.

    Raises: InvalidArgumentError naming a tensor that cannot be stored; StorageError.
    """
    statistics = _calibrate(job)
    chosen = choose_encodings(job, statistics, path.parent)
    encodings = chosen.encodings
    formats = _format_names(job.program, encodings)
    with Spool(path.parent) as spool:
        total = sum(_elements(tensor) for tensor in job.program.weights())
        with job.progress.stage("Quantizing", total) as done:
            quantized = quantize(
                job.program,
                encodings,
                statistics,
                spool.hold,
                job.options.threads,
                _running_total(_elements, done),
            )
        quantized, training = train(job, quantized)
        with job.progress.stage("Packing", 1) as done:
            imported = job.imported
            emit(quantized, path, imported.tokenizer_json, imported.chat, _meta(job, formats))
            done(1)
    sizes = measure_sizes(quantized, encodings)
    return Draft(sizes, formats, statistics.tokens, training, chosen.choice)


def compute_vectors(job: Job, path: Path) -> dict[str, Any]:
    """Return the conformance vectors that ingot.reference gives for the file."""
    tokenizer = job.tokenizer()
    room = min(job.program.context, CONFORMANCE_TOKENS)
    prompts = [tokenizer.encode(text)[:room] for text in CONFORMANCE_PROMPTS]
    usable = [ids for ids in prompts if ids and max(ids) < job.program.vocabulary] or [[0]]
    large = sum(_elements(tensor) for tensor in job.program.weights()) > LARGE_MODEL
    prompts, trials = (usable[:1], 2) if large else (usable, 3)
    with job.progress.stage("Reference vectors", 1) as done, Container(path) as container:
        vectors = conformance(container, prompts, trials=trials)
        done(1)
    return vectors


def _elements(tensor: Tensor) -> int:
    return tensor.shape[0] * tensor.shape[1]


def _running_total(
    size: Callable[[Tensor], int], done: Callable[[int], None]
) -> Callable[[Tensor], None]:
    """Return a callback per tensor for a callback that wants the sum so far."""
    seen = 0

    def add(tensor: Tensor) -> None:
        nonlocal seen
        seen += size(tensor)
        done(seen)

    return add


def _calibrate(job: Job) -> Statistics:
    if job.calibration is None:
        return NO_STATISTICS
    windows = job.windows(job.calibration, job.recipe.method.calibration_tokens)
    if not windows:
        job.warnings.append(
            "the calibration text is too short to be of use: all inputs count alike"
        )
        return NO_STATISTICS
    with job.progress.stage("Calibrating", sum(len(window) for window in windows)) as done:
        statistics = calibrate(job.program, windows, open_store(job.program), done)
    if statistics.few:
        job.warnings.append(f"{statistics.tokens} calibration tokens are few; give a longer text")
    return statistics


def _format_names(program: Program, encodings: dict[str, Encoding]) -> dict[str, str]:
    body = sorted({encodings[name].dtype.name.lower() for name in body_names(program)})
    return {
        "body": "+".join(body),
        "head": encodings[program.head()].dtype.name.lower(),
        "embedding": encodings[program.embedding()].dtype.name.lower(),
    }


def _meta(job: Job, formats: dict[str, str]) -> dict[str, Any]:
    return {
        **{key: value for key, value in job.imported.meta.items() if key != "warnings"},
        "source": source_facts(job.options.source),
        "licence": licence_of(job.options.source),
        "recipe": job.recipe.name,
        "target": job.target.name,
        "formats": formats,
        "versions": versions(),
    }
