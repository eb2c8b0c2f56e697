# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen: the settings, checked. The library does the choosing.

Order, fixed: surplus ids are cut off, repetition penalty, temperature, top-k, top-p, min-p, draw.
Each filter sees the distribution that the one before it left, renormalized. The draw is keyed by
(seed, position), so one position's token does not depend on how many draws came before it.
`ingot.reference.sampling` says the same in NumPy and gives the same ids.
"""

from __future__ import annotations

from ingot.errors import InvalidArgumentError
from ingot.record import Record

__all__ = ["Sampling"]

_SEEDS = 1 << 64


class Sampling(Record):
    """How tokens are drawn; the default is greedy.

    temperature 0 takes the most likely token, and the filters then change nothing.
    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off.
    seed None draws another one for each generation.

    Raises: InvalidArgumentError for a value outside its range, naming the range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _integer("top_k", self.top_k, 1 << 31)
        if self.top_p == 0.0:
            raise InvalidArgumentError("top_p is 0, which keeps nothing: 1 switches it off")
        if self.seed is not None:
            _integer("seed", self.seed, _SEEDS)


def _number(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not a number within [low, high]."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value!r}, expected a number from {low} to {high}")


def _integer(name: str, value: int, limit: int) -> None:
    """Refuse what is not an integer within [0, limit)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise InvalidArgumentError(
            f"{name} is {value!r}, expected an integer from 0 to {limit - 1}"
        )
