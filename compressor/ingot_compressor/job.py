# SPDX-License-Identifier: Apache-2.0
"""A compression before its work begins: options checked, checkpoint opened, texts read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import MAX_CHUNK, Layout
from ingot.targets import LAYOUTS, Target, load_target
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import pick_windows
from ingot_compressor.evaluate import LONGEST_WINDOW, UNSCORED, token_windows
from ingot_compressor.importers import Imported, import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import Choices
from ingot_compressor.progress import Progress
from ingot_compressor.recipe import TARGET, Recipe, format_named, load_recipe
from ingot_compressor.texts import Text, bundled_text, read_text

__all__ = ["CompressOptions", "Job", "check_options", "prepare_job"]

GROUPS = (32, 64, 128)


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
    max_kl: float | None = None
    group: int | None = None
    layout: str | None = None
    sparsity: float = 0.0
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
            "--max-kl": self.max_kl,
        }

    @property
    def budgeted(self) -> bool:
        """Whether formats are chosen under a budget."""
        return any(limit is not None for limit in self.limits.values())


@dataclass(frozen=True, slots=True)
class Job:
    """All that a compression reads; `warnings` grows while it runs."""

    options: CompressOptions
    recipe: Recipe
    target: Target
    choices: Choices
    imported: Imported
    program: Program
    calibration: Text | None
    evaluation: Text | None
    warnings: list[str]
    progress: Progress

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer as the file will have it."""
        chat = self.imported.chat
        return Tokenizer(self.imported.tokenizer_json, chat["bos_token_id"], chat["add_bos"])

    def windows(
        self, text: Text, tokens: int, length: int = LONGEST_WINDOW
    ) -> list[NDArray[np.int64]]:
        """Return windows of a text as inference would see them, spread evenly over it.

        None at all where the text or the context is too short to score a position.
        """
        window = min(self.program.context, length)
        if window < UNSCORED + 2:
            return []
        chat = self.imported.chat
        bos = chat["bos_token_id"] if chat["add_bos"] else None
        ids = self.tokenizer().encode(text.content, begin=False)
        return pick_windows(list(token_windows(ids, window, bos)), tokens)


def prepare_job(options: CompressOptions, progress: Progress) -> Job:
    """Check options and read what is small; weights stay on disk.

    Raises: IngotError for options or inputs that are wrong.
    """
    recipe, target, choices = check_options(options)
    _check_places(options)
    warnings: list[str] = []
    calibration = _calibration_text(options, recipe, warnings)
    evaluation = _evaluation_text(options, recipe, warnings)
    if calibration and evaluation and calibration.sha256 == evaluation.sha256:
        raise InvalidArgumentError("calibration and evaluation are the same text: give another one")
    with progress.stage("Importing", 1) as done:
        imported = _import(options, target)
        done(1)
    warnings += imported.meta.get("warnings", [])
    program = fuse(imported.program)
    chunk = min(options.chunk or target.defaults.chunk, program.context)
    program = replace(program, chunk=chunk)
    return Job(
        options=options,
        recipe=recipe,
        target=target,
        choices=choices,
        imported=imported,
        program=program,
        calibration=calibration,
        evaluation=evaluation,
        warnings=warnings,
        progress=progress,
    )


def check_options(options: CompressOptions) -> tuple[Recipe, Target, Choices]:
    """Return what the options choose; reads nothing but recipe and profile.

    Raises: InvalidArgumentError for a value that no checkpoint could make right.
    """
    _check_values(options)
    recipe, target = load_recipe(options.preset), load_target(options.target)
    return recipe, target, _choices(options, recipe, target)


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


def _calibration_text(options: CompressOptions, recipe: Recipe, warnings: list[str]) -> Text | None:
    path = options.calibration
    if path is None and recipe.method.calibrate:
        path = bundled_text("calibration")
        if path is None:
            warnings.append("no calibration text: all inputs count alike; give --calibration TEXT")
    return None if path is None else read_text(path)


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
        return Encoding(format_named(name), group, recipe.method.search, layout)

    body = encoding(options.body_format, formats.body, defaults.body_format)

    return Choices(
        body=replace(body, sparsity=options.sparsity),
        head=encoding(options.head_format, formats.head, defaults.head_format),
        embedding=encoding(options.head_format, formats.embedding, defaults.head_format),
    )
