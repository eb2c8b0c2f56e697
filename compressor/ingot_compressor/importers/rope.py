# SPDX-License-Identifier: Apache-2.0
"""Rotary position tables, with the scaling variants of Hugging Face configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import IngotError
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.ir import FloatArray

__all__ = ["Rope", "read_rope", "rope_table"]

SUPPORTED = ("default", "linear", "dynamic", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn: `kind` is one of default, linear, dynamic, llama3."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_context: int = 0  # dynamic and llama3
    low_frequency: float = 1.0  # llama3
    high_frequency: float = 4.0  # llama3


def read_rope(config: Configuration, longest: int) -> Rope:
    """Read `rope_parameters`, or `rope_theta` and `rope_scaling` of older configurations.

    `longest` is max_position_embeddings, from which dynamic scaling starts.

    Raises: IngotError for an unknown kind of scaling or a bad parameter.
    """
    values = _scaling(config)
    kind = str(values.get("rope_type", values.get("type", "default")))
    if kind not in SUPPORTED:
        raise IngotError(
            f"config.json: rope_type {kind!r} is not supported; supported: {', '.join(SUPPORTED)}"
        )
    scaling = Configuration(values)
    scaling.refuse("partial_rotary_factor", (1,), "only whole heads are rotated")
    theta = scaling.number("rope_theta", config.number("rope_theta", 10000.0))
    if kind == "default":
        return Rope(theta)
    if kind == "llama3":
        low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
        if low >= high:
            raise IngotError(
                f"config.json: low_freq_factor {low} is not below high_freq_factor {high}"
            )
        return Rope(
            theta=theta,
            kind=kind,
            factor=scaling.number("factor"),
            original_context=scaling.integer("original_max_position_embeddings"),
            low_frequency=low,
            high_frequency=high,
        )
    return Rope(theta, kind, factor=scaling.number("factor"), original_context=longest)


def _scaling(config: Configuration) -> Mapping[str, Any]:
    """Return the one object that describes scaling."""
    both = {**config.mapping("rope_scaling"), **config.mapping("rope_parameters")}
    if any(isinstance(value, Mapping) for value in both.values()):
        raise IngotError("config.json: rope_parameters per layer type are not supported")
    return both


def rope_table(rope: Rope, size: int, context: int) -> FloatArray:
    """Return the table of a program's rope constant.

    Shapes: result (context, size) float32, cosines of size / 2 angles, then their sines.

    Raises: IngotError if the parameters give angles beyond float64.
    """
    with np.errstate(all="ignore"):
        try:
            frequencies = _frequencies(rope, size, context)
        except (OverflowError, ZeroDivisionError):
            frequencies = np.full(size // 2, np.inf)
        angles = np.arange(context, dtype=np.float64)[:, None] * frequencies[None, :]
        table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    if not np.isfinite(table).all():
        raise IngotError(f"config.json: {rope} gives no angles for a head size of {size}")
    return table


def _frequencies(rope: Rope, size: int, context: int) -> NDArray[np.float64]:
    """Return radians per position, (size / 2,)."""
    theta = rope.theta
    if rope.kind == "dynamic" and context > rope.original_context:
        growth = rope.factor * context / rope.original_context - (rope.factor - 1.0)
        theta *= growth ** (size / (size - 2))
    frequencies = theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, frequencies)
    return frequencies


def _llama3(rope: Rope, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slow down what turns fewer than `low_frequency` times in the trained context.

    Between low and high turns the two are blended linearly.
    """
    turns = rope.original_context * frequencies / (2.0 * math.pi)
    keep = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
    keep = np.clip(keep, 0.0, 1.0)
    return keep * frequencies + (1.0 - keep) * frequencies / rope.factor
