# SPDX-License-Identifier: Apache-2.0
"""Where a weight stands in its model, read from its name: "layers.3.mlp.down" is (3, "down")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Place", "order_roles", "place_of"]

# In the order in which a token passes them; other roles follow as they appear.
ROLES = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, None for what stands beside the layers, and what the weight does there."""

    layer: int | None
    role: str


def place_of(name: str) -> Place:
    """Return the place that a name tells: its first number is the layer, its last part the role."""
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    return Place(layer, parts[-1])


def order_roles(roles: Iterable[str]) -> list[str]:
    """Return each role once, the known ones first and in their order."""
    found = dict.fromkeys(roles)
    return [one for one in ROLES if one in found] + [one for one in found if one not in ROLES]
