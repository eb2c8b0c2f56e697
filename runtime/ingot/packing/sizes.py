# SPDX-License-Identifier: Apache-2.0
"""Bytes that a weight takes in layout T16, from its format and shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot.format import ACTIVATION_GROUP, CHUNK_BYTES, TILE_ROWS, Dtype, Layout, ScaleKind

__all__ = [
    "WEIGHT_DTYPES",
    "WEIGHT_FORMATS",
    "T16Geometry",
    "WeightFormat",
    "geometry",
    "list_bytes",
    "packed_bytes",
    "payload_bytes",
    "round_up",
    "sparse_tile_bytes",
    "superblock_count",
    "tile_bytes",
]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What defines a format of record.

    `groups`: k per scale that a tensor record may name (0: the format has one scale per row, or
    none); `superblock` counts groups; `head` bytes per tile; `meta` bytes of 16 rows per group;
    `bits` per code; `entries` of its codebook.
    """

    scale_kind: ScaleKind
    groups: tuple[int, ...]
    superblock: int
    head: int
    meta: int
    bits: int
    entries: int = 0
    layouts: tuple[Layout, ...] = (Layout.T16,)


_BOTH = (Layout.T16, Layout.T16_K8)
_SUB8 = ScaleKind.SUB8_ROW16
WEIGHT_FORMATS: dict[int, WeightFormat] = {
    Dtype.F16: WeightFormat(ScaleKind.NONE, (0,), 1, 0, 0, 16),
    Dtype.Q8: WeightFormat(ScaleKind.F16_GROUP, (32,), 2, 0, 32, 8, layouts=_BOTH),
    Dtype.Q6: WeightFormat(ScaleKind.I8_ROW16, (32,), 4, 64, 16, 6),
    Dtype.C5: WeightFormat(_SUB8, (32,), 4, 64, 16, 5, 32),
    Dtype.Q4: WeightFormat(ScaleKind.F16_GROUP, (32, 64, 128), 2, 0, 32, 4, layouts=_BOTH),
    Dtype.Q4Z: WeightFormat(ScaleKind.F16_ZERO8_GROUP, (32, 64, 128), 4, 0, 48, 4),
    Dtype.C4: WeightFormat(_SUB8, (32,), 4, 64, 16, 4, 16, _BOTH),
    Dtype.C3: WeightFormat(_SUB8, (32,), 4, 64, 16, 3, 8),
    Dtype.C2: WeightFormat(_SUB8, (32,), 4, 64, 16, 2, 4),
    Dtype.T2: WeightFormat(ScaleKind.F32_ROW, (0,), 2, 64, 0, 2),
}
WEIGHT_DTYPES = tuple(Dtype(dtype) for dtype in WEIGHT_FORMATS)


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
    if dtype not in WEIGHT_FORMATS:
        raise InvalidArgumentError(
            f"dtype {dtype} is no weight format; expected one of "
            f"{', '.join(d.name.lower() for d in WEIGHT_DTYPES)}"
        )
    known = WEIGHT_FORMATS[dtype]
    if group not in known.groups:
        raise InvalidArgumentError(
            f"{Dtype(dtype).name.lower()}: group {group}, expected one of {known.groups}"
        )
    unit = group or ACTIVATION_GROUP
    codes = TILE_ROWS * unit * known.bits // 8
    return T16Geometry(unit, known.superblock, known.head, known.meta, codes)


def tile_bytes(dtype: int, k: int, group: int) -> int:
    """Return the stored bytes of one tile: 16 rows over all k, k padded to whole groups."""
    return sparse_tile_bytes(dtype, k, group, range(superblock_count(dtype, k, group)))


def superblock_count(dtype: int, k: int, group: int) -> int:
    """Return the superblocks of a row, a short last one included."""
    if k < 1:
        raise InvalidArgumentError(f"k is {k}, expected at least 1")
    g = geometry(dtype, group)
    return -(-k // (g.group * g.groups_per_superblock))


def sparse_tile_bytes(dtype: int, k: int, group: int, present: Sequence[int]) -> int:
    """Return the bytes of a tile's head and of these superblocks, in rising order; no list."""
    g = geometry(dtype, group)
    groups = -(-k // g.group)
    full, rest = divmod(groups, g.groups_per_superblock)
    short = 1 if rest and len(present) > 0 and present[-1] == full else 0
    whole = (len(present) - short) * g.superblock(g.groups_per_superblock)
    return g.head + whole + short * g.superblock(rest)


def list_bytes(count: int) -> int:
    """Return the bytes of a sparse tile's list: a count and its indices, padded."""
    return round_up(4 + 2 * count, CHUNK_BYTES)


def packed_bytes(dtype: int, n: int, k: int, group: int) -> int:
    """Return the stored bytes of a dense (n, k) weight, rows padded to whole tiles."""
    if n < 1:
        raise InvalidArgumentError(f"n is {n}, expected at least 1")
    return round_up(n, TILE_ROWS) // TILE_ROWS * tile_bytes(dtype, k, group)


def payload_bytes(dtype: int, n: int, k: int, group: int) -> int:
    """Return the bytes of codes and scales alone: no padded row, column or byte is counted.

    Codes of a row that do not fill a byte take one; codebook and delta are in the tensor record.
    """
    g, known = geometry(dtype, group), WEIGHT_FORMATS[dtype]
    row_scale = {ScaleKind.F32_ROW: 4, _SUB8: 2, ScaleKind.I8_ROW16: 2}.get(known.scale_kind, 0)
    per_row = -(-k * known.bits // 8) + -(-k // g.group) * g.meta // TILE_ROWS + row_scale
    return n * per_row
