# SPDX-License-Identifier: Apache-2.0
"""Frozen records for what is loaded before the first token.

As `dataclass(frozen=True, slots=True)`, which the rest of the package uses; but loading
`dataclasses` and making nine classes with it takes as long as opening a file and reading a prompt.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from typing_extensions import dataclass_transform

    Kind = TypeVar("Kind", bound="Record")
else:

    def dataclass_transform(**options: object) -> object:
        """Tell type checkers only."""
        return lambda kind: kind


__all__ = ["Record"]


@dataclass_transform(frozen_default=True)
class _RecordType(type):
    """Makes slots of the annotated names, in their order, and keeps their defaults."""

    names: tuple[str, ...]
    defaults: dict[str, Any]

    def __new__(meta, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> _RecordType:
        fields = tuple(space.get("__annotations__", ()))
        space["defaults"] = {field: space.pop(field) for field in fields if field in space}
        space["names"] = space["__slots__"] = space["__match_args__"] = fields
        return super().__new__(meta, name, bases, space)


class Record(metaclass=_RecordType):
    """A frozen record; subclasses annotate their fields, defaults included, and may check them."""

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take fields by place or by name. Raises: TypeError for one too many or too few."""
        fields = type(self).names
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} fields, not {len(values)}")
        given = dict(zip(fields, values, strict=False))
        wrong = [name for name in named if name in given or name not in fields]
        if wrong:
            raise TypeError(f"{type(self).__name__}: '{wrong[0]}' twice, or no field")
        given = {**type(self).defaults, **given, **named}
        for field in fields:
            if field not in given:
                raise TypeError(f"{type(self).__name__} needs '{field}'")
            object.__setattr__(self, field, given[field])
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; nothing to check here."""

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: records are frozen."""
        raise AttributeError(f"{type(self).__name__} is frozen: use replace()")

    def __delattr__(self, name: str) -> None:
        """Refuse: records are frozen."""
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        """Compare kind and fields."""
        if type(other) is not type(self):
            return NotImplemented
        return self.fields() == other.fields()

    def __hash__(self) -> int:
        """Hash the fields."""
        return hash((type(self), *self.fields().values()))

    def __repr__(self) -> str:
        """Return the constructor's call."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Make it again from its fields: how it is copied and pickled."""
        return type(self), tuple(self.fields().values())

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, in their order."""
        return {name: getattr(self, name) for name in type(self).names}

    def replace(self: Kind, **changes: Any) -> Kind:
        """Return a copy with some fields changed."""
        return type(self)(**{**self.fields(), **changes})
