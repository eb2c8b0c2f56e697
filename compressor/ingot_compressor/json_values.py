# SPDX-License-Identifier: Apache-2.0
"""Values as JSON has them: a figure that is not finite has no place in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["finite_values"]


def finite_values(value: Any) -> Any:
    """Return mappings and sequences as dicts and lists, with null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
