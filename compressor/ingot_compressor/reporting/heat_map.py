# SPDX-License-Identifier: Apache-2.0
"""Weights as a map: a row for each layer, a column for each role."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ingot_compressor.reporting.drawing import label, picture, rectangle, shade
from ingot_compressor.reporting.tensors import TensorError
from ingot_compressor.weight_names import Place, order_roles, place_of

__all__ = ["bits_map", "error_map"]

CELL, ROW, LEFT, TOP = 92, 20, 70, 20
BLUE, ORANGE = (8, 69, 148), (166, 54, 3)
LEAST_BITS, MOST_BITS = 1.5, 16.0
# int8 is near 45 dB, float16 beyond it.
MOST_DECIBELS = 50.0

Weights = Sequence[TensorError]
# What a cell says of its weights, and the share of its colour.
Cell = Callable[[Weights], tuple[str, float]]


def bits_map(errors: Weights) -> str:
    """Return the map of bits per weight as SVG: darker is more, the format stands in the cell."""
    return _map(errors, BLUE, _bits, "bits per weight by layer and role")


def error_map(errors: Weights) -> str:
    """Return the map of signal to noise in dB as SVG: darker is more noise."""
    return _map(errors, ORANGE, _noise, "signal to noise by layer and role")


def _bits(weights: Weights) -> tuple[str, float]:
    counts = [8 * one.stored_bytes / one.bits_per_weight for one in weights]
    bits = 8 * sum(one.stored_bytes for one in weights) / sum(counts)
    formats = "+".join(dict.fromkeys(one.format for one in weights))
    return f"{formats} {bits:.2f}", math.log(bits / LEAST_BITS) / math.log(MOST_BITS / LEAST_BITS)


def _noise(weights: Weights) -> tuple[str, float]:
    worst = min(one.decibels for one in weights)
    text = "exact" if math.isinf(worst) and worst > 0 else f"{worst:.1f} dB"
    return text, 1 - worst / MOST_DECIBELS if math.isfinite(worst) else 0.0


def _map(errors: Weights, hue: tuple[int, int, int], cell: Cell, title: str) -> str:
    """Draw the weights in layers, and below them those that stand beside the layers."""
    places = {error.name: place_of(error.name) for error in errors}
    inside = [place for place in places.values() if place.layer is not None]
    columns = order_roles(place.role for place in inside)
    layers = sorted({place.layer for place in inside if place.layer is not None})
    beside = [error for error in errors if places[error.name].layer is None]
    parts = [
        label((LEFT + CELL * index + CELL / 2, TOP - 6), role, "middle")
        for index, role in enumerate(columns)
    ]
    for row, layer in enumerate(layers):
        parts.append(label((0, TOP + ROW * row + 14), f"layer {layer}"))
        for column, role in enumerate(columns):
            found = [e for e in errors if places[e.name] == Place(layer, role)]
            if found:
                parts.append(_cell(column, row, found, hue, cell))
    for column, error in enumerate(beside):
        place = (LEFT + CELL * column + CELL / 2, TOP + ROW * len(layers) + 18)
        parts.append(label(place, error.name, "middle"))
        parts.append(_cell(column, len(layers) + 1.2, [error], hue, cell))
    width = LEFT + CELL * max(len(columns), len(beside), 1)
    return picture(width, TOP + ROW * (len(layers) + 2.4), parts, title)


def _cell(column: int, row: float, found: Weights, hue: tuple[int, int, int], cell: Cell) -> str:
    text, share = cell(found)
    fill, ink = shade(share, hue)
    x, y = LEFT + CELL * column, TOP + ROW * row
    title = "; ".join(
        f"{one.name}: {one.format}, {one.stored_bytes} bytes, {one.decibels:.1f} dB"
        for one in found
    )
    box = rectangle((x, y), (CELL - 2, ROW - 2), fill, title)
    return box + label((x + CELL / 2 - 1, y + 13), text, "middle", ink)
