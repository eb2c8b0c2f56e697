# SPDX-License-Identifier: Apache-2.0
"""Values of a recipe as TOML gives them: of the right type, finite and within their ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from ingot.errors import InvalidArgumentError

__all__ = ["check_one_of", "check_ranges", "only_known", "read_section"]

# By section and key; what has another range than these is checked beside its section.
LEAST: Mapping[str, int] = {
    "method.calibration_tokens": 0,
    "method.evaluation_tokens": 1,
    "method.calibration_length": 34,  # one scored position behind those without context
    "rounding.sequences": 1,
    "rounding.length": 1,
    "rounding.batch": 1,
    "rounding.iterations": 1,
    "rounding.sweeps": 0,
    "rounding.guided": 0,
    "distil.steps": 1,
    "distil.sequences": 1,
    "distil.length": 1,
    "distil.batch": 1,
    "distil.most_weights": 0,
    "distil.low_rank": 0,
    "distil.then_steps": 0,
    "gate.least_windows": 1,
    "transform.seed": 0,
    "prune.layers": 0,
}
POSITIVE = ("rounding.damping", "distil.rate", "distil.then_rate", "gate.mean_kl", "gate.p99_kl")
_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "tuple[str, ...]": (list,),
}


def check_ranges(label: str, sections: Mapping[str, object | None]) -> None:
    """Check the numbers of every section that is there, by LEAST and POSITIVE.

    Raises: InvalidArgumentError naming recipe, key, value and what is expected.
    """
    for place, least in LEAST.items():
        value = _value(place, sections)
        if value is not None and value < least:
            raise InvalidArgumentError(
                f"recipe {label}: {place} is {value:g}, expected at least {least}"
            )
    for place in POSITIVE:
        value = _value(place, sections)
        if value is not None and value <= 0:
            raise InvalidArgumentError(f"recipe {label}: {place} must be positive, it is {value:g}")


def check_one_of(label: str, key: str, value: str, known: tuple[str, ...]) -> None:
    """Raises: InvalidArgumentError naming recipe and key for a text that is not known."""
    if value not in known:
        raise InvalidArgumentError(
            f"recipe {label}: {key} is '{value}', expected one of {', '.join(known)}"
        )


def _value(place: str, sections: Mapping[str, object | None]) -> float | None:
    section, key = place.split(".")
    found = sections.get(section)
    return None if found is None else float(getattr(found, key))


def read_section(label: str, values: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    """Return a table as a dataclass, its fields the known keys.

    Raises: InvalidArgumentError naming recipe and key.
    """
    table = values[key]
    if not isinstance(table, dict):
        raise InvalidArgumentError(f"recipe {label}: '{key}' is not a table")
    kinds: dict[str, str] = dict(kind.__annotations__)
    optional = tuple(one.name for one in fields(kind) if one.default is not MISSING)
    needed = tuple(name for name in kinds if name not in optional)
    only_known(label, f"{key}.", table, needed, optional)
    taken = {
        name: _typed(label, f"{key}.{name}", value, kinds[name].removesuffix(" | None"))
        for name, value in table.items()
    }
    return kind(**taken)


def only_known(
    label: str,
    prefix: str,
    table: Mapping[str, Any],
    needed: tuple[str, ...],
    optional: tuple[str, ...],
) -> None:
    """Check that all needed keys are there and no unknown one.

    Raises: InvalidArgumentError naming recipe and key.
    """
    for key in table:
        if key not in needed + optional:
            raise InvalidArgumentError(
                f"recipe {label}: unknown key '{prefix}{key}';"
                f" known are {', '.join(needed + optional)}"
            )
    for key in needed:
        if key not in table:
            raise InvalidArgumentError(f"recipe {label}: key '{prefix}{key}' is missing")


def _typed(label: str, key: str, value: Any, kind: str) -> Any:
    """Return the value if it has the type of the annotation; whole numbers pass as float."""
    wrong_bool = isinstance(value, bool) and kind != "bool"
    if wrong_bool or not isinstance(value, _ACCEPTED[kind]):
        raise InvalidArgumentError(f"recipe {label}: '{key}' is {value!r}, expected {kind}")
    if kind == "float":
        number: Any = value
        if not math.isfinite(number):
            raise InvalidArgumentError(
                f"recipe {label}: {key} is {number}, expected a finite number"
            )
        return float(number)
    if kind == "tuple[str, ...]":
        items: Any = value
        return tuple(_typed(label, key, item, "str") for item in items)
    return value
