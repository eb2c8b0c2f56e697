# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe that change the model itself: what is transformed, what is taken out."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot_compressor.recipe_values import check_one_of

__all__ = ["PRUNED_PARTS", "Prune", "Transform", "check_prune", "check_transform"]

ROTATIONS = ("none", "residual", "values", "both")
PRUNED_PARTS = ("layers", "head_groups", "channels")
SUPERBLOCK_SCORES = ("wanda", "hessian")


@dataclass(frozen=True, slots=True)
class Transform:
    """Changes of the weights before they are quantized; all but `clip` leave the function alone.

    `smooth` is SmoothQuant's alpha, 0 for none; `activation_aware` searches AWQ's scales, `clip`
    the largest magnitudes; `rotate` turns the residual stream, the values of attentions, or both.
    """

    smooth: float = 0.0
    activation_aware: bool = False
    clip: bool = False
    rotate: str = "none"
    seed: int = 0

    @property
    def searched(self) -> bool:
        """Whether some of it needs text."""
        return self.smooth > 0 or self.activation_aware or self.clip


@dataclass(frozen=True, slots=True)
class Prune:
    """What is taken out of the model: whole parts in an order, then superblocks of the weights.

    `channels` and `superblocks` are shares, `head_groups` a share or from 1 on a number for each
    attention, `layers` a number. `score` and `compensate` say how superblocks are chosen and
    whether the weights that stay make up for them.
    """

    channels: float = 0.0
    head_groups: float = 0.0
    layers: int = 0
    superblocks: float = 0.0
    score: str = "hessian"
    compensate: bool = True
    order: tuple[str, ...] = PRUNED_PARTS

    def amount(self, part: str) -> float:
        """Return how much of a part goes, by its name."""
        amounts = {
            "layers": float(self.layers),
            "head_groups": self.head_groups,
            "channels": self.channels,
        }
        return amounts[part]

    @property
    def structured(self) -> bool:
        """Whether whole parts go."""
        return any(self.amount(part) > 0 for part in PRUNED_PARTS)


def check_transform(label: str, transform: Transform | None) -> None:
    """Raises: InvalidArgumentError naming recipe and key."""
    if transform is None:
        return
    if not 0 <= transform.smooth <= 1:
        raise InvalidArgumentError(
            f"recipe {label}: transform.smooth is {transform.smooth:g}, expected 0 to 1"
        )
    check_one_of(label, "transform.rotate", transform.rotate, ROTATIONS)


def check_prune(label: str, prune: Prune | None) -> None:
    """Raises: InvalidArgumentError naming recipe and key."""
    if prune is None:
        return
    for key in ("channels", "superblocks"):
        if not 0 <= getattr(prune, key) < 1:
            raise InvalidArgumentError(
                f"recipe {label}: prune.{key} is {getattr(prune, key):g}, expected 0 to below 1"
            )
    groups = prune.head_groups
    if groups < 0 or (groups >= 1 and not groups.is_integer()):
        raise InvalidArgumentError(
            f"recipe {label}: prune.head_groups is {groups:g}, expected a share or a whole number"
        )
    check_one_of(label, "prune.score", prune.score, SUPERBLOCK_SCORES)
    for index, part in enumerate(prune.order):
        check_one_of(label, "prune.order", part, PRUNED_PARTS)
        if part in prune.order[:index]:
            raise InvalidArgumentError(f"recipe {label}: prune.order names '{part}' twice")
    for part in PRUNED_PARTS:
        if prune.amount(part) > 0 and part not in prune.order:
            raise InvalidArgumentError(
                f"recipe {label}: prune.{part} is given, but prune.order leaves it out"
            )
