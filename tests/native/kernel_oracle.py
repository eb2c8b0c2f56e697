# SPDX-License-Identifier: Apache-2.0
"""Linear layers in NumPy from the packed bytes, written from the layout in linear.h alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot._native import native
from ingot.format import Dtype


@dataclass(frozen=True)
class Problem:
    """The weights of one call: `packed` holds `tiles` tiles of 16 rows over all k."""

    dtype: Dtype
    k: int
    group: int
    delta: int
    codebook: NDArray[np.int8]
    packed: NDArray[np.uint8]
    tiles: int


def sizes(dtype: Dtype, group: int) -> tuple[int, int, int, int]:
    """Return tile head, k per superblock, metadata bytes and chunk bytes per 32 k."""
    if dtype == Dtype.Q8:
        return 0, 64, 64, 512
    if dtype == Dtype.Q4:
        return 0, 2 * group, 64, 256
    if dtype == Dtype.C4:
        return 64, 128, 64, 256
    return 0, 32, 0, 1024


def superblocks(problem: Problem, tile: NDArray[np.uint8]) -> Iterator[tuple[Any, Any]]:
    """Yield (metadata, chunks (c, 16, 4)) of each superblock of a tile."""
    head, depth, metadata, block = sizes(problem.dtype, problem.group)
    unit = max(problem.group, 32)
    padded = -(-problem.k // unit) * unit
    at = head
    for start in range(0, padded, depth):
        count = min(depth, padded - start) // 32 * block
        yield (
            tile[at : at + metadata],
            tile[at + metadata : at + metadata + count].reshape(-1, 16, 4),
        )
        at += metadata + count
    assert at == tile.size


def nibble_codes(chunks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return codes (16, 8 per chunk): low nibbles are k 0..3, high ones k 4..7."""
    both = np.stack([chunks & 15, chunks >> 4], axis=2).astype(np.int64)
    return both.transpose(1, 0, 2, 3).reshape(16, -1)


def unpack_tile(problem: Problem, tile: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Return integer weights (16, k) and the float64 scale (16, k / 32) of each 32 k."""
    weights, scales = [], []
    for metadata, chunks in superblocks(problem, tile):
        if problem.dtype == Dtype.Q8:
            codes = chunks.view(np.int8).transpose(1, 0, 2).reshape(16, -1).astype(np.int64)
            scale = metadata.view(np.float16).reshape(2, 16).T.astype(np.float64)
        elif problem.dtype == Dtype.Q4:
            codes = nibble_codes(chunks) - 8
            scale = metadata.view(np.float16).reshape(2, 16).T.astype(np.float64)
            scale = np.repeat(scale, problem.group // 32, axis=1)
        else:
            code, meta = nibble_codes(chunks), metadata.reshape(4, 16).T.astype(np.int64)
            signed = np.where(meta >= 128, meta - 256, meta)
            shift = np.repeat(meta & 1, 32, axis=1)[:, : code.shape[1]] * problem.delta
            codes = problem.codebook[code].astype(np.int64) + shift
            scale = (signed >> 1).astype(np.float64)
        weights.append(codes)
        scales.append(scale[:, : codes.shape[1] // 32])
    total = np.concatenate(scales, axis=1)[:, : problem.k // 32]
    if problem.dtype == Dtype.C4:
        total = total * tile[:32].view(np.float16).astype(np.float64)[:, None]
    return np.concatenate(weights, axis=1)[:, : problem.k], total


def quantize(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Round (m, k) to int8 with one scale per 32 k, in float32."""
    blocks = x.reshape(x.shape[0], -1, 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    a = np.rint(blocks * inverse).astype(np.int64).reshape(x.shape)
    return a, (largest / np.float32(127))[:, :, 0]


def oracle_terms(problem: Problem, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (m, rows, terms) float64 whose sum over terms is the exact result."""
    m, out = x.shape[0], []
    for tile in problem.packed.reshape(problem.tiles, -1):
        if problem.dtype == Dtype.F16:
            w = tile.view(np.float16).reshape(-1, 16, 2).transpose(1, 0, 2).reshape(16, -1)
            out.append(x.astype(np.float64)[:, None, :] * w.astype(np.float64)[None])
            continue
        weights, scale = unpack_tile(problem, tile)
        a, a_scale = quantize(x)
        products = weights.reshape(16, -1, 32)[None] * a.reshape(m, 1, -1, 32)
        dots = products.sum(axis=3)  # (m, 16, blocks), exact int64
        out.append(dots * scale[None] * a_scale[:, None, :].astype(np.float64))
    return np.concatenate(out, axis=1)


def make_problem(rng: np.random.Generator, dtype: Dtype, group: int, k: int) -> Problem:
    """Return random bytes whose float16 numbers are finite and moderate."""
    head, depth, metadata, block = sizes(dtype, group)
    unit, tiles = max(group, 32), 3
    padded = -(-k // unit) * unit
    size = head + -(-padded // depth) * metadata + padded // 32 * block
    packed = rng.integers(0, 256, (tiles, size), dtype=np.uint8)

    def halves(count: int) -> NDArray[np.uint8]:
        return rng.uniform(-2, 2, (tiles, count)).astype(np.float16).view(np.uint8)

    if dtype == Dtype.F16:
        packed = halves(size // 2)
    elif dtype == Dtype.C4:
        packed[:, :32] = halves(16)
    else:
        step = metadata + depth // 32 * block
        for at in range(0, size, step):
            packed[:, at : at + 64] = halves(32)
    codebook = rng.integers(-128, 128, 16).astype(np.int8)
    return Problem(dtype, k, group, int(rng.integers(-127, 128)), codebook, packed.ravel(), tiles)


def aligned(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy bytes to an address that 64 divides."""
    memory = np.empty(data.size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    memory[start : start + data.size] = data
    return memory[start : start + data.size]


def make_call(problem: Problem, x: Any, weights: Any, out: Any) -> Any:
    """Return a filled ingot_linear_call; the arrays must outlive it."""
    ffi, call = native().ffi, native().struct("ingot_linear_call")
    call.dtype, call.k, call.group = int(problem.dtype), problem.k, problem.group
    call.m, call.tile_begin, call.tile_end = x.shape[0], 0, problem.tiles
    call.delta = problem.delta
    ffi.memmove(call.codebook, problem.codebook.tobytes(), 16)
    call.weights, call.weights_size = ffi.from_buffer("uint8_t[]", weights), weights.size
    call.x, call.out = ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", out)
    return call
