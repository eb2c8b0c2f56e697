# SPDX-License-Identifier: Apache-2.0
"""Where the divergence of a file comes from: its layers, its roles, its weights, its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot_compressor.calibration import pick_windows
from ingot_compressor.evaluate import UNSCORED, token_windows
from ingot_compressor.evaluation.layers import program_of_file
from ingot_compressor.evaluation.reference import reference_program, why_apart
from ingot_compressor.evaluation.worst import (
    Positions,
    WorstToken,
    WorstWindow,
    score_positions,
    worst_of,
)
from ingot_compressor.ir import FloatArray, Program, Weight
from ingot_compressor.json_values import finite_values
from ingot_compressor.measure import open_store, packed_windows
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.swapped import SwappedRun
from ingot_compressor.progress import Progress
from ingot_compressor.texts import bundled_text, read_text
from ingot_compressor.weight_names import order_roles, place_of

__all__ = ["Contribution", "ExplainOptions", "Explanation", "explain"]

# Shorter than in `ingot eval`: worst windows are places in the text, not chapters.
WINDOW = 256
# Block by block, the weights that are swapped there.
Swaps = Mapping[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """What the command line gives. Units: tokens; `worst` tokens and windows are shown.

    `text` None takes the bundled one, `window` None the context, at most 256.
    """

    file: Path
    source: Path
    text: Path | None = None
    max_tokens: int = 2048
    window: int | None = None
    worst: int = 10
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Contribution:
    """The mean KL, in nats, where the weights named are the file's and all others the checkpoint's.

    `formats` are those of the weights, each once.
    """

    name: str
    mean_kl: float
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Contributions, each list with the largest first. Units: nats, tokens.

    `mean_kl` is the file in the native runtime; `weights_kl` all its weights in full-precision
    arithmetic, so that the difference is what activations and keys and values lose. `weights` are
    those of the worst layer. Of a file whose weights do not fit the checkpoint one by one there are
    no parts, and `note` says why.
    """

    mean_kl: float
    weights_kl: float | None
    embedding: Contribution | None
    head: Contribution | None
    layers: tuple[Contribution, ...]
    roles: tuple[Contribution, ...]
    weights: tuple[Contribution, ...]
    worst_tokens: tuple[WorstToken, ...]
    worst_windows: tuple[WorstWindow, ...]
    tokens: int
    windows: int
    window: int
    note: str | None = None

    @property
    def ends(self) -> tuple[Contribution, ...]:
        """Embedding and head, where parts were measured."""
        return tuple(one for one in (self.embedding, self.head) if one is not None)

    @property
    def sum_of_layers(self) -> float | None:
        """Embedding, head and every layer alone, added up; None without parts."""
        return _total([*self.ends, *self.layers]) if self.ends else None

    @property
    def sum_of_roles(self) -> float | None:
        """Embedding, head and every role alone, added up; None without parts."""
        return _total([*self.ends, *self.roles]) if self.ends else None

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object; figures that are not finite are null."""
        sums = {"sum_of_layers": self.sum_of_layers, "sum_of_roles": self.sum_of_roles}
        result: dict[str, Any] = finite_values(asdict(self) | sums)
        return result


def _total(parts: Sequence[Contribution]) -> float:
    return sum(part.mean_kl for part in parts)


def explain(options: ExplainOptions, progress: Progress) -> Explanation:
    """Measure what each part of a file adds to its divergence from the checkpoint.

    Raises: InvalidArgumentError if file and checkpoint do not belong together, a window does not
        fit the file's context, or the text is too short.
    Cost: about half a run of the model for each layer and weight of the worst one, a run for each
        role, and two more; the checkpoint's weights in memory where they fit.
    """
    with Model(options.file) as model:
        windows = _windows(options, model)
        program = reference_program(options.file, options.source, model.info.context)
        if model.info.vocabulary != program.vocabulary:
            raise InvalidArgumentError(
                f"{options.file.name} has {model.info.vocabulary} ids, the checkpoint"
                f" {program.vocabulary}: not the same model"
            )
        apart = why_apart(options.file)
        # without parts the reference alone is run
        stored = program_of_file(program, options.file) if apart is None else program
        run = _reference_run(program, stored, windows, progress)
        parts = _Parts() if apart is not None else _parts(_Attribution(run, stored), progress)
        found = _positions(options, model, run, windows, progress)
        tokens, places = worst_of(windows, found, model.tokenizer, options.worst)
    return Explanation(
        mean_kl=float(np.concatenate([one.kl for one in found]).mean()),
        weights_kl=parts.weights_kl,
        embedding=parts.embedding,
        head=parts.head,
        layers=parts.layers,
        roles=parts.roles,
        weights=parts.weights,
        worst_tokens=tokens,
        worst_windows=places,
        tokens=sum(len(one.kl) for one in found),
        windows=len(windows),
        window=len(windows[0]),
        note=apart,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an explanation says of parts of the file."""

    weights_kl: float | None = None
    embedding: Contribution | None = None
    head: Contribution | None = None
    layers: tuple[Contribution, ...] = ()
    roles: tuple[Contribution, ...] = ()
    weights: tuple[Contribution, ...] = ()


def _parts(attribution: _Attribution, progress: Progress) -> _Parts:
    """Measure every part alone, and all weights together."""
    embedding, head = attribution.ends()
    layers = attribution.measure(attribution.by_layer(), progress, "Layers")
    roles = attribution.measure(attribution.by_role(), progress, "Roles")
    worst = attribution.by_weight(layers[0].name) if layers else {}
    weights = attribution.measure(worst, progress, "Worst layer")
    return _Parts(attribution.whole(), embedding, head, layers, roles, weights)


def _windows(options: ExplainOptions, model: Model) -> list[NDArray[np.int64]]:
    """Return windows of one length, spread over the text."""
    path = options.text or bundled_text("evaluation")
    if path is None:
        raise InvalidArgumentError("this copy has no text of its own: give --text FILE")
    context, chat = model.info.context, model.chat
    size = options.window or min(context, WINDOW)
    if size > context:
        raise InvalidArgumentError(f"--window {size} is longer than the file's context {context}")
    bos = chat.bos_token_id if chat.add_bos else None
    ids = model.tokenizer.encode(read_text(path).content, begin=False)
    found = pick_windows(list(token_windows(ids, size, bos)), options.max_tokens)
    if not found or len(found[0]) < UNSCORED + 2:
        raise InvalidArgumentError(
            f"the text gives no window of more than {UNSCORED + 1} tokens: give a longer text"
        )
    return found


def _reference_run(
    program: Program, stored: Program, windows: list[NDArray[np.int64]], progress: Progress
) -> SwappedRun:
    def load(name: str) -> FloatArray:
        source = stored.tensors[name].source
        if not isinstance(source, Weight):
            raise InvalidArgumentError(f"'{name}' is no weight of the file")
        return source.load()

    with progress.stage("Reference", len(split_blocks(program))) as done:
        return SwappedRun(program, load, windows, open_store(program), done)


def _positions(
    options: ExplainOptions,
    model: Model,
    run: SwappedRun,
    windows: list[NDArray[np.int64]],
    progress: Progress,
) -> list[Positions]:
    """Score the file in the native runtime."""
    found: list[Positions] = []
    with progress.stage("Measuring", len(windows)) as done:
        logits = packed_windows(model, windows, model.info.vocabulary, options.threads)
        for index, (window, candidate) in enumerate(zip(windows, logits, strict=True)):
            scored = candidate[UNSCORED - 1 : -1]
            found.append(score_positions(run.logits(index), scored, window[UNSCORED:]))
            done(index + 1)
    return found


class _Attribution:
    """The parts of a program by block, and what each adds."""

    def __init__(self, run: SwappedRun, stored: Program) -> None:
        self._run, self._stored = run, stored
        self._names = [tuple(one.name for one in block.weights()) for block in run.blocks]
        self._body = range(1, len(run.blocks) - 1)

    def ends(self) -> tuple[Contribution, Contribution]:
        """Return the embedding and the head, each in its own place alone."""
        last = len(self._names) - 1
        first, end = {0: self._names[0]}, {last: self._names[last]}
        return self._one("embedding", first), self._one("head", end)

    def whole(self) -> float:
        """Return the divergence with every weight swapped."""
        return self._run.divergence(dict(enumerate(self._names)))

    def by_layer(self) -> dict[str, Swaps]:
        """Return all weights of one block, for each block of the body."""
        return {f"layer {index - 1}": {index: self._names[index]} for index in self._body}

    def by_role(self) -> dict[str, Swaps]:
        """Return the weights of one role in all blocks of the body, for each role."""
        roles = order_roles(place_of(n).role for index in self._body for n in self._names[index])
        return {role: self._of_role(role) for role in roles}

    def _of_role(self, role: str) -> Swaps:
        return {
            index: [name for name in self._names[index] if place_of(name).role == role]
            for index in self._body
        }

    def by_weight(self, layer: str) -> dict[str, Swaps]:
        """Return each weight of one layer alone."""
        ((index, names),) = self.by_layer()[layer].items()
        return {name: {index: [name]} for name in names}

    def measure(
        self, parts: Mapping[str, Swaps], progress: Progress, stage: str
    ) -> tuple[Contribution, ...]:
        """Return what each part adds, the largest first."""
        found = []
        with progress.stage(stage, max(1, len(parts))) as done:
            for name, swaps in parts.items():
                found.append(self._one(name, swaps))
                done(len(found))
        return tuple(sorted(found, key=_descending))

    def _one(self, name: str, swaps: Swaps) -> Contribution:
        names = [one for some in swaps.values() for one in some]
        formats = dict.fromkeys(self._stored.tensors[one].dtype.name.lower() for one in names)
        return Contribution(name, self._run.divergence(swaps), tuple(formats))


def _descending(part: Contribution) -> float:
    """Return the key that puts the largest first, and what is not finite before it."""
    return -part.mean_kl if np.isfinite(part.mean_kl) else -np.inf
