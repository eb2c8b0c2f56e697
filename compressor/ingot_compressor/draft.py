# SPDX-License-Identifier: Apache-2.0
"""The file before it is measured: calibration, formats, codes, packing, reference vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.packing import Quantized
from ingot.reference import conformance
from ingot_compressor.calibration import NO_STATISTICS, Statistics, calibrate
from ingot_compressor.calibration_texts import CalibrationSet, rank_warning
from ingot_compressor.choosing import choose_encodings
from ingot_compressor.ir import Program, Tensor
from ingot_compressor.job import Job
from ingot_compressor.measure import open_store
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.pruning import COMPUTED
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fine_masks import FinePattern
from ingot_compressor.passes.mixed import Choice
from ingot_compressor.passes.prune import (
    PrunedWeight,
    PruneWork,
    SuperblockChoice,
    prune_superblocks,
)
from ingot_compressor.passes.quantize import (
    Sizes,
    body_elements,
    body_names,
    measure_sizes,
    quantize,
)
from ingot_compressor.provenance import licence_of, source_facts, versions
from ingot_compressor.recipe import Prune, Transform
from ingot_compressor.resuming import kept_choice, kept_statistics, open_work
from ingot_compressor.spool import Spool
from ingot_compressor.training import TrainingFacts, refuse_untrained_ternary, train
from ingot_compressor.work import WorkFolder

__all__ = [
    "Draft",
    "QuantizedJob",
    "compute_vectors",
    "gather_statistics",
    "quantize_job",
    "write_draft",
]

CONFORMANCE_PROMPTS = ("The quick brown fox jumps over", "In the beginning", "1, 2, 3,")
CONFORMANCE_TOKENS = 16
# The NumPy reference takes seconds for each evaluation of a model of this many weights.
LARGE_MODEL = 100_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written. `formats` by kind of weight, a mix as "c4+q8".

    `choice` says how a mix was found, None where formats were named.
    `calibration_digest` is that of the windows which statistics were gathered on, None if none
    were. `removed`: what went of the model and the bits per weight that this leaves of each of the
    checkpoint's; empty if nothing went.
    """

    sizes: Sizes
    formats: dict[str, str]
    calibration_tokens: int
    training: TrainingFacts
    calibration_digest: str | None
    removed: dict[str, Any]
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """Where codes wait until they are packed, and where finished parts outlast the process."""

    hold: Callable[[Quantized], Quantized]
    folder: WorkFolder | None


@dataclass(frozen=True, slots=True)
class QuantizedJob:
    """A program with codes in place of weights, not packed yet, and what it came from.

    `records` say what went of each weight, `digest` is that of the calibration windows.
    """

    program: Program
    encodings: dict[str, Encoding]
    statistics: Statistics
    training: TrainingFacts
    sizes: Sizes
    records: tuple[PrunedWeight, ...]
    digest: str | None
    choice: Choice | None


def write_draft(job: Job, path: Path) -> Draft:
    """Quantize and write the file, one weight in memory at a time.

    Raises: InvalidArgumentError naming a tensor that cannot be stored; StorageError.
    """
    with Spool(path.parent) as spool:
        made = quantize_job(job, path.parent, spool.hold)
        formats = _format_names(job.program, made.encodings)
        removed = _removed(job, made.program, made.sizes, made.records)
        with job.progress.stage("Packing", 1) as done:
            imported, meta = job.imported, _meta(job, formats, removed)
            emit(made.program, path, imported.tokenizer_json, imported.chat, meta)
            done(1)
    tokens = made.statistics.tokens
    return Draft(made.sizes, formats, tokens, made.training, made.digest, removed, made.choice)


def quantize_job(
    job: Job, folder: Path, hold: Callable[[Quantized], Quantized] = lambda quantized: quantized
) -> QuantizedJob:
    """Calibrate, choose formats, quantize and train, all that comes before packing.

    `hold` may move codes elsewhere; candidates of a mix wait in `folder`.
    Raises: InvalidArgumentError naming a tensor that cannot be stored; StorageError.
    """
    refuse_untrained_ternary(job)
    work = open_work(job)
    packed, statistics = gather_statistics(job, work)
    chosen = kept_choice(job, work, lambda: choose_encodings(job, statistics, folder))
    encodings = chosen.encodings
    if work is not None:
        work.bind("formats", {name: asdict(one) for name, one in encodings.items()})
    quantized, records = _quantize(job, encodings, statistics, packed, Kept(hold, work))
    quantized, training = train(job, quantized, work)
    return QuantizedJob(
        program=quantized,
        encodings=encodings,
        statistics=statistics,
        training=training,
        sizes=measure_sizes(quantized, encodings),
        records=records,
        digest=packed.sha256 if packed is not None else None,
        choice=chosen.choice,
    )


def gather_statistics(
    job: Job, work: WorkFolder | None = None
) -> tuple[CalibrationSet | None, Statistics]:
    """Return the windows of the calibration text and what flows through the program on them.

    None and no statistics where there is no text, or too little of it.
    """
    packed = _calibration_set(job)
    statistics = kept_statistics(work, lambda: _calibrate(job, packed))
    if statistics.few:
        job.warnings.append(f"{statistics.tokens} calibration tokens are few; give a longer text")
    return packed, statistics


def _quantize(
    job: Job,
    encodings: dict[str, Encoding],
    statistics: Statistics,
    packed: CalibrationSet | None,
    kept: Kept,
) -> tuple[Program, tuple[PrunedWeight, ...]]:
    """Quantize every weight; with text, what goes of them is chosen and made up for by it."""
    program, prune = job.program, job.recipe.prune or Prune()
    sparse = any(one.sparsity > 0 for one in encodings.values())
    if prune.pattern and packed is None:
        raise InvalidArgumentError("prune.pattern judges by text: give a longer --calibration TEXT")
    threads = job.options.threads
    with job.progress.stage("Quantizing", sum(map(_elements, program.weights()))) as done:
        seen = _running_total(_elements, done)
        if packed is None or not (sparse or prune.pattern):
            return quantize(program, encodings, statistics, kept.hold, threads, seen), ()
        warning = rank_warning(packed.tokens, program)
        job.warnings.extend([] if warning is None else [warning])
        choice, windows = _superblock_choice(prune), packed.windows
        work = PruneWork(statistics, threads, hold=kept.hold, folder=kept.folder)
        pruned, records = prune_superblocks(program, windows, encodings, choice, work, seen)
    job.warnings.extend(
        f"'{one.name}': what flows into it does not fit in memory as second moments;"
        " what went of it was chosen by magnitudes, and nothing makes up for it"
        for one in records
        if one.blind
    )
    return pruned, records


def _superblock_choice(prune: Prune) -> SuperblockChoice:
    kept, of = prune.n_of_m
    how = (prune.score, prune.compensate, prune.sweep)
    fine = FinePattern(prune.share, kept, of, *how) if prune.pattern else None
    return SuperblockChoice(prune.score, prune.compensate, sweep=prune.sweep, fine=fine)


def _pattern_facts(prune: Prune, records: Sequence[PrunedWeight]) -> dict[str, Any]:
    """Return what a pattern of single weights took out, and the bits that no file of ours has."""
    found = [one for one in records if one.computed is not None]
    if not found:
        return {}
    of = sum(one.of for one in found)
    bits = sum(one.of * one.computed.total for one in found if one.computed is not None)
    return {
        "pattern": {
            "name": prune.pattern,
            "removed": sum(one.dropped for one in found),
            "of": of,
            "bits_per_weight_body": bits / of,
            "status": COMPUTED,
        }
    }


def _removed(
    job: Job, quantized: Program, sizes: Sizes, records: Sequence[PrunedWeight]
) -> dict[str, Any]:
    """Return what went, for meta and certificate.

    `net_bits_per_weight`: stored bits, lists and padding included, over the checkpoint's weights.
    """
    removed = {**job.removed, **_pattern_facts(job.recipe.prune or Prune(), records)}
    masks = [
        tensor.source.present
        for tensor in quantized.weights()
        if isinstance(tensor.source, Quantized) and tensor.source.present.size
    ]
    if masks:
        gone = sum(int((~mask.astype(bool)).sum()) for mask in masks)
        removed["superblocks"] = {"removed": gone, "of": sum(mask.size for mask in masks)}
    if not removed:
        return {}
    tables = {quantized.head(), quantized.embedding()}
    left = body_elements(quantized) + sum(_elements(quantized.tensors[name]) for name in tables)
    return {
        **removed,
        "weights_before": job.weights,
        "weights_after": left,
        "net_bits_per_weight": 8 * sizes.weight_bytes / job.weights,
    }


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


def _calibration_set(job: Job) -> CalibrationSet | None:
    """Return the windows that statistics are gathered on, and pass on what was noticed."""
    if job.calibration is None:
        return None
    method = job.recipe.method
    packed = job.packed(job.calibration, method.calibration_tokens, method.calibration_length)
    if packed is None:
        job.warnings.append(
            "the calibration text is too short to be of use: all inputs count alike"
        )
        return None
    job.warnings.extend(packed.warnings)
    return packed


def _calibrate(job: Job, packed: CalibrationSet | None) -> Statistics:
    if packed is None:
        return NO_STATISTICS
    with job.progress.stage("Calibrating", packed.tokens) as done:
        return calibrate(job.program, packed.windows, open_store(job.program), done)


def _format_names(program: Program, encodings: dict[str, Encoding]) -> dict[str, str]:
    body = sorted({encodings[name].dtype.name.lower() for name in body_names(program)})
    return {
        "body": "+".join(body),
        "head": encodings[program.head()].dtype.name.lower(),
        "embedding": encodings[program.embedding()].dtype.name.lower(),
    }


def _transformed(job: Job) -> list[str]:
    """Return what leaves no weight of the file alone comparable with the checkpoint's."""
    given = job.recipe.transform or Transform()
    kinds = {
        "fold_norms": given.fold_norms,
        "rotate": given.rotate != "none",
        "smooth": given.smooth > 0,
        "activation_aware": given.activation_aware,
    }
    return [name for name, on in kinds.items() if on]


def _meta(job: Job, formats: dict[str, str], removed: dict[str, Any]) -> dict[str, Any]:
    return {
        **({"removed": removed} if removed else {}),
        **({"transformed": turned} if (turned := _transformed(job)) else {}),
        **{key: value for key, value in job.imported.meta.items() if key != "warnings"},
        "source": source_facts(job.options.source),
        "licence": licence_of(job.options.source),
        "recipe": job.recipe.name,
        "target": job.target.name,
        "formats": formats,
        "scales": job.choices.body.scales,
        "versions": versions(),
    }
