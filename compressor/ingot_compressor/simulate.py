# SPDX-License-Identifier: Apache-2.0
"""What a grid or a rounding of activations costs, without packing: programs run in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ingot_compressor.calibration import NO_STATISTICS, Statistics
from ingot_compressor.evaluate import Logits, Quality, evaluate, summarize
from ingot_compressor.execute import Rounding, TensorStore, execute
from ingot_compressor.ir import FloatArray, Program
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.passes.activation_aware import Quantizer
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.transform import load_matrix

__all__ = [
    "compare_programs",
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
