# SPDX-License-Identifier: Apache-2.0
"""What a grid or a rounding of activations costs, without packing: programs run in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ingot_compressor.calibration import NO_STATISTICS, Statistics
from ingot_compressor.evaluate import (
    Logits,
    Quality,
    Scores,
    Window,
    evaluate,
    join_scores,
    summarize,
)
from ingot_compressor.execute import Rounding, TensorStore, execute
from ingot_compressor.ir import FloatArray, Program
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.passes.activation_aware import Quantizer
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.transform import load_matrix

__all__ = [
    "compare_programs",
    "compare_roundings",
    "data_free",
    "encoding_quantizer",
    "simulated_logits",
    "simulated_weights",
]


def encoding_quantizer(encoding: Encoding, threads: int = 1) -> Quantizer:
    """Return a format of record as a quantizer: what a packed file would hold."""
    from ingot.packing import dequantize

    def run(w: FloatArray, importance: NDArray[np.float64] | None) -> FloatArray:
        return dequantize(quantize_matrix(w, encoding, importance, threads))

    return run


def data_free(function: Callable[[FloatArray], FloatArray]) -> Quantizer:
    """Return a grid that knows nothing of inputs as a quantizer."""
    return lambda w, importance: function(w)


def simulated_weights(
    program: Program,
    quantizer: Quantizer,
    statistics: Statistics = NO_STATISTICS,
    names: Iterable[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Return weights as a quantizer leaves them, for `execute`; those of the body if no `names`.

    Shapes: each (n, k) float32.
    Cost: all of them in memory.
    """
    return {
        name: torch.from_numpy(
            quantizer(load_matrix(program.tensors[name]), statistics.importance(name))
        )
        for name in (body_names(program) if names is None else names)
    }


def simulated_logits(
    program: Program,
    store: TensorStore,
    weights: dict[str, torch.Tensor] | None = None,
    activation: Rounding | None = None,
) -> Logits:
    """Return a program as a function from tokens to logits, with what is given replaced."""

    def run(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        given = torch.from_numpy(tokens)[None]
        with torch.inference_mode():
            logits = execute(program, given, store=store, weights=weights, activation=activation)
        result: NDArray[np.float32] = logits[0, :, : program.vocabulary].numpy()
        return result

    return run


def compare_programs(
    reference: Program,
    candidate: Program,
    windows: Sequence[NDArray[np.int64]],
    weights: dict[str, torch.Tensor] | None = None,
    activation: Rounding | None = None,
) -> Quality:
    """Return the quality of a candidate, with replaced weights and rounded inputs, by windows.

    Raises: InvalidArgumentError if the windows score nothing or the vocabularies differ.
    Cost: both programs' weights in memory.
    """
    exact = simulated_logits(reference, TensorStore())
    tried = simulated_logits(candidate, TensorStore(), weights, activation)
    return summarize(evaluate(windows, exact, tried))


def compare_roundings(
    reference: Logits,
    candidates: Mapping[str, Logits],
    windows: Sequence[NDArray[np.int64] | Window],
    progress: Callable[[int], None] | None = None,
) -> dict[str, tuple[Scores, Scores]]:
    """Score candidates against a reference, and each against the first candidate.

    Every window is run once by each model, with the logits of two of them in memory besides one
    more. `progress` is told the windows done so far.
    Raises: InvalidArgumentError if there is no window.
    """
    parts: dict[str, list[tuple[Scores, Scores]]] = {name: [] for name in candidates}
    for count, window in enumerate(windows, 1):
        tokens = window.tokens if isinstance(window, Window) else window
        exact = reference(tokens)
        first: NDArray[np.float32] | None = None
        for name, run in candidates.items():
            tried = run(tokens)
            first = tried if first is None else first
            parts[name].append((_scores(window, exact, tried), _scores(window, first, tried)))
        if progress is not None:
            progress(count)
    if not windows:
        evaluate(windows, reference, reference)
    return {
        name: (join_scores([one for one, _ in found]), join_scores([one for _, one in found]))
        for name, found in parts.items()
    }


def _scores(
    window: NDArray[np.int64] | Window, right: NDArray[np.float32], tried: NDArray[np.float32]
) -> Scores:
    return evaluate([window], lambda tokens: right, lambda tokens: tried)
