# SPDX-License-Identifier: Apache-2.0
"""Lines and points: the losses of a training, and what divergence could be had for which size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ingot_compressor.passes.mixed import Choice
from ingot_compressor.reporting.drawing import (
    Axis,
    circle,
    label,
    picture,
    polyline,
    rule,
)

__all__ = ["loss_curve", "neighbour_plot", "pareto_plot"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 80, 620, 26, 260
# More points than pixels say nothing.
MOST_POINTS = 540
LEAST = 1e-9
LINE, MEASURED, NEIGHBOUR, CHOSEN = "#08519c", "#d08c3c", "#7f8c9d", "#b2182b"

# Bytes, divergence, what it is; dots of one radius and colour.
Dot = tuple[int, float, str]
Group = tuple[Sequence[Dot], float, str]


def loss_curve(losses: Sequence[float]) -> str:
    """Return the losses of all steps as SVG; of very many, the mean of those of one pixel."""
    points = [(step, value) for step, value in _thinned(losses) if math.isfinite(value)]
    if not points:
        return ""
    values = [value for _, value in points]
    x = Axis(0, max(len(losses) - 1, 1), LEFT, RIGHT)
    y = Axis(min(values), max(values), BOTTOM, TOP)
    parts = _frame(x, y, "step", "loss", lambda value: f"{value:.0f}")
    parts.append(polyline([(x.at(step), y.at(value)) for step, value in points], LINE))
    return picture(WIDTH, HEIGHT, parts, "loss by step of the training")


def _thinned(losses: Sequence[float]) -> list[tuple[float, float]]:
    size = -(-len(losses) // MOST_POINTS)
    return [
        (first + (len(part) - 1) / 2, sum(part) / len(part))
        for first in range(0, len(losses), max(size, 1))
        if (part := losses[first : first + size])
    ]


def pareto_plot(choice: Choice) -> str:
    """Return size against divergence as SVG: the curve, whole mixes, the result, its neighbours.

    The vertical axis is logarithmic.
    """
    curve = [
        (p.weight_bytes, p.divergence, f"{p.bits_per_weight_body:.2f} bits per weight")
        for p in choice.curve
    ]
    measured = [
        (one.weight_bytes, one.divergence, f"{one.name}, measured") for one in choice.compared
    ]
    groups = [
        (measured, 4.0, MEASURED),
        ([_result(choice)], 6.0, CHOSEN),
        (_neighbours(choice), 1.5, NEIGHBOUR),
        (curve, 2.5, LINE),
    ]
    return _plot(choice, groups, curve, "divergence against bytes of weights", True)


def neighbour_plot(choice: Choice) -> str:
    """Return the result and its neighbours as SVG, each with one weight a format up or down.

    Their divergence is the result's and what is predicted for the step.
    """
    near = _neighbours(choice)
    if not near:
        return ""
    groups = [(near, 3.0, NEIGHBOUR), ([_result(choice)], 5.0, CHOSEN)]
    return _plot(choice, groups, [], "divergence against bytes of weights, near the result", False)


def _plot(
    choice: Choice, groups: Sequence[Group], line: Sequence[Dot], title: str, logarithmic: bool
) -> str:
    """Draw groups of dots, and a line through some of them, on axes that hold all."""
    dots = [dot for group, _, _ in groups for dot in group]
    heights = [max(dot[1], LEAST) for dot in dots]
    x = Axis(min(dot[0] for dot in dots), max(dot[0] for dot in dots), LEFT, RIGHT)
    y = Axis(min(heights), max(heights), BOTTOM, TOP, logarithmic)
    name = "KL, nats" if choice.divergence is not None else "weighted relative error"
    parts = _frame(x, y, "MB of weights", name, lambda value: f"{value / 1e6:.3f}")
    if line:
        parts.append(polyline([(x.at(dot[0]), y.at(dot[1])) for dot in line], LINE))
    parts += [
        circle((x.at(size), y.at(value)), radius, colour, f"{text}: {size} bytes, {value:.3g}")
        for group, radius, colour in groups
        for size, value, text in group
    ]
    return picture(WIDTH, HEIGHT, parts, title)


def _result(choice: Choice) -> Dot:
    own = choice.predicted if choice.divergence is None else choice.divergence
    return choice.sizes.weight_bytes, own, "the result"


def _neighbours(choice: Choice) -> list[Dot]:
    """Return the result with one weight's format changed; below zero says nothing."""
    size, own, _ = _result(choice)
    return [
        (size + step[1], own + step[2], f"{one.name} as {step[0]}")
        for one in choice.tensors
        for step in (one.lower, one.higher)
        if step is not None and own + step[2] > 0
    ]


def _frame(x: Axis, y: Axis, below: str, beside: str, text: Callable[[float], str]) -> list[str]:
    """Return lines and figures of both axes, and their names; `text` writes the horizontal ones."""
    parts = []
    for value in y.ticks():
        parts.append(rule((LEFT, y.at(value)), (RIGHT, y.at(value))))
        parts.append(label((LEFT - 6, y.at(value) + 4), f"{value:.3g}", "end"))
    for value in x.ticks():
        parts.append(rule((x.at(value), TOP), (x.at(value), BOTTOM)))
        parts.append(label((x.at(value), BOTTOM + 16), text(value), "middle"))
    parts.append(label(((LEFT + RIGHT) / 2, BOTTOM + 34), below, "middle"))
    parts.append(label((4, TOP - 12), beside))
    return parts
