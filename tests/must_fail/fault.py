# SPDX-License-Identifier: Apache-2.0
"""A fault: the rule that it breaks, and how the valid file is made to break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ingot.format import Rule
from tests.must_fail.image import Image


@dataclass(frozen=True)
class Fault:
    """`make` turns the bytes of the valid file into those of the broken one."""

    name: str
    rule: Rule
    make: Callable[[bytes], bytes]


def edit(name: str, rule: Rule, *actions: Callable[[Image], Any]) -> Fault:
    """Return a fault that edits the file's image; all checksums are repaired."""

    def make(valid: bytes) -> bytes:
        image = Image(valid)
        for action in actions:
            action(image)
        return image.to_bytes()

    return Fault(name, rule, make)
