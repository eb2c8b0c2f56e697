# SPDX-License-Identifier: Apache-2.0
"""Layout T16: tiles of 16 rows, chunks of 64 bytes, scales in front of each superblock.

`pack` builds the bytes by reshaping whole matrices; `unpack` (unpacking.py) knows nothing of it: it
computes the byte address of every (lane, k) and gathers. So each checks the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.format import CHUNK_BYTES, TILE_ROWS, Dtype, Layout
from ingot.packing.quantized import Quantized, zero_code
from ingot.packing.sizes import geometry, list_bytes, round_up

__all__ = ["pack"]

Bytes = NDArray[np.uint8]
BLOCK = 32


def pack(quantized: Quantized) -> Bytes:
    """Return the packed bytes of a weight, one flat array.

    A dense weight has packed_bytes(...) of them. Rows are padded to 16 and k to whole groups.
    Padding is canonical: the zero code (of a codebook: nearest 0, the first of equals), scales,
    zeros, sub-scales and shifts 0.
    Cost: a few passes over the codes; a sparse weight adds a Python loop over tiles.
    """
    q = quantized
    g = geometry(q.dtype, q.group)
    n, k = q.shape
    rows, width = round_up(n, TILE_ROWS), round_up(k, g.group)
    padded = np.full((rows, width), zero_code(q), q.codes.dtype)
    padded[:n, :k] = q.codes
    tiles = rows // TILE_ROWS
    codes = _code_bytes(padded, q).reshape(tiles, width // g.group, g.codes)
    meta = _meta_bytes(q, rows).reshape(tiles, width // g.group, g.meta)
    parts = _superblocks(meta, codes, g.groups_per_superblock)
    head = _head_bytes(q, rows)
    if q.present.size:
        return _assemble_sparse(head, parts, q.present)
    return np.concatenate([head, *(p.reshape(tiles, -1) for p in parts)], axis=1).reshape(-1)


def _tiles_first(quads: NDArray[Any]) -> NDArray[Any]:
    """Turn (rows, c) chunk entries into (tiles, c, 16): entry c of 16 rows side by side."""
    rows, count = quads.shape
    tiles = quads.reshape(rows // TILE_ROWS, TILE_ROWS, count)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1))


def _code_bytes(padded: NDArray[Any], q: Quantized) -> Bytes:
    """Return the chunks of all tiles; a chunk entry is 4 bytes of one row, moved as one uint32."""
    if q.layout == Layout.T16_K8:
        return _k8_bytes(padded, q.dtype)
    if q.dtype not in (Dtype.F16, Dtype.Q8):
        padded = _row_bytes(padded, q.dtype)
    return _tiles_first(np.ascontiguousarray(padded).view(np.uint32)).view(np.uint8)


def _row_bytes(codes: NDArray[Any], dtype: Dtype) -> Bytes:
    """Return the bytes of each row, block by block: (rows, blocks * bytes of a block)."""
    rows, width = codes.shape
    quads = codes.reshape(rows, width // BLOCK, 8, 4)
    if dtype == Dtype.Q6:
        words = [_fields(quads & 15, 4), _fields(quads >> 4, 2)]
    elif dtype == Dtype.C5:
        words = [_fields(quads & 15, 4), _fields(quads >> 4, 1)]
    elif dtype == Dtype.C3:
        words = [_triples(quads)]
    else:
        words = [_fields(quads, 2 if dtype in (Dtype.C2, Dtype.T2) else 4)]
    return np.concatenate(words, axis=2).reshape(rows, -1)


def _fields(quads: NDArray[Any], bits: int) -> Bytes:
    """Lay 8 / bits quads over each other, the first in the lowest bits: (rows, blocks, bytes)."""
    rows, blocks = quads.shape[:2]
    count = 8 // bits
    parts = quads.reshape(rows, blocks, 8 // count, count, 4)
    total = np.zeros((rows, blocks, 8 // count, 4), np.uint8)
    for field in range(count):
        total |= parts[:, :, :, field] << (bits * field)
    return total.reshape(rows, blocks, -1)


def _triples(v: NDArray[Any]) -> Bytes:
    """Three bytes for eight 3-bit codes: six at bits 0 and 3, two spread over the top bits."""
    rows, blocks = v.shape[:2]
    v6, v7 = v[:, :, 6], v[:, :, 7]
    first = v[:, :, 0] | v[:, :, 1] << 3 | (v6 & 3) << 6
    second = v[:, :, 2] | v[:, :, 3] << 3 | (v7 & 3) << 6
    third = v[:, :, 4] | v[:, :, 5] << 3 | (v6 >> 2) << 6 | (v7 >> 2) << 7
    return np.stack([first, second, third], axis=2).reshape(rows, blocks, -1)


def _k8_bytes(codes: NDArray[Any], dtype: Dtype) -> Bytes:
    """Return the chunks of layout T16_K8: 2 rows x 8 k side by side in 16 bytes."""
    rows, width = codes.shape
    # Row 4i + 2h + r of a tile; h chooses the nibble, or the chunk of a pair.
    parts = codes.reshape(rows // TILE_ROWS, 4, 2, 2, width // 8, 8)
    parts = parts.transpose(0, 4, 2, 1, 3, 5)
    if dtype == Dtype.Q8:
        return np.ascontiguousarray(parts).view(np.uint8)
    return np.ascontiguousarray(parts[:, :, 0] | parts[:, :, 1] << 4)


def _meta_bytes(q: Quantized, rows: int) -> Bytes:
    """Return what stands in the superblock heads, per group of 16 rows."""
    n = q.shape[0]
    if q.sub_scales.size:
        groups = np.zeros((rows, q.sub_scales.shape[1]), np.uint8)
        groups[:n] = q.sub_scales.view(np.uint8)
        if q.shifts.size:
            groups[:n] = (groups[:n] << 1) | q.shifts.view(np.uint8)
        return _tiles_first(groups)
    if not q.scales.size:
        return np.zeros(0, np.uint8)
    scales = np.zeros((rows, q.scales.shape[1]), "<f2")
    scales[:n] = q.scales
    halves: Bytes = _tiles_first(scales).view(np.uint8)
    if not q.zeros.size:
        return halves
    zeros = np.zeros(scales.shape, np.uint8)
    zeros[:n] = q.zeros
    return np.concatenate([halves, _tiles_first(zeros)], axis=2)


def _head_bytes(q: Quantized, rows: int) -> Bytes:
    """Return (tiles, 64) row scales and zero bytes, (tiles, 0) where the format has none."""
    tiles = rows // TILE_ROWS
    if not q.row_scales.size:
        return np.zeros((tiles, 0), np.uint8)
    scales = np.zeros(rows, q.row_scales.dtype.newbyteorder("<"))
    scales[: q.shape[0]] = q.row_scales
    head = np.zeros((tiles, CHUNK_BYTES), np.uint8)
    data = scales.reshape(tiles, TILE_ROWS).view(np.uint8)
    head[:, : data.shape[1]] = data
    return head


def _superblocks(meta: Bytes, codes: Bytes, per_superblock: int) -> list[Bytes]:
    """Join metadata (tiles, groups, b) and codes (tiles, groups, c) by superblock.

    Returns the whole ones and, where there is one, the short last one: (tiles, count, bytes) each.
    """
    tiles, groups = codes.shape[:2]
    whole = groups // per_superblock * per_superblock
    parts = []
    for begin, end, size in ((0, whole, per_superblock), (whole, groups, groups - whole)):
        if begin == end:
            continue
        count = (end - begin) // size
        block_meta = meta[:, begin:end].reshape(tiles, count, -1)
        padding = round_up(block_meta.shape[2], CHUNK_BYTES) - block_meta.shape[2]
        block_codes = codes[:, begin:end].reshape(tiles, count, -1)
        zeros = np.zeros((tiles, count, padding), np.uint8)
        parts.append(np.concatenate([block_meta, zeros, block_codes], axis=2))
    return parts


def _assemble_sparse(head: Bytes, parts: list[Bytes], present: NDArray[np.bool_]) -> Bytes:
    """Write each tile as its list, its head and the superblocks that it stores."""
    out: list[Bytes] = []
    for tile, stored in enumerate(present):
        indices = np.flatnonzero(stored)
        listed = np.zeros(list_bytes(len(indices)), np.uint8)
        listed[:4] = np.array([len(indices)], "<u4").view(np.uint8)
        listed[4 : 4 + 2 * len(indices)] = indices.astype("<u2").view(np.uint8)
        out += [listed, head[tile]]
        blocks = [block for part in parts for block in part[tile]]
        out += [blocks[index] for index in indices]
    return np.concatenate(out)
