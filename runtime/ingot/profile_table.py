# SPDX-License-Identifier: Apache-2.0
"""A TOML table of a device profile, read key by key, with errors that name file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError

__all__ = ["ProfileTable"]


class ProfileTable:
    """A TOML table that is read key by key; what nobody read is an error."""

    def __init__(self, path: Path, prefix: str, values: object) -> None:
        self._path = path
        self._prefix = prefix
        if not isinstance(values, dict):
            raise InvalidArgumentError(f"{path}: '{prefix.rstrip('.')}' is not a table")
        self._values: dict[str, Any] = dict(values)

    def refuse(self, key: str, found: object, expected: str) -> InvalidArgumentError:
        """Return the error for a bad value."""
        return InvalidArgumentError(
            f"{self._path}: '{self._prefix}{key}' is {found!r}, expected {expected}"
        )

    def take(self, key: str, expected: str) -> Any:
        """Return a value that must be there."""
        if key not in self._values:
            raise InvalidArgumentError(
                f"{self._path}: '{self._prefix}{key}' is missing, expected {expected}"
            )
        return self._values.pop(key)

    def has(self, key: str) -> bool:
        """Tell whether a key is still to be read."""
        return key in self._values

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """Return a text, one of the choices if there are any."""
        expected = f"one of {', '.join(choices)}" if choices else "a text"
        value = self.take(key, expected)
        if not isinstance(value, str) or not value or (choices and value not in choices):
            raise self.refuse(key, value, expected)
        return value

    def texts(self, key: str, choices: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of different texts out of the choices, in the order of the choices."""
        expected = f"a list out of {', '.join(choices)}"
        value = self.take(key, expected)
        if not isinstance(value, list) or not value or any(item not in choices for item in value):
            raise self.refuse(key, value, expected)
        return tuple(choice for choice in choices if choice in value)

    def integer(self, key: str, lowest: int, highest: int) -> int:
        """Return an integer of a range."""
        expected = f"an integer from {lowest} to {highest}"
        value = self.take(key, expected)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.refuse(key, value, expected)
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.take(key, "true or false")
        if not isinstance(value, bool):
            raise self.refuse(key, value, "true or false")
        return value

    def sentences(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.take(key, "a list of texts")
        if not isinstance(value, list) or any(not isinstance(one, str) or not one for one in value):
            raise self.refuse(key, value, "a list of texts")
        return tuple(value)

    def number(self, key: str, lowest: float, highest: float) -> float:
        """Return a number of a range."""
        expected = f"a number from {lowest:g} to {highest:g}"
        value = self.take(key, expected)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, value, expected)
        if not lowest <= value <= highest:
            raise self.refuse(key, value, expected)
        return float(value)

    def table(self, key: str) -> ProfileTable:
        """Return a table inside this one."""
        return ProfileTable(self._path, f"{self._prefix}{key}.", self.take(key, "a table"))

    def tables(self, key: str) -> list[ProfileTable]:
        """Return the tables of an array."""
        values = self.take(key, f"one or more [[{key}]]")
        if not isinstance(values, list) or not values:
            raise self.refuse(key, values, f"one or more [[{key}]]")
        return [
            ProfileTable(self._path, f"{self._prefix}{key}[{i}].", item)
            for i, item in enumerate(values)
        ]

    def keys(self) -> list[str]:
        """Return the keys not read yet."""
        return list(self._values)

    def finish(self) -> None:
        """Refuse what nobody read."""
        if self._values:
            unknown = ", ".join(f"'{self._prefix}{key}'" for key in self._values)
            raise InvalidArgumentError(f"{self._path}: unknown {unknown}; see targets/README.md")
