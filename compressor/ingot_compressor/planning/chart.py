# SPDX-License-Identifier: Apache-2.0
"""A plan as one SVG file: memory against context, and speed against size."""

from __future__ import annotations

from collections.abc import Sequence

from ingot_compressor.planning.table import PlanRow, PlanTable
from ingot_compressor.reporting.drawing import (
    Axis,
    circle,
    label,
    picture,
    polyline,
    rectangle,
    rule,
)

__all__ = ["plan_chart"]

WIDTH, HEIGHT = 760, 700
LEFT, RIGHT = 70, 660
MEMORY, SPEED = (40, 320), (400, 650)
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" '
LIMIT, OVER, INSIDE = "#b2182b", "#d08c3c", "#08519c"
# Letters of two labels at one place would hide each other.
APART = 13.0


def plan_chart(table: PlanTable) -> str:
    """Return the text of an SVG file that shows every row of a plan."""
    title = f"{table.model} on {table.target} ({table.backend})"
    parts = [rectangle((0, 0), (WIDTH, HEIGHT), "#fff"), label((LEFT, 20), title)]
    parts += _memory(table)
    parts += _speed(table)
    return picture(WIDTH, HEIGHT, parts, title).replace("<svg ", f"<svg {NAMESPACE}", 1) + "\n"


def _memory(table: PlanTable) -> list[str]:
    """Draw the planned bytes of each row against the context, and what the target has."""
    usable = table.usable_bytes / 1e6
    lines = [[(c, size / 1e6) for c, size in row.ram] for row in table.rows]
    points = [point for line in lines for point in line]
    contexts = [context for context, _ in points]
    x = Axis(min(contexts), max(contexts), LEFT, RIGHT, logarithmic=True)
    y = Axis(0, max([size for _, size in points] + [usable]) * 1.05, MEMORY[1], MEMORY[0])
    parts = _frame(x, y, MEMORY, "context, tokens", "MB of memory", sorted(set(contexts)))
    limit = y.at(usable)
    parts.append(
        f'<g stroke-dasharray="5 3">{polyline([(LEFT, limit), (RIGHT, limit)], LIMIT)}</g>'
    )
    parts.append(label((LEFT + 4, limit - 4), f"usable, {usable:.0f} MB", colour=LIMIT))
    for row, line in zip(table.rows, lines, strict=True):
        parts.append(polyline([(x.at(c), y.at(size)) for c, size in line], _colour(row)))
    ends = [(y.at(line[-1][1]), _name(row)) for row, line in zip(table.rows, lines, strict=True)]
    return parts + [label((RIGHT + 6, at + 4), name) for at, name in _spread(ends)]


def _speed(table: PlanTable) -> list[str]:
    """Draw decode speed against the size of the file, with the error stated for it."""
    off = table.errors["decode"].median if "decode" in table.errors else 0.0
    sizes = [row.file_bytes / 1e6 for row in table.rows]
    most = max(row.decode for row in table.rows) * (1 + off) * 1.05
    x, y = Axis(0, max(sizes) * 1.05, LEFT, RIGHT), Axis(0, most, SPEED[1], SPEED[0])
    parts = _frame(x, y, SPEED, "MB of the file", "tokens per second", x.ticks())
    for row, size in zip(table.rows, sizes, strict=True):
        at = x.at(size)
        ends = [(at, y.at(row.decode * (1 - off))), (at, y.at(row.decode * (1 + off)))]
        tip = f"{_name(row)}: {row.decode:.3g} tokens per second, {size:.0f} MB"
        parts += [polyline(ends, "#aaa"), circle((at, y.at(row.decode)), 4, _colour(row), tip)]
        parts.append(label((at + 6, y.at(row.decode) - 4), _name(row)))
    return parts


def _frame(
    x: Axis, y: Axis, box: tuple[int, int], below: str, beside: str, marks: Sequence[float]
) -> list[str]:
    parts = []
    for value in y.ticks():
        parts.append(rule((LEFT, y.at(value)), (RIGHT, y.at(value))))
        parts.append(label((LEFT - 6, y.at(value) + 4), f"{value:.3g}", "end"))
    for value in marks:
        parts.append(rule((x.at(value), box[0]), (x.at(value), box[1])))
        parts.append(label((x.at(value), box[1] + 16), f"{value:.0f}", "middle"))
    parts.append(label(((LEFT + RIGHT) / 2, box[1] + 34), below, "middle"))
    parts.append(label((4, box[0] - 8), beside))
    return parts


def _spread(ends: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return labels in the order of their height, none over another."""
    placed: list[tuple[float, str]] = []
    for at, name in sorted(ends):
        least = placed[-1][0] + APART if placed else at
        placed.append((max(at, least), name))
    return placed


def _name(row: PlanRow) -> str:
    return f"{row.body}/{row.head}"


def _colour(row: PlanRow) -> str:
    return INSIDE if row.fits else OVER
