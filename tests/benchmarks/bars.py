# SPDX-License-Identifier: Apache-2.0
"""What a benchmark must reach, and how its figures are printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "print_bars", "spread"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar and whether it is reached; `judged` is false where the machine's state forbids it."""

    what: str
    value: float
    limit: float
    at_most: bool = False
    judged: bool = True

    @property
    def reached(self) -> bool:
        """Say whether the value is on the right side of the limit; what is not judged is."""
        right = self.value <= self.limit if self.at_most else self.value >= self.limit
        return right or not self.judged


def spread(values: Sequence[float]) -> str:
    """Return least, median and most as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:8.2f} {middle:8.2f} {high:8.2f}"


def print_bars(bars: Sequence[Bar]) -> bool:
    """Print all bars as one table; return whether all that are judged are reached."""
    print("\nbars")
    for bar in bars:
        state = "reached" if bar.reached else "MISSED"
        state = state if bar.judged else "not judged: the ceiling is out of range"
        side = "at most " if bar.at_most else "at least"
        print(f"   {bar.what:<46} {bar.value:8.3f}  {side} {bar.limit:6.2f}  {state}")
    return all(bar.reached for bar in bars)
