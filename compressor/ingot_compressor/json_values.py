# SPDX-License-Identifier: Apache-2.0
"""Values as JSON has them, where a figure that is not finite has no place, and back again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["annotated_value", "finite_values"]


def finite_values(value: Any) -> Any:
    """Return mappings and sequences as dicts and lists, with null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def annotated_value(kind: Any, value: Any) -> Any:
    """Return what was a value of a type before it became JSON, by the type's annotations.

    Knows dataclasses, enumerations, mappings with text as keys, tuples and `| None`; all else stays
    as it is. No library of ours does this, and one for this alone would be one more to install.
    """
    arguments = get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: annotated_value(hints[name], one) for name, one in value.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if type(None) in arguments:
        inner = next(one for one in arguments if one is not type(None))
        return None if value is None else annotated_value(inner, value)
    if get_origin(kind) is tuple:
        same = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = [arguments[0]] * len(value) if same else arguments
        return tuple(annotated_value(one, part) for one, part in zip(kinds, value, strict=True))
    if isinstance(value, dict) and arguments:
        return {key: annotated_value(arguments[1], one) for key, one in value.items()}
    return value
