# SPDX-License-Identifier: Apache-2.0
"""Whether a sparse file is worth it: compared with dense files of the same size, as measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingot.errors import InvalidArgumentError

__all__ = ["HybridRow", "MeasuredPoint", "compare_with_dense", "dense_front", "front_kl"]

# A KL below this is no longer told from zero.
LEAST_KL = 1e-12


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """A measured file. Units: bytes as stored, index and lists included; KL in nats.

    `net_bits`: stored bits of the body, lists included, for each of its weights, also those that
    were left out; None where nobody counted.
    """

    name: str
    stored_bytes: int
    mean_kl: float
    net_bits: float | None = None


@dataclass(frozen=True, slots=True)
class HybridRow:
    """The verdict on one sparse file, a row of the report.

    `dense_kl`: what dense files reach with the same bytes, None where none was measured as small.
    """

    name: str
    stored_bytes: int
    mean_kl: float
    dense_kl: float | None
    chosen: bool
    reason: str
    net_bits: float | None = None


def dense_front(dense: Iterable[MeasuredPoint]) -> tuple[MeasuredPoint, ...]:
    """Return the files that no other one beats in both figures, from small to large.

    Raises: InvalidArgumentError for a size or KL that no measurement gives.
    """
    front: list[MeasuredPoint] = []
    for point in sorted(map(_checked, dense), key=lambda p: (p.stored_bytes, p.mean_kl)):
        if not front or point.mean_kl < front[-1].mean_kl:
            front.append(point)
    return tuple(front)


def front_kl(front: Sequence[MeasuredPoint], stored_bytes: int) -> float | None:
    """Return the KL of dense files at a size: its logarithm lies on lines between the points.

    Mixed formats reach what lies between; beyond the largest file its KL holds. None below the
    smallest.
    """
    if not front or stored_bytes < front[0].stored_bytes:
        return None
    if stored_bytes >= front[-1].stored_bytes:
        return front[-1].mean_kl
    index = next(i for i, p in enumerate(front) if p.stored_bytes > stored_bytes)
    low, high = front[index - 1], front[index]
    if stored_bytes == low.stored_bytes:
        return low.mean_kl
    share = (stored_bytes - low.stored_bytes) / (high.stored_bytes - low.stored_bytes)
    start, end = (math.log(max(point.mean_kl, LEAST_KL)) for point in (low, high))
    return math.exp(start + share * (end - start))


def compare_with_dense(
    dense: Iterable[MeasuredPoint], sparse: Iterable[MeasuredPoint]
) -> tuple[HybridRow, ...]:
    """Return a verdict for each sparse file: chosen only if it beats the dense files of its size.

    A file smaller than every dense one is not chosen: nothing shows that it is better.
    Raises: InvalidArgumentError if there is no dense file, or a figure is none.
    """
    front = dense_front(dense)
    if not front:
        raise InvalidArgumentError("no dense file was measured: there is nothing to compare with")
    return tuple(_judged(front, _checked(point)) for point in sparse)


def _judged(front: Sequence[MeasuredPoint], point: MeasuredPoint) -> HybridRow:
    reached = front_kl(front, point.stored_bytes)
    chosen = reached is not None and point.mean_kl < reached
    if reached is None:
        smallest = front[0].stored_bytes
        reason = f"smaller than every dense file, of which the smallest has {smallest} bytes"
    elif chosen:
        reason = f"KL {point.mean_kl:.3g} is below the {reached:.3g} of dense files of its size"
    else:
        reason = f"KL {point.mean_kl:.3g}, dense files of its size have {reached:.3g}"
    figures = (point.name, point.stored_bytes, point.mean_kl)
    return HybridRow(*figures, reached, chosen, reason, point.net_bits)


def _checked(point: MeasuredPoint) -> MeasuredPoint:
    if point.stored_bytes <= 0 or not math.isfinite(point.mean_kl) or point.mean_kl < 0:
        raise InvalidArgumentError(
            f"{point.name}: {point.stored_bytes} bytes and KL {point.mean_kl} are no measurement"
        )
    return point
