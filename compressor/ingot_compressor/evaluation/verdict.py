# SPDX-License-Identifier: Apache-2.0
"""What a gate may say of a measurement."""

from __future__ import annotations

from enum import Enum

__all__ = ["Verdict"]


class Verdict(str, Enum):
    """What the gate says of a file."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    UNGATED = "ungated"
