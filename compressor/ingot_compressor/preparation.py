# SPDX-License-Identifier: Apache-2.0
"""What a recipe does to the model before it is quantized: parts taken out, weights transformed.

All of it runs on the program as imported, before `fuse`, and each pass that needs statistics
gathers them on the program that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import AttentionParameters, Role
from ingot_compressor.calibration import Statistics, calibrate
from ingot_compressor.evaluate import log_softmax
from ingot_compressor.ir import Program
from ingot_compressor.measure import open_store, reference_logits
from ingot_compressor.numerics import Encoding, group_of
from ingot_compressor.passes.activation_aware import (
    Quantizer,
    clip_weights,
    scale_for_activations,
)
from ingot_compressor.passes.fuse import drop_unused
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.structured import (
    Removal,
    block_influence,
    drop_layers,
    least_influential,
    prune_channels,
    prune_head_groups,
)
from ingot_compressor.passes.transform import fold_norms, rotate_residual, rotate_values, smooth
from ingot_compressor.progress import Progress
from ingot_compressor.recipe import Prune, Recipe, Transform
from ingot_compressor.simulate import encoding_quantizer

__all__ = ["Evidence", "Prepared", "lost_probability", "prepare_program"]

# A search on activations quantizes every weight and runs every layer some twenty times.
SEARCH_TOKENS = 4096
# What magnitudes are relative to, and clips, where a format has one scale for a whole row.
SEARCH_GROUP = 32

Windows = Sequence[NDArray[np.int64]]
Pruned = tuple[Program, tuple[Removal, ...]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What passes judge by: text, the format of the body, and how many threads may quantize.

    Shapes: windows each (t,) int64, of one length; none where there is no text.
    """

    windows: Windows
    body: Encoding
    progress: Progress
    threads: int = 1

    def statistics(self, program: Program, stage: str) -> Statistics:
        """Return what flows through a program."""
        with self.progress.stage(stage, sum(len(window) for window in self.windows)) as done:
            return calibrate(program, self.windows, open_store(program), done)

    def few_windows(self) -> Windows:
        """Return windows of at most SEARCH_TOKENS together, spread over the text."""
        most = max(1, SEARCH_TOKENS // len(self.windows[0]))
        count = min(most, len(self.windows))
        chosen = np.linspace(0, len(self.windows) - 1, count).round().astype(int)
        return [self.windows[index] for index in chosen]

    def quantizer(self) -> Quantizer:
        """Return the format of the body, without holes, as a search tries it."""
        return encoding_quantizer(replace(self.body, sparsity=0.0), self.threads)

    @property
    def group(self) -> int:
        """Columns that are searched together."""
        return group_of(self.body.dtype, self.body.group) or SEARCH_GROUP


@dataclass(frozen=True, slots=True)
class Prepared:
    """The program to quantize, still unfused. `lossless`: it computes what it was made from.

    `removed` says for people and files what went, by kind; `parameters` went with it.
    """

    program: Program
    lossless: bool = True
    removed: Mapping[str, Any] | None = None
    parameters: int = 0


def prepare_program(program: Program, recipe: Recipe, evidence: Evidence) -> Prepared:
    """Return the program with what the recipe's sections `prune` and `transform` do to it.

    Parts go first, so that the transforms see the model that stays.

    Raises: InvalidArgumentError for a section that needs text where there is none, or that does not
        fit the model.
    """
    prune, transform = recipe.prune or Prune(), recipe.transform or Transform()
    for section, wanted in (("prune", prune.structured), ("transform", transform.searched)):
        if wanted and not evidence.windows:
            raise InvalidArgumentError(
                f"recipe {recipe.name}: section '{section}' judges by text: give --calibration TEXT"
                " of more than a few words"
            )
    pruned, removals = _prune(program, prune, evidence)
    result = _transform(pruned, transform, evidence)
    return Prepared(
        program=result,
        lossless=not removals and not transform.clip,
        removed=_summary(removals),
        parameters=_parameters(program) - _parameters(pruned),
    )


def _parameters(program: Program) -> int:
    tensors = drop_unused(program).tensors.values()
    stored = (one for one in tensors if one.role in (Role.WEIGHT, Role.CONSTANT))
    return sum(int(np.prod(one.shape)) for one in stored)


def _prune(program: Program, prune: Prune, evidence: Evidence) -> Pruned:
    """Take parts out in the recipe's order."""
    passes: dict[str, Callable[[Program, float, Evidence], Pruned]] = {
        "layers": _without_layers,
        "head_groups": _without_head_groups,
        "channels": _without_channels,
    }
    removals: tuple[Removal, ...] = ()
    for part in prune.order:
        amount = prune.amount(part)
        if amount > 0:
            program, found = passes[part](program, amount, evidence)
            removals += found
    return program, removals


def _without_layers(program: Program, count: float, evidence: Evidence) -> Pruned:
    with evidence.progress.stage("Pruning layers", 1) as done:
        influence = block_influence(program, evidence.windows, open_store(program))
        result = drop_layers(program, least_influential(influence, int(count)))
        done(1)
    return result


def _without_head_groups(program: Program, amount: float, evidence: Evidence) -> Pruned:
    """Take out a share of the groups of every attention, or from 1 on a number of them."""
    statistics = evidence.statistics(program, "Pruning head groups")
    share = amount if amount < 1 else amount / _fewest_groups(program)
    return prune_head_groups(program, statistics, share)


def _fewest_groups(program: Program) -> int:
    found = [op.parameters for op in program.operations]
    groups = [one.kv_heads for one in found if isinstance(one, AttentionParameters)]
    return min(groups, default=1)


def _without_channels(program: Program, share: float, evidence: Evidence) -> Pruned:
    statistics = evidence.statistics(program, "Pruning channels")
    return prune_channels(program, statistics, share)


def _summary(removals: Sequence[Removal]) -> dict[str, Any]:
    """Return numbers of layers, and of other parts how many: of thousands the list says little."""
    found: dict[str, Any] = {}
    for one in removals:
        key = one.what.replace(" ", "_")
        if one.what == "layers":
            entry = found.setdefault(key, {"removed": [], "of": one.of})
            entry["removed"] += one.removed
        else:
            entry = found.setdefault(key, {"removed": 0, "of": 0})
            entry["removed"] += len(one.removed)
            entry["of"] += one.of
    return found


def _transform(program: Program, transform: Transform, evidence: Evidence) -> Program:
    """Change weights in the recipe's order.

    By default rotations come first, then scales, then clips: folding norms for a rotation undoes
    scales that came before it, and clips hold for the weights that they were found on.
    """
    passes: dict[str, Callable[[Program, Transform, Evidence], Program]] = {
        "fold_norms": _folded,
        "rotate": _rotated,
        "smooth": _smoothed,
        "activation_aware": _scaled,
        "clip": _clipped,
    }
    for name in transform.order:
        program = passes[name](program, transform, evidence)
    return program


def _folded(program: Program, transform: Transform, evidence: Evidence) -> Program:
    return fold_norms(program) if transform.fold_norms else program


def _rotated(program: Program, transform: Transform, evidence: Evidence) -> Program:
    if transform.rotate in ("residual", "both"):
        program = rotate_residual(program, transform.seed)
    if transform.rotate in ("values", "both"):
        program = rotate_values(program, transform.seed)
    return program


def _smoothed(program: Program, transform: Transform, evidence: Evidence) -> Program:
    if transform.smooth == 0:
        return program
    return smooth(program, evidence.statistics(program, "Smoothing"), transform.smooth)


def _scaled(program: Program, transform: Transform, evidence: Evidence) -> Program:
    if not transform.activation_aware:
        return program
    seen = 0
    with evidence.progress.stage("Searching scales", len(body_names(program))) as done:

        def count(choice: object) -> None:
            nonlocal seen
            seen += 1
            done(seen)

        result, _ = scale_for_activations(
            program,
            evidence.few_windows(),
            evidence.quantizer(),
            group=evidence.group,
            progress=count,
        )
        # not every weight has inputs that may be scaled
        done(len(body_names(program)))
    return result


def _clipped(program: Program, transform: Transform, evidence: Evidence) -> Program:
    if not transform.clip:
        return program
    seen = 0
    with evidence.progress.stage("Searching clips", len(body_names(program))) as done:

        def count(name: str) -> None:
            nonlocal seen
            seen += 1
            done(seen)

        result = clip_weights(
            program,
            evidence.few_windows(),
            evidence.quantizer(),
            group=evidence.group,
            progress=count,
        )
        # queries and keys are left as they are
        done(len(body_names(program)))
    return result


def lost_probability(program: Program, kept: NDArray[np.int64], windows: Windows) -> float:
    """Return the mean probability that a model gives to the ids that are not kept.

    Shapes: kept (ids,); windows each (t,) int64, at least one.
    """
    logits = reference_logits(program, open_store(program))
    gone = np.ones(program.vocabulary, np.bool_)
    gone[kept[kept < program.vocabulary]] = False
    lost = [np.exp(log_softmax(logits(window))[:, gone]).sum(axis=1) for window in windows]
    return float(np.concatenate(lost).mean())
