# SPDX-License-Identifier: Apache-2.0
"""A compression before its work begins: options checked, checkpoint opened, texts read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.chat import ChatSettings
from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import MAX_CHUNK, Layout
from ingot.targets import LAYOUTS, Target, load_target
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration_texts import CalibrationSet, read_documents
from ingot_compressor.evaluate import LONGEST_WINDOW
from ingot_compressor.importers import Imported, import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import UNSCALED, Encoding
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import Choices
from ingot_compressor.passes.vocabulary import trim_vocabulary
from ingot_compressor.preparation import Evidence, lost_probability, prepare_program
from ingot_compressor.progress import Progress
from ingot_compressor.recipe import HALF_QUADRATIC, TARGET, Recipe, format_named, load_recipe
from ingot_compressor.text_windows import (
    evaluation_windows,
    model_tokenizer,
    pack_text,
    read_calibration,
)
from ingot_compressor.texts import Text, bundled_text, read_text

__all__ = ["CompressOptions", "Job", "check_options", "prepare_job"]

GROUPS = (32, 64, 128)
# Tokens on which the original says what a trimmed vocabulary leaves out.
LOSS_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class CompressOptions:
    """What the command line gives; None takes the recipe's or the target's choice."""

    source: Path
    out: Path
    target: str = "host"
    preset: str = "balanced"
    body_format: str | None = None
    head_format: str | None = None
    bpw: float | None = None
    max_bytes: int | None = None
    max_ram: int | None = None
    min_decode: float | None = None
    min_prefill: float | None = None
    max_kl: float | None = None
    group: int | None = None
    layout: str | None = None
    sparsity: float = 0.0
    trim_vocabulary: tuple[Path, ...] = ()
    calibration: Path | None = None
    evaluation: Path | None = None
    tasks: tuple[str, ...] = ()
    max_items: int | None = None
    context: int | None = None
    chunk: int | None = None
    certificate: bool = True
    allow_failing: bool = False
    report: Path | None = None
    work: Path | None = None
    threads: int = 1

    @property
    def limits(self) -> dict[str, float | None]:
        """The budgets of the mix by option."""
        return {
            "--bpw": self.bpw,
            "--max-bytes": self.max_bytes,
            "--max-ram": self.max_ram,
            "--min-decode": self.min_decode,
            "--min-prefill": self.min_prefill,
            "--max-kl": self.max_kl,
        }

    @property
    def budgeted(self) -> bool:
        """Whether formats are chosen under a budget."""
        return any(limit is not None for limit in self.limits.values())


@dataclass(frozen=True, slots=True)
class Job:
    """All that a compression reads; `warnings` grows while it runs.

    `program` is what is quantized. `reference` is the full-precision model that the result is
    compared with: `program` itself unless the recipe transforms or prunes; with a trimmed
    vocabulary, the model of the tokens that stay. `lossless`: both compute the same. `removed` says
    what went before quantizing, by kind; `weights` are those of the checkpoint's matrices.
    """

    options: CompressOptions
    recipe: Recipe
    target: Target
    choices: Choices
    imported: Imported
    program: Program
    reference: Program
    calibration: Text | None
    evaluation: Text | None
    warnings: list[str]
    progress: Progress
    weights: int
    lossless: bool = True
    removed: Mapping[str, Any] = field(default_factory=dict)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer as the file will have it."""
        return model_tokenizer(self.imported)

    def windows(
        self, text: Text, tokens: int, length: int = LONGEST_WINDOW
    ) -> list[NDArray[np.int64]]:
        """Return windows of a text as inference would see them, spread evenly over it.

        None at all where the text or the context is too short to score a position.
        """
        if text.documents:
            packed = self.packed(text, tokens, length)
            return [] if packed is None else list(packed.windows)
        return evaluation_windows(text, self.imported, self.program.context, tokens, length)

    def packed(
        self, text: Text, tokens: int, length: int = LONGEST_WINDOW
    ) -> CalibrationSet | None:
        """Return windows of a calibration text with their digest; None for a text too short."""
        return pack_text(text, self.imported, self.program.context, tokens, length)


def prepare_job(options: CompressOptions, progress: Progress, *, to_pack: bool = True) -> Job:
    """Check options, read what is small and do what the recipe does before quantizing.

    Weights stay on disk: changed ones are changed each time they are read. Without `to_pack` the
    recipe may ask for what no file holds, and `options.out` is not looked at.

    Raises: IngotError for options or inputs that are wrong.
    """
    recipe, target, choices = check_options(options)
    options = _with_budgets(options, recipe)
    if to_pack:
        _refuse_simulated(options, recipe)
        _check_places(options)
    warnings: list[str] = []
    evaluation = _evaluation_text(options, recipe, warnings)
    with progress.stage("Importing", 1) as done:
        source = _import(options, target)
        done(1)
    imported, removed = _trimmed(_declared(options, recipe), source, evaluation, progress)
    warnings += imported.meta.get("warnings", [])
    calibration = _calibration_text(options, recipe, imported, warnings)
    if calibration and evaluation and calibration.sha256 == evaluation.sha256:
        raise InvalidArgumentError("calibration and evaluation are the same text: give another one")
    program = _fused(imported.program, options, target)
    job = Job(
        options=options,
        recipe=recipe,
        target=target,
        choices=choices,
        imported=imported,
        program=program,
        reference=program,
        calibration=calibration,
        evaluation=evaluation,
        warnings=warnings,
        progress=progress,
        weights=sum(int(np.prod(one.shape)) for one in source.program.weights()),
        removed=removed,
    )
    return job if recipe.prune is None and recipe.transform is None else _prepared(job)


def _fused(program: Program, options: CompressOptions, target: Target) -> Program:
    program = fuse(program)
    return replace(program, chunk=min(options.chunk or target.defaults.chunk, program.context))


def _prepared(job: Job) -> Job:
    """Return the job with the program that the recipe's passes leave."""
    imported, windows = job.imported, []
    if job.calibration is not None:
        method = job.recipe.method
        windows = job.windows(job.calibration, method.calibration_tokens, method.calibration_length)
    evidence = Evidence(windows, job.choices.body, job.progress, job.options.threads)
    prepared = prepare_program(imported.program, job.recipe, evidence)
    program = _fused(prepared.program, job.options, job.target)
    if imported.program.head() == imported.program.embedding() != program.head():
        job.warnings.append(
            "the rotation gives the head a matrix of its own: the token table is stored twice"
        )
    if job.options.max_kl is not None and not prepared.lossless:
        job.warnings.append(
            "--max-kl limits what formats lose; the certificate counts what was taken out as well"
        )
    parameters = imported.meta["parameters"] - prepared.parameters
    return replace(
        job,
        imported=replace(imported, meta={**imported.meta, "parameters": parameters}),
        program=program,
        lossless=prepared.lossless,
        removed={**job.removed, **(prepared.removed or {})},
    )


def _declared(options: CompressOptions, recipe: Recipe) -> tuple[Path, ...]:
    """Return the texts that declare the vocabulary: the command line's and the recipe's."""
    named = recipe.prune.vocabulary if recipe.prune is not None else ()
    return (*options.trim_vocabulary, *map(Path, named))


def _trimmed(
    texts: tuple[Path, ...], imported: Imported, evaluation: Text | None, progress: Progress
) -> tuple[Imported, dict[str, Any]]:
    """Return the model of the declared tokens, and what went with the others."""
    if not texts:
        return imported, {}
    settings = ChatSettings.from_json(imported.chat)
    documents = [one for path in texts for one in read_documents(path, settings)]
    trimmed, kept = trim_vocabulary(imported, [one.content for one in documents])
    lost = None
    if evaluation is not None:
        program = imported.program
        windows = evaluation_windows(evaluation, imported, program.context, LOSS_TOKENS)
        with progress.stage("Trimming", 1) as done:
            lost = lost_probability(program, kept.ids, windows) if windows else None
            done(1)
    gone = kept.rows - len(kept.ids)
    return trimmed, {"vocabulary": {"removed": gone, "of": kept.rows, "lost_probability": lost}}


def check_options(options: CompressOptions) -> tuple[Recipe, Target, Choices]:
    """Return what the options choose; reads nothing but recipe and profile.

    Raises: InvalidArgumentError for a value that no checkpoint could make right.
    """
    _check_values(options)
    recipe, target = load_recipe(options.preset), load_target(options.target)
    if options.sparsity > 0 and recipe.prune is not None and recipe.prune.pattern:
        raise InvalidArgumentError(
            f"--sparsity takes out superblocks and recipe {recipe.name} single weights: take one"
        )
    return recipe, target, _choices(options, recipe, target)


def _with_budgets(options: CompressOptions, recipe: Recipe) -> CompressOptions:
    """Return options with the recipe's limits where none is given; a named format leaves them out.

    Raises: InvalidArgumentError for a limit that nothing could keep.
    """
    if recipe.budgets is None or options.body_format is not None:
        return options
    given = asdict(recipe.budgets)
    wanted = {key: value for key, value in given.items() if getattr(options, key) is None}
    merged = replace(options, **wanted)
    _check_values(merged)
    return merged


def _refuse_simulated(options: CompressOptions, recipe: Recipe) -> None:
    if recipe.simulated:
        raise InvalidArgumentError(
            f"recipe {recipe.name}: {' and '.join(recipe.simulated)} is not packed: the runtime has"
            " no kernels for it. Nothing was written; measure it with 'ingot eval"
            f" {options.preset} --against {options.source}', or leave the key out to write a file"
        )


def _check_places(options: CompressOptions) -> None:
    """Refuse what would fail only after the work is done."""
    out = options.out
    if out.is_dir():
        raise StorageError(f"{out} is a folder: give the name of a file to write")
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent}: no such folder; make it first")
    if options.report is not None and not options.report.parent.is_dir():
        raise StorageError(f"{options.report.parent}: no such folder; make it first")


def _check_values(options: CompressOptions) -> None:
    if options.chunk is not None and not 1 <= options.chunk <= MAX_CHUNK:
        raise InvalidArgumentError(f"--chunk is {options.chunk}, expected 1 to {MAX_CHUNK}")
    if options.group is not None and options.group not in GROUPS:
        raise InvalidArgumentError(f"--group is {options.group}, expected 32, 64 or 128")
    if options.layout is not None and options.layout not in LAYOUTS:
        raise InvalidArgumentError(
            f"--layout is {options.layout}, expected one of {', '.join(LAYOUTS)}"
        )
    if not 0 <= options.sparsity < 1:
        raise InvalidArgumentError(f"--sparsity is {options.sparsity:g}, expected 0 to below 1")
    if options.bpw is not None and not 1 <= options.bpw <= 16:
        raise InvalidArgumentError(f"--bpw is {options.bpw:g}, expected 1 to 16")
    for name, limit in options.limits.items():
        if limit is not None and not 0 < limit < float("inf"):
            raise InvalidArgumentError(f"{name} is {limit:g}, expected a positive number")
        if limit is not None and options.body_format is not None:
            raise InvalidArgumentError(
                f"{name} chooses the formats of the body: leave out --format"
            )
    for name, given in (("--evaluate", options.evaluation), ("--tasks", options.tasks)):
        if given and not options.certificate:
            raise InvalidArgumentError(
                f"{name} measures for the certificate: leave out --no-certificate"
            )


def _import(options: CompressOptions, target: Target) -> Imported:
    """Import with the context asked for, else the model's own, at most the target's."""
    imported = import_checkpoint(options.source, options.context)
    if options.context is None and imported.program.context > target.defaults.context:
        return import_checkpoint(options.source, target.defaults.context)
    return imported


def _calibration_text(
    options: CompressOptions, recipe: Recipe, imported: Imported, warnings: list[str]
) -> Text | None:
    path = options.calibration
    if path is None and recipe.needs_text:
        path = bundled_text("calibration")
        if path is None:
            warnings.append("no calibration text: all inputs count alike; give --calibration TEXT")
    return None if path is None else read_calibration(path, imported)


def _evaluation_text(options: CompressOptions, recipe: Recipe, warnings: list[str]) -> Text | None:
    path = options.evaluation
    if path is None and options.certificate and recipe.gate is not None:
        path = bundled_text("evaluation")
        if path is None:
            warnings.append("no evaluation text: the file is ungated; give --evaluate TEXT")
    return None if path is None else read_text(path)


def _choices(options: CompressOptions, recipe: Recipe, target: Target) -> Choices:
    formats, defaults = recipe.formats, target.defaults
    group = options.group or formats.q4_group
    layout = Layout[(options.layout or defaults.layout).upper()]

    def encoding(given: str | None, of_recipe: str, of_target: str) -> Encoding:
        name = given or (of_target if of_recipe == TARGET else of_recipe)
        dtype, hqq = format_named(name), recipe.method.scales == HALF_QUADRATIC
        # a head in f16 has no scales that anything could find
        sparse = hqq and dtype not in UNSCALED
        return Encoding(dtype, group, recipe.method.search, layout, half_quadratic=sparse)

    body = encoding(options.body_format, formats.body, defaults.body_format)
    if recipe.method.scales and not body.half_quadratic:
        raise InvalidArgumentError(
            f"recipe {recipe.name}: method.scales '{recipe.method.scales}' finds scales of groups,"
            f" and {body.dtype.name.lower()} has none: take q8, q6, c5, q4, q4z, c4, c3 or c2"
        )
    superblocks = recipe.prune.superblocks if recipe.prune is not None else 0.0
    return Choices(
        body=replace(body, sparsity=options.sparsity or superblocks),
        head=encoding(options.head_format, formats.head, defaults.head_format),
        embedding=encoding(options.head_format, formats.embedding, defaults.head_format),
    )
