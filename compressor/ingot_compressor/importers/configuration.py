# SPDX-License-Identifier: Apache-2.0
"""Typed reading of config.json: every complaint names the key, what was found and what is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ingot.errors import IngotError

__all__ = ["Configuration"]

LARGEST = 2**30  # a dimension of the file's tensors


class Configuration:
    """The settings of a checkpoint.

    Raises: IngotError from every method when a value is missing, of the wrong type or out of range.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, key: str, default: int | None = None, most: int = LARGEST) -> int:
        """Return a positive whole number of at most `most`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise IngotError(
                f"config.json: {key} is {_shown(value)}, expected a whole number from 1 to {most}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive, finite number."""
        value = self._value(key, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            number = float(value) if good else math.nan
        except OverflowError:
            number = math.inf
        if not 0 < number < math.inf:
            raise IngotError(f"config.json: {key} is {_shown(value)}, expected a number above 0")
        return number

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise IngotError(f"config.json: {key} is {value!r}, expected true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise IngotError(f"config.json: {key} is {value!r}, expected a string")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object, empty where there is none."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise IngotError(f"config.json: {key} is {value!r}, expected an object")
        return value

    def refuse(self, key: str, allowed: tuple[Any, ...] = (), why: str = "") -> None:
        """Refuse an option unless it is absent, null, false or one of the allowed values."""
        value = self.values.get(key)
        if value is None or value is False or value in allowed:
            return
        reason = why or "this option is not supported"
        raise IngotError(f"config.json: {key} is {value!r}; {reason}")

    def _value(self, key: str, default: object) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise IngotError(f"config.json: {key} is missing")
        return default


def _shown(value: object) -> str:
    """Return a value for a message; whole numbers of thousands of digits cannot be printed."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return repr(value)[:80]
