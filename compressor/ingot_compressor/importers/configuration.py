# SPDX-License-Identifier: Apache-2.0
"""Typed reading of config.json: every complaint names the key, what was found and what is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingot.errors import IngotError

__all__ = ["Configuration"]


class Configuration:
    """The settings of a checkpoint.

    Raises: IngotError from every method when a value is missing, of the wrong type or out of range.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise IngotError(f"config.json: {key} is {value!r}, expected a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise IngotError(f"config.json: {key} is {value!r}, expected a number above 0")
        return float(value)

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
