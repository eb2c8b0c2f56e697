# SPDX-License-Identifier: Apache-2.0
"""Everything that `ingot eval` measures of a file against its checkpoint, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot_compressor.calibration import pick_windows
from ingot_compressor.certificate import Judgement, judge
from ingot_compressor.evaluate import (
    LONGEST_WINDOW,
    Quality,
    Scores,
    Window,
    strided_windows,
    summarize,
    token_windows,
)
from ingot_compressor.evaluation.generation import (
    Generated,
    GenerationQuality,
    check_generation,
    summarize_generation,
)
from ingot_compressor.evaluation.items import Generate, Item, read_task
from ingot_compressor.evaluation.layers import LayerError, compare_layers, program_of_file
from ingot_compressor.evaluation.likelihood import program_scorer
from ingot_compressor.evaluation.native_scorer import file_scorer
from ingot_compressor.evaluation.recovery import Recovery
from ingot_compressor.evaluation.reference import reference_program, why_apart
from ingot_compressor.evaluation.tasks import Answer, TextEncoder, answer_items, pool
from ingot_compressor.execute import TensorStore
from ingot_compressor.ir import Program
from ingot_compressor.json_values import finite_values
from ingot_compressor.measure import measure_file, open_store
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.progress import Progress
from ingot_compressor.recipe import Gate, load_recipe
from ingot_compressor.texts import bundled_text, read_text

__all__ = [
    "CONFIDENCE",
    "EvalOptions",
    "Evaluation",
    "compare_with_checkpoint",
    "generate_items",
    "score_items",
    "scored_windows",
]

LAYER_WINDOWS = 8
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the command line gives. Units: tokens; `max_items` items of each task file.

    `text` None takes the bundled one, `window` None the context, at most 512. `gate` names a
    recipe, by whose limits a verdict is given. `calibration` is for a recipe in place of a file.
    `kv` is the format of keys and values while the text is scored.
    """

    file: Path
    source: Path
    text: Path | None = None
    max_tokens: int | None = None
    window: int | None = None
    stride: int | None = None
    tasks: tuple[str, ...] = ()
    max_items: int | None = None
    layers: bool = False
    gate: str | None = None
    calibration: Path | None = None
    kv: str = "f16"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured; `recoveries` by task, and under "pooled" of all items together.

    `notes` are sentences on what could not be measured.
    """

    quality: Quality
    answers: list[Answer] = field(default_factory=list)
    recoveries: dict[str, Recovery] = field(default_factory=dict)
    generated: list[Generated] = field(default_factory=list)
    layers: list[LayerError] = field(default_factory=list)
    judgement: Judgement | None = None
    notes: tuple[str, ...] = ()

    @property
    def generation(self) -> GenerationQuality | None:
        """The figures of generation over all items, None for none."""
        return summarize_generation(self.generated)

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object; figures that are not finite are null."""
        found: dict[str, Any] = asdict(self.quality)
        if self.recoveries:
            found["tasks"] = {
                name: {"reference_accuracy": r.reference_accuracy, "accuracy": r.accuracy}
                | asdict(r)
                for name, r in self.recoveries.items()
            }
            found["answers"] = [asdict(answer) for answer in self.answers]
        if self.generation is not None:
            found["generation"] = asdict(self.generation)
            found["generated"] = [asdict(one) for one in self.generated]
        if self.layers:
            found["layers"] = [asdict(layer) for layer in self.layers]
        if self.notes:
            found["notes"] = list(self.notes)
        if self.judgement is not None:
            found["verdict"] = self.judgement.verdict.value
            found["reason"] = self.judgement.reason
            found["limits"] = [
                {**asdict(x), "verdict": x.verdict.value} for x in self.judgement.limits
            ]
        result: dict[str, Any] = finite_values(found)
        return result


def compare_with_checkpoint(options: EvalOptions, progress: Progress) -> Evaluation:
    """Measure a file against its checkpoint.

    Raises: InvalidArgumentError if file and checkpoint do not belong together, a window does not
        fit the file's context, the text is too short, or a line of a task file is wrong.
    """
    gate = load_recipe(options.gate).gate if options.gate is not None else None
    items = [item for task in options.tasks for item in read_task(task, options.max_items)]
    with Model(options.file) as model:
        chat, encode = model.chat, partial(model.tokenizer.encode, begin=False)
        bos = chat.bos_token_id if chat.add_bos else None
        windows, plain = scored_windows(options, encode, bos, model.info.context)
        program = reference_program(options.file, options.source, model.info.context)
        store = open_store(program)
        with progress.stage("Measuring", len(windows)) as done:
            scores = measure_file(options.file, program, store, windows, done, kv=options.kv)
        answers = score_items(model, program, store, items, progress)
        recoveries = pool(answers, gate.confidence if gate is not None else CONFIDENCE)
        generated = generate_items(model, items, progress)
        apart = why_apart(options.file) if options.layers else None
        layers = _layers(options, program, plain, progress) if apart is None else []
    return Evaluation(
        summarize(scores),
        answers,
        recoveries,
        generated,
        layers,
        _judge(options, gate, scores, recoveries),
        (apart,) if apart is not None else (),
    )


def _judge(
    options: EvalOptions, gate: Gate | None, scores: Scores, recoveries: Mapping[str, Recovery]
) -> Judgement | None:
    return None if options.gate is None else judge(gate, scores, recoveries.get("pooled"))


def scored_windows(
    options: EvalOptions, encode: Callable[[str], list[int]], bos: int | None, context: int
) -> tuple[list[NDArray[np.int64] | Window], list[NDArray[np.int64]]]:
    """Return what is scored, and windows that do not overlap.

    Raises: InvalidArgumentError for a window that does not fit, or no text at all.
    """
    path = options.text or bundled_text("evaluation")
    if path is None:
        raise InvalidArgumentError("this copy has no text of its own: give --text FILE")
    if options.window is not None and options.window > context:
        raise InvalidArgumentError(
            f"--window {options.window} is longer than the context {context}"
        )
    size = options.window or min(context, LONGEST_WINDOW)
    ids = encode(read_text(path).content)
    plain = list(token_windows(ids, size, bos, options.max_tokens))
    if options.stride is None:
        return [*plain], plain
    return [*strided_windows(ids, size, options.stride, bos, options.max_tokens)], plain


def score_items(
    model: Model, program: Program, store: TensorStore, items: Sequence[Item], progress: Progress
) -> list[Answer]:
    """Return the answers of checkpoint and file to the items that are scored by likelihood."""
    encoder = TextEncoder.of_file(model.tokenizer, model.chat, model.info.context)
    reference = program_scorer(program, store)
    return answer_items(items, encoder, reference, file_scorer(model, program.vocabulary), progress)


def generate_items(
    model: Model, items: Sequence[Item], progress: Progress, threads: int = 0
) -> list[Generated]:
    """Return what the file makes of the items that ask for text."""
    wanted = [item for item in items if isinstance(item, Generate)]
    if not wanted:
        return []
    with progress.stage("Generating", len(wanted)) as done:
        return check_generation(model, wanted, done, threads)


def _layers(
    options: EvalOptions,
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    progress: Progress,
) -> list[LayerError]:
    if not options.layers:
        return []
    picked = pick_windows(windows, LAYER_WINDOWS * max(len(window) for window in windows))
    quantized = program_of_file(program, options.file)
    with progress.stage("Layers", len(split_blocks(program))) as done:
        return compare_layers(program, quantized, picked, done)
