# SPDX-License-Identifier: Apache-2.0
"""Stop strings over streamed text."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.errors import InvalidArgumentError

__all__ = ["StopStrings"]


class StopStrings:
    """Passes text on up to the first stop string, which may lie across pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for these. Raises: InvalidArgumentError if one is empty or no text."""
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise InvalidArgumentError(f"stop string {stop!r}: expected a character or more")
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """Return the text that can no longer be part of a stop string; "" after a match."""
        if self.matched is not None:
            return ""
        text = self._held + piece
        # The match that ends first, so that it does not matter how the text is cut.
        starts = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if starts:
            _, start, self.matched = min((start + len(s), start, s) for start, s in starts)
            self._held = ""
            return text[:start]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of text that begins the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
