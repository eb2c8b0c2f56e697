# SPDX-License-Identifier: Apache-2.0
"""The error of every layer as bars: of the file from its beginning, and of the layer alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot_compressor.evaluation.layers import LayerError
from ingot_compressor.reporting.drawing import Axis, label, picture, rectangle

__all__ = ["layer_chart"]

ROW, LEFT, RIGHT, WIDTH = 22, 80, 440, 760
FROM_BEGINNING, ALONE = "#08519c", "#9ecae1"


def layer_chart(layers: Sequence[LayerError]) -> str:
    """Return signal to noise in dB as SVG, longer is better, with the cosine beside it."""
    finite = [
        value
        for one in layers
        for value in (one.decibels, one.own_decibels)
        if math.isfinite(value)
    ]
    axis = Axis(0, max([*finite, 1.0]), LEFT, RIGHT)
    parts = [part for row, layer in enumerate(layers) for part in _row(row, layer, axis)]
    return picture(WIDTH, ROW * len(layers) + 4, parts, "signal to noise of each layer")


def _row(row: int, layer: LayerError, axis: Axis) -> list[str]:
    y = ROW * row
    bars = ((layer.decibels, FROM_BEGINNING, y + 3), (layer.own_decibels, ALONE, y + 11))
    parts = [label((0, y + 14), layer.name)]
    for value, colour, top in bars:
        length = axis.at(value if math.isfinite(value) else axis.high) - LEFT
        parts.append(rectangle((LEFT, top), (length, 7), colour, f"{layer.name}: {value:.2f} dB"))
    end = max(axis.at(value) for value, _, _ in bars)
    text = f"{layer.decibels:.1f} dB, alone {layer.own_decibels:.1f}; cosine {layer.cosine:.5f}"
    return [*parts, label((end + 6, y + 14), text)]
