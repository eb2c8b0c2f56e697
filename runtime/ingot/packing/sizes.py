# SPDX-License-Identifier: Apache-2.0
"""Bytes that a weight takes in layout T16, from its format and shape alone."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot.format import CHUNK_BYTES, TILE_ROWS, Dtype

__all__ = [
    "WEIGHT_DTYPES",
    "T16Geometry",
    "geometry",
    "packed_bytes",
    "payload_bytes",
    "round_up",
    "tile_bytes",
]

WEIGHT_DTYPES = (Dtype.F16, Dtype.Q8, Dtype.Q4, Dtype.C4)
_F16_GROUP = 32


@dataclass(frozen=True, slots=True)
class T16Geometry:
    """How a tile of a format is built; `group` counts k, the rest bytes.

    `meta`: what one group of 16 rows keeps in the superblock's head; `codes`: its chunks.
    """

    group: int
    groups_per_superblock: int
    head: int
    meta: int
    codes: int

    def superblock(self, groups: int) -> int:
        """Return the bytes of a superblock that holds that many groups."""
        return round_up(groups * self.meta, CHUNK_BYTES) + groups * self.codes


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def geometry(dtype: int, group: int) -> T16Geometry:
    """Return the geometry of a weight format.

    Raises: InvalidArgumentError for a dtype that is no weight format, or a group it does not have.
    """
    allowed = {Dtype.F16: (0,), Dtype.Q8: (32,), Dtype.Q4: (32, 64, 128), Dtype.C4: (32,)}
    if dtype not in allowed:
        raise InvalidArgumentError(
            f"dtype {dtype} is no weight format; expected one of "
            f"{', '.join(d.name.lower() for d in WEIGHT_DTYPES)}"
        )
    kind = Dtype(dtype)
    if group not in allowed[kind]:
        raise InvalidArgumentError(
            f"{kind.name.lower()}: group {group}, expected one of {allowed[kind]}"
        )
    if kind == Dtype.F16:
        return T16Geometry(_F16_GROUP, 1, 0, 0, 2 * TILE_ROWS * _F16_GROUP)
    if kind == Dtype.Q8:
        return T16Geometry(group, 2, 0, 2 * TILE_ROWS, TILE_ROWS * group)
    if kind == Dtype.Q4:
        return T16Geometry(group, 2, 0, 2 * TILE_ROWS, TILE_ROWS * group // 2)
    return T16Geometry(group, 4, CHUNK_BYTES, TILE_ROWS, TILE_ROWS * group // 2)


def tile_bytes(dtype: int, k: int, group: int) -> int:
    """Return the stored bytes of one tile: 16 rows over all k, k padded to whole groups."""
    g = geometry(dtype, group)
    if k < 1:
        raise InvalidArgumentError(f"k is {k}, expected at least 1")
    groups = -(-k // g.group)
    full, rest = divmod(groups, g.groups_per_superblock)
    return g.head + full * g.superblock(g.groups_per_superblock) + g.superblock(rest)


def packed_bytes(dtype: int, n: int, k: int, group: int) -> int:
    """Return the stored bytes of an (n, k) weight, rows padded to whole tiles."""
    if n < 1:
        raise InvalidArgumentError(f"n is {n}, expected at least 1")
    return round_up(n, TILE_ROWS) // TILE_ROWS * tile_bytes(dtype, k, group)


def payload_bytes(dtype: int, n: int, k: int, group: int) -> int:
    """Return the bytes of codes and scales alone: no padded row, column or byte is counted.

    A last nibble of an odd k takes a byte; codebook and delta are in the tensor record, not here.
    """
    g = geometry(dtype, group)
    groups = -(-k // g.group)
    per_row = {
        Dtype.F16: 2 * k,
        Dtype.Q8: k + 2 * groups,
        Dtype.Q4: (k + 1) // 2 + 2 * groups,
        Dtype.C4: (k + 1) // 2 + groups + 2,
    }
    return n * per_row[Dtype(dtype)]
