# SPDX-License-Identifier: Apache-2.0
"""Guessing the next tokens, so that one pass over the weights can give several.

A drafter proposes tokens, one pass computes the logits after each of them, and the session draws
its own token at every position with that position's own random number. Proposals are kept as long
as they are what was drawn anyway, so the text is the same, token for token, as without them, at any
temperature. What changes is the number of passes.
Source: Leviathan et al. 2023 (arXiv:2211.17192), with equality in place of rejection sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

__all__ = ["Drafter", "LookupDrafter", "Speculator"]


class Drafter(Protocol):
    """Proposes what may come next."""

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return at most `most` token ids that may follow; tokens only grow between calls."""

    def learn(self, accepted: int) -> None:
        """Take note of how many of the last proposals were right."""


class LookupDrafter:
    """Copies what followed the last occurrence of the text's last tokens.

    Where they never occurred, the copy goes on at the same distance for a while: an edited word
    does not end the passage that is being copied.
    Source: Saxena 2023, prompt lookup decoding; Yang et al. 2023 (arXiv:2304.04487).
    """

    LONGEST, SHORTEST = 4, 2

    def __init__(self) -> None:
        self._index: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        self._distance = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return the continuation of the most recent longest match; [] without one."""
        self._extend(tokens)
        place = self._match(tokens)
        if place is None:
            place = len(tokens) - self._distance if self._distance else len(tokens)
        self._distance = len(tokens) - place
        return list(tokens[place : place + most])

    def learn(self, accepted: int) -> None:
        """Give up a distance at which nothing was right."""
        if accepted == 0:
            self._distance = 0

    def _match(self, tokens: Sequence[int]) -> int | None:
        for size in range(self.LONGEST, self.SHORTEST - 1, -1):
            place = self._index.get(tuple(tokens[-size:])) if len(tokens) >= size else None
            if place is not None:
                return place
        return None

    def _extend(self, tokens: Sequence[int]) -> None:
        """Index every run of tokens that has a token after it, the latest place winning."""
        for end in range(self._indexed + 1, len(tokens)):
            for size in range(self.SHORTEST, min(self.LONGEST, end) + 1):
                self._index[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)


class Speculator:
    """Decides how many tokens to draft from what drafts have brought and what passes have cost.

    `most`: tokens of one draft. It drafts nothing while that is the faster way, and looks again
    from time to time, ever more rarely.
    """

    DECAY = 0.9
    FIRST_PROBE, LAST_PROBE, PROBE_DEPTH = 16, 256, 3
    # Before it is measured: a token more in a pass costs this share of the pass.
    GUESSED_COST = 0.1

    def __init__(self, drafter: Drafter, most: int) -> None:
        self.drafted = self.accepted = self.passes = 0
        self._drafter = drafter
        self._most = most
        self._right, self._tried = 1.0, 1.5
        self._seconds: dict[int, float] = {}
        self._wait = 0
        self._probe_after = self.FIRST_PROBE

    def draft(self, tokens: Sequence[int], room: int) -> list[int]:
        """Return proposals for what follows, at most `room`; [] where a plain pass is better."""
        most = min(self._depth(), room)
        return self._drafter.propose(tokens, most) if most > 0 else []

    def record(self, drafted: int, accepted: int, seconds: float) -> None:
        """Take note of one pass: tokens drafted, how many were right, and what it took."""
        self.passes += 1
        self.drafted += drafted
        self.accepted += accepted
        size = drafted + 1
        known = self._seconds.get(size, seconds)
        self._seconds[size] = min(seconds, self.DECAY * known + (1 - self.DECAY) * seconds)
        if drafted:
            self._drafter.learn(accepted)
            self._right = self.DECAY * self._right + accepted
            self._tried = self.DECAY * self._tried + accepted + (accepted < drafted)

    def _depth(self) -> int:
        """Return how many tokens to draft now."""
        best = max(range(self._most + 1), key=self._gain)
        if best > 0:
            self._wait, self._probe_after = 0, self.FIRST_PROBE
            return best
        self._wait += 1
        if self._wait < self._probe_after:
            return 0
        self._wait, self._probe_after = 0, min(2 * self._probe_after, self.LAST_PROBE)
        return min(self.PROBE_DEPTH, self._most)

    def _gain(self, depth: int) -> float:
        """Return the expected tokens per second of passes with so many drafts, in some unit."""
        share = min(self._right / self._tried, 0.99)
        tokens = (1.0 - share ** (depth + 1)) / (1.0 - share)
        return tokens / self._cost(depth + 1)

    def _cost(self, size: int) -> float:
        """Return what a pass of so many tokens takes; between measured ones, a straight line."""
        if size in self._seconds:
            return self._seconds[size]
        one = self._seconds.get(1)
        if one is None:
            return 1.0 + self.GUESSED_COST * (size - 1)
        below = max(known for known in self._seconds if known < size)
        slope = self.GUESSED_COST * one
        if below > 1:
            slope = max((self._seconds[below] - one) / (below - 1), 0.01 * one)
        return self._seconds[below] + slope * (size - below)
