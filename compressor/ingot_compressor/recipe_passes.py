# SPDX-License-Identifier: Apache-2.0
"""The sections of a recipe that change the model itself: what is transformed, what is taken out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot_compressor.recipe_values import check_one_of

__all__ = ["PRUNED_PARTS", "TRANSFORMS", "Prune", "Transform", "check_prune", "check_transform"]

ROTATIONS = ("none", "residual", "values", "both")
PRUNED_PARTS = ("layers", "head_groups", "channels")
TRANSFORMS = ("fold_norms", "rotate", "smooth", "activation_aware", "clip")
SCORES = ("magnitude", "wanda", "hessian")
UNSTRUCTURED = "unstructured"


@dataclass(frozen=True, slots=True)
class Transform:
    """Changes of the weights before they are quantized; all but `clip` leave the function alone.

    `smooth` is SmoothQuant's alpha, 0 for none; `activation_aware` searches AWQ's scales, `clip`
    the largest magnitudes; `rotate` turns the residual stream, the values of attentions, or both;
    `fold_norms` alone moves the weights of norms into the matrices behind them.
    `order` is that in which they are done: each sees what those before it made.
    """

    smooth: float = 0.0
    activation_aware: bool = False
    clip: bool = False
    rotate: str = "none"
    seed: int = 0
    order: tuple[str, ...] = TRANSFORMS
    fold_norms: bool = False

    @property
    def searched(self) -> bool:
        """Whether some of it needs text."""
        return self.smooth > 0 or self.activation_aware or self.clip


@dataclass(frozen=True, slots=True)
class Prune:
    """What is taken out of the model: tokens, whole parts in an order, then of the weights.

    `vocabulary` names texts whose tokens stay, beside those of the command line. `channels` and
    `superblocks` are shares, `head_groups` a share or from 1 on a number for each attention,
    `layers` a number. `pattern` takes out single weights instead of superblocks: "unstructured" the
    given `share`, "2:4" all but two of four; files store them as zeros. `score` and `compensate`
    say how weights are chosen and whether those that stay make up for them; with `sweep` codes are
    chosen in the same sweep.
    """

    channels: float = 0.0
    head_groups: float = 0.0
    layers: int = 0
    superblocks: float = 0.0
    score: str = "hessian"
    compensate: bool = True
    order: tuple[str, ...] = PRUNED_PARTS
    vocabulary: tuple[str, ...] = ()
    pattern: str = ""
    share: float = 0.0
    sweep: bool = False

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

    @property
    def n_of_m(self) -> tuple[int, int]:
        """How many of how many neighbours stay; zeros for other patterns."""
        kept, _, of = self.pattern.partition(":")
        return (int(kept), int(of)) if of else (0, 0)


def check_transform(label: str, transform: Transform | None) -> None:
    """Raises: InvalidArgumentError naming recipe and key."""
    if transform is None:
        return
    if not 0 <= transform.smooth <= 1:
        raise InvalidArgumentError(
            f"recipe {label}: transform.smooth is {transform.smooth:g}, expected 0 to 1"
        )
    check_one_of(label, "transform.rotate", transform.rotate, ROTATIONS)
    _check_order(label, "transform.order", transform.order, TRANSFORMS)
    given = {
        "fold_norms": transform.fold_norms,
        "rotate": transform.rotate != "none",
        "smooth": transform.smooth > 0,
        "activation_aware": transform.activation_aware,
        "clip": transform.clip,
    }
    _check_none_left_out(label, "transform", given, transform.order)


def check_prune(label: str, prune: Prune | None) -> None:
    """Raises: InvalidArgumentError naming recipe and key."""
    if prune is None:
        return
    for key in ("channels", "superblocks", "share"):
        if not 0 <= getattr(prune, key) < 1:
            raise InvalidArgumentError(
                f"recipe {label}: prune.{key} is {getattr(prune, key):g}, expected 0 to below 1"
            )
    groups = prune.head_groups
    if groups < 0 or (groups >= 1 and not groups.is_integer()):
        raise InvalidArgumentError(
            f"recipe {label}: prune.head_groups is {groups:g}, expected a share or a whole number"
        )
    check_one_of(label, "prune.score", prune.score, SCORES)
    _check_order(label, "prune.order", prune.order, PRUNED_PARTS)
    given = {part: prune.amount(part) > 0 for part in PRUNED_PARTS}
    _check_none_left_out(label, "prune", given, prune.order)
    _check_pattern(label, prune)


def _check_order(label: str, key: str, order: tuple[str, ...], known: tuple[str, ...]) -> None:
    for index, part in enumerate(order):
        check_one_of(label, key, part, known)
        if part in order[:index]:
            raise InvalidArgumentError(f"recipe {label}: {key} names '{part}' twice")


def _check_none_left_out(
    label: str, section: str, given: Mapping[str, bool], order: tuple[str, ...]
) -> None:
    for part, wanted in given.items():
        if wanted and part not in order:
            raise InvalidArgumentError(
                f"recipe {label}: {section}.{part} is given, but {section}.order leaves it out"
            )


def _check_pattern(label: str, prune: Prune) -> None:
    if not re.fullmatch(rf"|{UNSTRUCTURED}|[1-9]\d?:[1-9]\d?", prune.pattern):
        raise InvalidArgumentError(
            f"recipe {label}: prune.pattern is '{prune.pattern}', expected {UNSTRUCTURED}, or how"
            " many of how many neighbours stay, as 2:4"
        )
    kept, of = prune.n_of_m
    if kept > of or (kept and kept == of):
        raise InvalidArgumentError(f"recipe {label}: prune.pattern {prune.pattern} takes out none")
    if (prune.pattern == UNSTRUCTURED) != (prune.share > 0):
        raise InvalidArgumentError(
            f"recipe {label}: prune.share is {prune.share:g}; it goes with prune.pattern"
            f' "{UNSTRUCTURED}", where it is above 0'
        )
    if prune.pattern and prune.superblocks > 0:
        raise InvalidArgumentError(
            f"recipe {label}: prune.superblocks and prune.pattern are both given: take one"
        )
