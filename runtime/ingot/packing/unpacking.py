# SPDX-License-Identifier: Apache-2.0
"""Packed bytes back to codes and scales, by the addresses of native/kernels/linear/linear.h."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import CHUNK_BYTES, TILE_ROWS, Buffer, Dtype, Layout
from ingot.packing.quantized import Quantized
from ingot.packing.sizes import (
    WEIGHT_FORMATS,
    geometry,
    list_bytes,
    packed_bytes,
    round_up,
    sparse_tile_bytes,
    superblock_count,
    tile_bytes,
)

__all__ = ["sparse_lists", "unpack"]

Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]


def unpack(
    data: Buffer | Bytes,
    dtype: Dtype,
    shape: tuple[int, int],
    group: int,
    codebook: NDArray[np.int8] | tuple[int, ...] = (),
    delta: int = 0,
    layout: Layout = Layout.T16,
    sparse: bool = False,
) -> Quantized:
    """Return codes and scales of a packed weight; codebook and delta come from its record.

    Raises: InvalidArgumentError if data has another length than it must or a value is impossible.
    """
    flat = np.frombuffer(data, np.uint8)
    present = np.zeros((0, 0), np.bool_)
    if sparse:
        flat, present = _densify(flat, dtype, shape, group)
    expected = packed_bytes(dtype, *shape, group)
    if flat.size != expected:
        raise InvalidArgumentError(
            f"{dtype.name.lower()} {shape}: {flat.size} bytes, expected {expected}"
        )
    reader = _Reader(flat.reshape(-1, tile_bytes(dtype, shape[1], group)), dtype, shape, group)
    entries = WEIGHT_FORMATS[dtype].entries
    fields = reader.scales()
    return Quantized(
        dtype,
        shape,
        group,
        reader.codes(layout),
        codebook=np.array(codebook[:entries], np.int8),
        delta=delta,
        present=present,
        layout=layout,
        **fields,
    )


class _Reader:
    """Addresses within the tiles of one dense weight."""

    def __init__(self, tiles: Bytes, dtype: Dtype, shape: tuple[int, int], group: int) -> None:
        self._tiles, self._dtype, (self._n, self._k) = tiles, dtype, shape
        self._g = geometry(dtype, group)
        self._format = WEIGHT_FORMATS[dtype]
        self._groups = -(-self._k // self._g.group)
        self._lane = np.arange(TILE_ROWS, dtype=np.int64)[:, None]

    def _superblock(self, index: Index) -> tuple[Index, Index, Index]:
        """Return where the superblock of a group starts, its group's place in it, its metadata."""
        per = self._g.groups_per_superblock
        block = index // per
        inside = np.minimum(self._groups - block * per, per)
        meta = -(-inside * self._g.meta // CHUNK_BYTES) * CHUNK_BYTES
        return self._g.head + block * self._g.superblock(per), index % per, meta

    def _gather(self, address: Index) -> NDArray[Any]:
        """Pick address[lane, j] of every tile and drop the padded rows."""
        taken = np.take(self._tiles, address, axis=1)
        return taken.reshape(-1, address.shape[1])[: self._n]

    def _gather_halves(self, address: Index) -> NDArray[np.float16]:
        low, high = self._gather(address), self._gather(address + 1)
        return (low.astype(np.uint16) | high.astype(np.uint16) << 8).view(np.float16)

    def codes(self, layout: Layout) -> NDArray[Any]:
        """Return the codes, (n, k)."""
        k = np.arange(self._k, dtype=np.int64)
        start, place, meta = self._superblock(k // self._g.group)
        chunks = start + meta + place * self._g.codes
        block = k % self._g.group // 32
        chunks = chunks + block * (2 * 32 * self._format.bits)
        i = k % 32
        if self._dtype == Dtype.F16:
            return self._gather_halves(chunks + 64 * (i // 2) + 4 * self._lane + 2 * (i % 2))
        if layout == Layout.T16_K8:
            return self._k8(chunks, i)
        if self._dtype == Dtype.Q8:
            return self._gather(self._entry(chunks, i // 4, i)).view(np.int8)
        return self._small(chunks, i)

    def _entry(self, chunks: Index, chunk: Index, i: Index) -> Index:
        """Byte i % 4 of the lane's four in a chunk."""
        return chunks + 64 * chunk + 4 * self._lane + i % 4

    def _plane(self, chunks: Index, i: Index, bits: int) -> Bytes:
        """A field of `bits` bits of a byte that holds 8 / bits quads."""
        quad, count = i // 4, 8 // bits
        byte = self._gather(self._entry(chunks, quad // count, i))
        field = byte >> (bits * (quad % count)).astype(np.uint8)
        return np.asarray(field & np.uint8((1 << bits) - 1), np.uint8)

    def _small(self, chunks: Index, i: Index) -> Bytes:
        if self._dtype in (Dtype.Q4, Dtype.Q4Z, Dtype.C4):
            return self._plane(chunks, i, 4)
        if self._dtype in (Dtype.C2, Dtype.T2):
            return self._plane(chunks, i, 2)
        if self._dtype == Dtype.C3:
            return self._triple(chunks, i)
        rest = 2 if self._dtype == Dtype.Q6 else 1
        high = self._plane(chunks + 4 * 64, i, rest)
        return np.asarray(self._plane(chunks, i, 4) | high << 4, np.uint8)

    def _triple(self, chunks: Index, i: Index) -> Bytes:
        quad = i // 4
        late = quad >= 6
        byte = self._gather(self._entry(chunks, np.where(late, quad - 6, quad // 2), i))
        third = self._gather(self._entry(chunks, np.full_like(i, 2), i))
        early = byte >> (quad % 2 * 3).astype(np.uint8) & np.uint8(7)
        high = third >> np.where(quad == 6, 6, 7).astype(np.uint8) & np.uint8(1)
        return np.asarray(np.where(late, byte >> 6 | high << 2, early), np.uint8)

    def _k8(self, chunks: Index, i: Index) -> NDArray[Any]:
        row, half, side = self._lane // 4, self._lane % 4 // 2, self._lane % 2
        if self._dtype == Dtype.Q8:
            at = chunks + 128 * (i // 8) + 64 * half + 16 * row + 8 * side + i % 8
            return self._gather(at).view(np.int8)
        byte = self._gather(chunks + 64 * (i // 8) + 16 * row + 8 * side + i % 8)
        lanes = np.arange(self._n) % TILE_ROWS % 4 // 2
        return np.asarray(byte >> (4 * lanes).astype(np.uint8)[:, None] & np.uint8(15), np.uint8)

    def scales(self) -> dict[str, NDArray[Any]]:
        """Return the scale fields that the format has, by name."""
        fields: dict[str, NDArray[Any]] = {}
        start, place, _ = self._superblock(np.arange(self._groups, dtype=np.int64))
        at = start + place * self._g.meta
        if self._g.head:
            kind = np.float32 if self._dtype == Dtype.T2 else np.float16
            size = TILE_ROWS * np.dtype(kind).itemsize
            head = np.ascontiguousarray(self._tiles[:, :size]).view(kind)
            fields["row_scales"] = head.reshape(-1)[: self._n].copy()
        if self._g.meta == TILE_ROWS:
            packed = self._gather(at + self._lane).view(np.int8)
            coded = bool(self._format.entries)
            fields["sub_scales"] = packed >> 1 if coded else packed
            if coded:
                fields["shifts"] = (packed & 1).astype(np.bool_)
        elif self._g.meta:
            fields["scales"] = self._gather_halves(at + 2 * self._lane)
            if self._dtype == Dtype.Q4Z:
                fields["zeros"] = self._gather(at + 2 * TILE_ROWS + self._lane)
        return fields


def sparse_lists(
    data: Bytes, dtype: Dtype, shape: tuple[int, int], group: int
) -> list[tuple[int, NDArray[np.uint16]]]:
    """Return where each tile of a sparse weight starts, past its list, and its list.

    Raises: InvalidArgumentError if the lists are out of order or range, or do not add up.
    """
    n, k = shape
    count_most, found, place = superblock_count(dtype, k, group), [], 0
    for tile in range(round_up(n, TILE_ROWS) // TILE_ROWS):
        count = int(data[place : place + 4].view("<u4")[0]) if place + 4 <= data.size else 1 << 32
        size = list_bytes(count) if count <= count_most else data.size + 1
        if place + size > data.size:
            raise InvalidArgumentError(
                f"tile {tile}: a list of {count} superblocks at byte {place} of {data.size}, "
                f"expected at most {count_most} inside"
            )
        indices = data[place + 4 : place + 4 + 2 * count].view("<u2")
        rising = bool((np.diff(indices.astype(np.int64)) > 0).all())
        padding = data[place + 4 + 2 * count : place + size]
        if not rising or (count and indices[-1] >= count_most) or padding.any():
            raise InvalidArgumentError(
                f"tile {tile}: superblocks out of order, beyond {count_most}, or padding set"
            )
        found.append((place + size, indices))
        place += size + sparse_tile_bytes(dtype, k, group, [int(i) for i in indices])
    if place != data.size:
        raise InvalidArgumentError(f"the tiles take {place} bytes, the weight has {data.size}")
    return found


def _densify(
    data: Bytes, dtype: Dtype, shape: tuple[int, int], group: int
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Return the dense bytes with zeros where nothing is stored, and what is stored."""
    g, k = geometry(dtype, group), shape[1]
    lists = sparse_lists(data, dtype, shape, group)
    blocks = superblock_count(dtype, k, group)
    dense = np.zeros((len(lists), tile_bytes(dtype, k, group)), np.uint8)
    present = np.zeros((len(lists), blocks), np.bool_)
    whole = g.superblock(g.groups_per_superblock)
    for tile, (place, indices) in enumerate(lists):
        dense[tile, : g.head] = data[place : place + g.head]
        place += g.head
        for index in indices.astype(np.int64):
            size = min(whole, dense.shape[1] - g.head - index * whole)
            start = g.head + index * whole
            dense[tile, start : start + size] = data[place : place + size]
            place += size
        present[tile, indices.astype(np.int64)] = True
    return dense.reshape(-1), present
