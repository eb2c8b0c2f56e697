# SPDX-License-Identifier: Apache-2.0
"""What each format costs each weight: bytes, relative error, and divergence of the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized
from ingot_compressor.calibration import Statistics
from ingot_compressor.ir import Program, Tensor, Weight
from ingot_compressor.numerics import Encoding, relative_error
from ingot_compressor.passes.probe import Probe
from ingot_compressor.passes.quantize import quantize_tensor, stored_bytes

__all__ = [
    "ANCHORS",
    "Candidate",
    "Quantizer",
    "Tables",
    "measure_beyond",
    "measure_units",
    "predict_divergence",
    "tabulate",
]

# The formats at which a unit's divergence is measured; of the others it is predicted.
ANCHORS = (Dtype.C3, Dtype.C4)
# Below this a divergence is rounding of float32 logits.
LEAST_KL = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One format for one weight: bytes with codebook, weighted relative error, codes."""

    encoding: Encoding
    stored_bytes: int
    error: float
    quantized: Quantized


# Candidates of every weight by name, rising in stored bytes. A unit is a weight: an operation of
# several weights (q, k and v) reads each in its own format.
Tables = Mapping[str, tuple[Candidate, ...]]


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How weights are quantized; `hold` may move codes elsewhere (a spool on disk)."""

    statistics: Statistics
    threads: int = 1
    hold: Callable[[Quantized], Quantized] = lambda quantized: quantized

    def candidates(self, tensor: Tensor, encodings: Sequence[Encoding]) -> tuple[Candidate, ...]:
        """Return a weight in each encoding, rising in stored bytes; it is read once.

        Raises: InvalidArgumentError naming a tensor that cannot be stored.
        """
        if not isinstance(tensor.source, Weight):
            raise InvalidArgumentError(f"tensor '{tensor.name}' is already quantized")
        w = tensor.source.load()
        read = replace(tensor, source=Weight(tensor.source.name, tensor.source.shape, lambda: w))
        found = []
        for encoding in encodings:
            quantized = quantize_tensor(read, encoding, self.statistics, self.threads)
            error = relative_error(w, quantized, self.statistics.importance(tensor.name))
            size = stored_bytes(tensor.shape, encoding)
            found.append(Candidate(encoding, size, error, self.hold(quantized)))
        return tuple(sorted(found, key=lambda candidate: candidate.stored_bytes))


def tabulate(
    program: Program,
    options: Mapping[str, Sequence[Encoding]],
    quantizer: Quantizer,
    progress: Callable[[int], None] | None = None,
) -> dict[str, tuple[Candidate, ...]]:
    """Quantize every weight once in each of its encodings; `progress` counts weights.

    Raises: InvalidArgumentError naming a tensor that cannot be stored.
    Cost: one quantization for each weight and encoding; codes take a byte per weight of each.
    """
    tables: dict[str, tuple[Candidate, ...]] = {}
    for name, encodings in options.items():
        tables[name] = quantizer.candidates(program.tensors[name], encodings)
        if progress is not None:
            progress(len(tables))
    return tables


def measure_units(
    probe: Probe, tables: Tables, progress: Callable[[int], None] | None = None
) -> dict[str, dict[int, float]]:
    """Return the divergence with one weight alone quantized, by name and index of the candidate.

    Measured at the anchors, or at the two smallest candidates of a weight that has no anchor.
    `progress` counts weights.
    Cost: two runs of the blocks from the one that reads the weight, for each weight.
    """
    measured: dict[str, dict[int, float]] = {}
    for name, candidates in tables.items():
        measured[name] = {
            index: probe.try_out({name: candidates[index].quantized}).divergence
            for index in _anchors(candidates)
        }
        if progress is not None:
            progress(len(measured))
    return measured


def measure_beyond(
    probe: Probe,
    tables: Tables,
    picked: Sequence[int],
    measured: Mapping[str, dict[int, float]],
) -> int:
    """Measure what is picked with a larger error than anything measured of that weight.

    `measured` takes the new figures. Returns: how many there were.
    """
    count = 0
    for (name, candidates), index in zip(tables.items(), picked, strict=True):
        largest = max(candidates[known].error for known in measured[name])
        if candidates[index].error > largest:
            trial = probe.try_out({name: candidates[index].quantized})
            measured[name][index] = trial.divergence
            count += 1
    return count


def _anchors(candidates: Sequence[Candidate]) -> list[int]:
    found = [i for i, one in enumerate(candidates) if one.encoding.dtype in ANCHORS]
    return found if len(found) == len(ANCHORS) else list(range(len(candidates)))[:2]


def predict_divergence(
    errors: NDArray[np.float64], measured: Mapping[int, float]
) -> NDArray[np.float64]:
    """Return the divergence of each candidate of a weight, never falling with its error.

    A weight's sensitivity a = KL / error is taken from the measured candidates, between them
    interpolated in the logarithms, beyond them kept. What was measured stays unless it falls while
    the error rises.

    Shapes: errors (c,); measured by index; result (c,), in nats.
    Source: KL grows with the relative error, HIGGS (arXiv:2411.17525), theorem 1; isotonic
        regression by pooling adjacent violators (Barlow et al. 1972).
    """
    t2 = np.maximum(np.asarray(errors, np.float64), LEAST_KL)
    known = sorted(measured, key=lambda index: t2[index])
    kl = np.array([max(measured[index], LEAST_KL) for index in known])
    sensitivity = np.exp(np.interp(np.log(t2), np.log(t2[known]), np.log(kl / t2[known])))
    predicted = np.where(np.asarray(errors) > 0, sensitivity * t2, 0.0)
    predicted[known] = [measured[index] for index in known]
    order = np.argsort(errors, kind="stable")
    predicted[order] = optimize.isotonic_regression(predicted[order]).x
    return predicted
