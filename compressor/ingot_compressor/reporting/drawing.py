# SPDX-License-Identifier: Apache-2.0
"""The few marks that the pictures are made of, as SVG text."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "circle", "label", "picture", "polyline", "rectangle", "rule", "shade"]

Point = tuple[float, float]
# Above this share of a shade letters on it are white.
DARK = 0.55


@dataclass(frozen=True, slots=True)
class Axis:
    """A line of values from `low` to `high`, drawn from pixel `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value, within the axis."""
        low, high, own = (self._scaled(one) for one in (self.low, self.high, value))
        share = (own - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """Return values at equal distances: ends included, in logarithms on such an axis."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        values = [low + (high - low) * index / (count - 1) for index in range(count)]
        return [math.exp(one) if self.logarithmic else one for one in values]

    def _scaled(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self.logarithmic else value


def picture(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """Return an SVG element with a title for those who cannot see it."""
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" role="img" font-size="11"'
        f' aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


def label(at: Point, text: str, anchor: str = "start", colour: str = "#222") -> str:
    """Return text; `anchor` is start, middle or end."""
    x, y = at
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )


def rectangle(at: Point, size: Point, fill: str, title: str = "") -> str:
    """Return a rectangle; `title` appears where a pointer rests on it."""
    (x, y), (width, height) = at, size
    shown = f"<title>{html.escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' fill="{fill}">{shown}</rect>'
    )


def circle(at: Point, radius: float, fill: str, title: str) -> str:
    """Return a dot; `title` appears where a pointer rests on it."""
    return (
        f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}" fill="{fill}">'
        f"<title>{html.escape(title)}</title></circle>"
    )


def polyline(points: Sequence[Point], stroke: str) -> str:
    """Return a line through points."""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{stroke}" stroke-width="1.5"/>'


def rule(begin: Point, end: Point) -> str:
    """Return a thin grey line."""
    (x, y), (u, v) = begin, end
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" stroke="#ddd"/>'


def shade(share: float, hue: tuple[int, int, int]) -> tuple[str, str]:
    """Return a colour between near white (0) and a hue (1), and that of letters on it."""
    share = min(max(share, 0.0), 1.0)
    mixed = [round(248 + (part - 248) * share) for part in hue]
    return "#" + "".join(f"{part:02x}" for part in mixed), "#fff" if share > DARK else "#222"
