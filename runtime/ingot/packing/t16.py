# SPDX-License-Identifier: Apache-2.0
"""Layout T16: tiles of 16 rows, chunks of 64 bytes, scales in front of each superblock.

`pack` builds the bytes by reshaping whole matrices. `unpack` knows nothing of `pack`: it computes
the byte address of every (lane, k) from the formulas of native/kernels/linear/linear.h and gathers.
So each checks the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import CHUNK_BYTES, TILE_ROWS, Buffer, Dtype
from ingot.packing.quantized import Quantized, zero_code
from ingot.packing.sizes import geometry, packed_bytes, round_up, tile_bytes

__all__ = ["pack", "unpack"]

Bytes = NDArray[np.uint8]


def pack(quantized: Quantized) -> Bytes:
    """Return the packed bytes of a weight, one flat array of packed_bytes(...) bytes.

    Rows are padded to 16 and k to whole groups. Padding is canonical: the zero code (c4: the code
    nearest 0, the first of equals), scales, sub-scales and shifts 0.
    Cost: a few passes over the codes, no Python loop.
    """
    q = quantized
    g = geometry(q.dtype, q.group)
    n, k = q.shape
    rows, width = round_up(n, TILE_ROWS), round_up(k, g.group)
    padded = np.full((rows, width), zero_code(q), q.codes.dtype)
    padded[:n, :k] = q.codes
    codes = _code_bytes(padded, q.dtype).reshape(rows // TILE_ROWS, width // g.group, g.codes)
    meta = _meta_bytes(q, rows).reshape(rows // TILE_ROWS, width // g.group, g.meta)
    return _assemble(_head_bytes(q, rows), meta, codes, g.groups_per_superblock)


def _tiles_first(quads: NDArray[Any]) -> NDArray[Any]:
    """Turn (rows, c) chunk entries into (tiles, c, 16): entry c of 16 rows side by side."""
    rows, count = quads.shape
    tiles = quads.reshape(rows // TILE_ROWS, TILE_ROWS, count)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1))


def _code_bytes(padded: NDArray[Any], dtype: Dtype) -> Bytes:
    """Return the chunks of all tiles; a chunk entry is 4 bytes of one row, moved as one uint32."""
    if dtype in (Dtype.Q4, Dtype.C4):
        rows, width = padded.shape
        quads = padded.reshape(rows, width // 8, 2, 4)
        padded = (quads[:, :, 0] | (quads[:, :, 1] << 4)).reshape(rows, width // 2)
    return _tiles_first(padded.view(np.uint32)).view(np.uint8)


def _meta_bytes(q: Quantized, rows: int) -> Bytes:
    """Return what stands in the superblock heads: per group 16 f16 scales, or 16 c4 bytes."""
    n = q.shape[0]
    if q.dtype == Dtype.F16:
        return np.zeros(0, np.uint8)
    if q.dtype == Dtype.C4:
        groups = np.zeros((rows, q.sub_scales.shape[1]), np.uint8)
        groups[:n] = (q.sub_scales.view(np.uint8) << 1) | q.shifts.view(np.uint8)
        return _tiles_first(groups)
    scales = np.zeros((rows, q.scales.shape[1]), "<f2")
    scales[:n] = q.scales
    return _tiles_first(scales).view(np.uint8)


def _head_bytes(q: Quantized, rows: int) -> Bytes:
    """Return (tiles, 64) row scales with their zero bytes for c4, (tiles, 0) otherwise."""
    if q.dtype != Dtype.C4:
        return np.zeros((rows // TILE_ROWS, 0), np.uint8)
    head = np.zeros((rows // TILE_ROWS, CHUNK_BYTES // 2), "<f2")
    scales = np.zeros(rows, "<f2")
    scales[: q.shape[0]] = q.row_scales
    head[:, :TILE_ROWS] = scales.reshape(-1, TILE_ROWS)
    return head.view(np.uint8)


def _assemble(head: Bytes, meta: Bytes, codes: Bytes, per_superblock: int) -> Bytes:
    """Interleave metadata (tiles, groups, b) and codes (tiles, groups, c) by superblock."""
    tiles, groups = codes.shape[:2]
    whole = groups // per_superblock * per_superblock
    parts = [head]
    for begin, end, size in ((0, whole, per_superblock), (whole, groups, groups - whole)):
        if begin == end:
            continue
        count = (end - begin) // size
        block_meta = meta[:, begin:end].reshape(tiles, count, -1)
        padding = round_up(block_meta.shape[2], CHUNK_BYTES) - block_meta.shape[2]
        block_codes = codes[:, begin:end].reshape(tiles, count, -1)
        zeros = np.zeros((tiles, count, padding), np.uint8)
        parts.append(np.concatenate([block_meta, zeros, block_codes], axis=2).reshape(tiles, -1))
    return np.concatenate(parts, axis=1).reshape(-1)


def unpack(
    data: Buffer | Bytes,
    dtype: Dtype,
    shape: tuple[int, int],
    group: int,
    codebook: NDArray[np.int8] | tuple[int, ...] = (),
    delta: int = 0,
) -> Quantized:
    """Return codes and scales of a packed weight; codebook and delta come from its record (c4).

    Raises: InvalidArgumentError if data is not packed_bytes(...) long or a value is impossible.
    """
    n, k = shape
    flat = np.frombuffer(data, np.uint8)
    expected = packed_bytes(dtype, n, k, group)
    if flat.size != expected:
        raise InvalidArgumentError(
            f"{dtype.name.lower()} {shape}: {flat.size} bytes, expected {expected}"
        )
    tiles = flat.reshape(-1, tile_bytes(dtype, k, group))
    column = np.arange(k, dtype=np.int64)
    group_index = np.arange(-(-k // group) if group else 0, dtype=np.int64)
    if dtype == Dtype.F16:
        halves = _gather(tiles.view("<f2"), _f16_address(column), n)
        return Quantized(dtype, (n, k), group, halves)
    codes = _gather(tiles, _code_address(column, dtype, group), n)
    if dtype == Dtype.Q8:
        codes = codes.view(np.int8)
    else:
        codes >>= ((column // 4) % 2 * 4).astype(np.uint8)
        codes &= 15
    if dtype != Dtype.C4:
        scales = _gather(tiles.view("<f2"), _scale_address(group_index, group, dtype), n)
        return Quantized(dtype, (n, k), group, codes, scales)
    packed = _gather(tiles, _sub_scale_address(group_index), n)
    row_scales = tiles.view("<f2")[:, :TILE_ROWS].reshape(-1)[:n].copy()
    return Quantized(
        dtype,
        (n, k),
        group,
        codes,
        row_scales=row_scales,
        sub_scales=packed.view(np.int8) >> 1,
        shifts=(packed & 1).astype(np.bool_),
        codebook=np.array(codebook[:16], np.int8),
        delta=delta,
    )


def _gather(tiles: NDArray[Any], address: NDArray[np.int64], n: int) -> NDArray[Any]:
    """Pick address[lane, j] of every tile and drop the padded rows."""
    return np.take(tiles, address, axis=1).reshape(-1, address.shape[1])[:n]


def _lanes() -> NDArray[np.int64]:
    return np.arange(TILE_ROWS, dtype=np.int64)[:, None]


def _f16_address(k: NDArray[np.int64]) -> NDArray[np.int64]:
    """Half number of (lane, k): chunk k // 2 holds 32 halves, half 2 * row + j is k = 2c + j."""
    return k // 2 * 32 + 2 * _lanes() + k % 2


def _code_address(k: NDArray[np.int64], dtype: Dtype, group: int) -> NDArray[np.int64]:
    """Byte of (lane, k): past the tile's head, the superblocks before, and the own metadata."""
    k_per_byte = 1 if dtype == Dtype.Q8 else 2
    head = 64 if dtype == Dtype.C4 else 0
    superblock_k = 128 if dtype == Dtype.C4 else 2 * group
    superblock = k // superblock_k
    # Metadata is 64 bytes in each superblock, in a short last one too.
    start = head + superblock * (64 + 16 * superblock_k // k_per_byte) + 64
    inside = k % superblock_k
    chunk = inside // (4 * k_per_byte)
    return start + 64 * chunk + 4 * _lanes() + inside % 4


def _scale_address(index: NDArray[np.int64], group: int, dtype: Dtype) -> NDArray[np.int64]:
    """Half number of (lane, group): superblocks of two groups start with 2 x 16 halves."""
    code_bytes = 16 * 2 * group if dtype == Dtype.Q8 else 16 * group
    return index // 2 * (64 + code_bytes) // 2 + index % 2 * 16 + _lanes()


def _sub_scale_address(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Byte of (lane, group): superblocks of 128 k start with 4 x 16 bytes."""
    return 64 + index // 4 * (64 + 1024) + index % 4 * 16 + _lanes()
