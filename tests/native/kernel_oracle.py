# SPDX-License-Identifier: Apache-2.0
"""Linear layers in NumPy from the packed bytes, written from the layout in linear.h alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot._native import native
from ingot.format import Dtype, Layout


@dataclass(frozen=True)
class Geometry:
    """A tile: head, then superblocks of `groups` groups; bytes, `codes` per 32 k."""

    head: int
    groups: int
    scales: int
    codes: int


GEOMETRIES = {
    Dtype.F16: Geometry(0, 1, 0, 1024),
    Dtype.Q8: Geometry(0, 2, 32, 512),
    Dtype.Q6: Geometry(64, 4, 16, 384),
    Dtype.C5: Geometry(64, 4, 16, 320),
    Dtype.Q4: Geometry(0, 2, 32, 256),
    Dtype.Q4Z: Geometry(0, 4, 48, 256),
    Dtype.C4: Geometry(64, 4, 16, 256),
    Dtype.C3: Geometry(64, 4, 16, 192),
    Dtype.C2: Geometry(64, 4, 16, 128),
    Dtype.T2: Geometry(64, 2, 0, 128),
}
CODEBOOK = (Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2)


@dataclass(frozen=True)
class Problem:
    """The weights of one call: `tiles` tiles of 16 rows over all k, each dense or with its list."""

    dtype: Dtype
    k: int
    group: int
    delta: int
    codebook: NDArray[np.int8]
    tiles: list[NDArray[np.uint8]]
    kept: list[list[int]] | None = None  # sparse: the superblocks that each tile stores
    layout: Layout = Layout.T16

    @property
    def packed(self) -> NDArray[np.uint8]:
        """All tiles as they are stored."""
        if self.kept is None:
            return np.concatenate(self.tiles)
        return np.concatenate(
            [thin(self, t, kept) for t, kept in zip(self.tiles, self.kept, strict=True)]
        )


def superblock_sizes(problem: Problem) -> list[tuple[int, int]]:
    """Return (metadata bytes, code bytes) of each superblock of a dense tile."""
    shape, unit = GEOMETRIES[problem.dtype], max(problem.group, 32)
    groups, sizes = -(-problem.k // unit), []
    for start in range(0, groups, shape.groups):
        count = min(shape.groups, groups - start)
        sizes.append((-(-count * shape.scales // 64) * 64, count * unit // 32 * shape.codes))
    return sizes


def superblocks(problem: Problem, tile: NDArray[np.uint8]) -> Iterator[tuple[Any, Any]]:
    """Yield (metadata, codes) of each superblock of a dense tile."""
    at = GEOMETRIES[problem.dtype].head
    for metadata, codes in superblock_sizes(problem):
        yield tile[at : at + metadata], tile[at + metadata : at + metadata + codes]
        at += metadata + codes
    assert at == tile.size


def thin(problem: Problem, tile: NDArray[np.uint8], kept: list[int]) -> NDArray[np.uint8]:
    """Return the stored form of a dense tile that keeps some superblocks."""
    listed = np.uint32(len(kept)).tobytes() + np.array(kept, np.uint16).tobytes()
    head = tile[: GEOMETRIES[problem.dtype].head].tobytes()
    parts = [np.concatenate(pair).tobytes() for pair in superblocks(problem, tile)]
    stored = listed + bytes(-len(listed) % 64) + head + b"".join(parts[s] for s in kept)
    return np.frombuffer(stored, np.uint8)


def fields(chunks: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """Return (16, k): the fields of a byte, lowest first, are quads of 4 k each."""
    parts = [chunks >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=2).astype(np.int64).transpose(1, 0, 2, 3).reshape(16, -1)


def nibbles_k8(chunks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return (16, 8 per chunk) of T16_K8: low nibbles are rows 4i + r, high 4i + 2 + r."""
    rows = chunks.reshape(-1, 4, 2, 8)
    both = np.stack([rows & 15, rows >> 4], axis=2).reshape(-1, 16, 8)  # chunk, (i, high, r), k
    return both.transpose(1, 0, 2).reshape(16, -1).astype(np.int64)


def triples(chunks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return (16, 32) of the three chunks of a block."""
    b0, b1, b2 = (chunk.astype(np.int64) for chunk in chunks)
    quads = [v for b in (b0, b1, b2) for v in (b & 7, b >> 3 & 7)]
    quads += [b0 >> 6 | (b2 >> 6 & 1) << 2, b1 >> 6 | (b2 >> 7 & 1) << 2]
    return np.stack(quads, axis=1).reshape(16, 32)


def block_codes(problem: Problem, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the codes (16, 32) of one block."""
    chunks = codes.reshape(-1, 16, 4)
    if problem.dtype == Dtype.Q8:
        if problem.layout == Layout.T16_K8:  # chunk pair, half, i, r, k -> i, half, r, pair, k
            pairs = codes.view(np.int8).reshape(4, 2, 4, 2, 8).transpose(2, 1, 3, 0, 4)
            return pairs.reshape(16, 32).astype(np.int64)
        return fields(chunks, 8).astype(np.int8).astype(np.int64)
    if problem.dtype == Dtype.C3:
        return triples(chunks)
    if problem.dtype in (Dtype.C2, Dtype.T2):
        return fields(chunks, 2)
    four = nibbles_k8(chunks) if problem.layout == Layout.T16_K8 else fields(chunks[:4], 4)
    if problem.dtype == Dtype.Q6:
        return four + 16 * fields(chunks[4:], 2)
    return four + 16 * fields(chunks[4:], 1) if problem.dtype == Dtype.C5 else four


def group_weights(problem: Problem, code: Any, meta: Any) -> tuple[Any, Any]:
    """Return integer weights (16, k of the group) and their scale (16,), row scales left out."""
    if problem.dtype in CODEBOOK:
        signed = meta.view(np.int8).astype(np.int64)
        shift = (signed & 1)[:, None] * problem.delta
        return problem.codebook[code].astype(np.int64) + shift, signed >> 1
    if problem.dtype == Dtype.Q6:
        return code - 32, meta.view(np.int8)
    if problem.dtype == Dtype.T2:
        return code - 1, np.ones(16)
    zero = {Dtype.Q8: np.zeros(16, np.int64), Dtype.Q4: np.full(16, 8)}.get(problem.dtype)
    zero = meta[32:].astype(np.int64) if zero is None else zero
    return code - zero[:, None], meta[:32].view(np.float16)


def unpack_tile(problem: Problem, tile: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Return integer weights (16, k) and the float64 scale (16, k / 32) of each 32 k."""
    shape, unit, weights, scales = GEOMETRIES[problem.dtype], max(problem.group, 32), [], []
    for metadata, codes in superblocks(problem, tile):
        blocks = [block_codes(problem, part) for part in codes.reshape(-1, shape.codes)]
        for g in range(len(blocks) * 32 // unit):
            code = np.concatenate(blocks[g * unit // 32 : (g + 1) * unit // 32], axis=1)
            meta = metadata[g * shape.scales : (g + 1) * shape.scales]
            weight, scale = group_weights(problem, code, meta)
            weights.append(weight)
            scales.append(np.repeat(scale.astype(np.float64)[:, None], unit // 32, axis=1))
    total = np.concatenate(scales, axis=1)[:, : problem.k // 32]
    if shape.head:
        kind = np.float32 if problem.dtype == Dtype.T2 else np.float16
        total = total * tile[:64].view(kind)[:16].astype(np.float64)[:, None]
    return np.concatenate(weights, axis=1)[:, : problem.k], total


def present(problem: Problem, tile: int) -> NDArray[np.bool_]:
    """Return for each k whether tile `tile` stores it."""
    if problem.kept is None:
        return np.ones(problem.k, np.bool_)
    depth = GEOMETRIES[problem.dtype].groups * max(problem.group, 32)
    return np.isin(np.arange(problem.k) // depth, problem.kept[tile])


def quantize(x: NDArray[np.float32], group: int) -> tuple[NDArray[np.int64], Any]:
    """Round (m, k) to int8 with one scale per group, in float32; the scales are (m, k / 32)."""
    blocks = x.reshape(x.shape[0], -1, group)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    a = np.rint(blocks * inverse).astype(np.int64).reshape(x.shape)
    return a, np.repeat((largest / np.float32(127))[:, :, 0], group // 32, axis=1)


def oracle_terms(problem: Problem, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (m, rows, terms) float64 whose sum over terms is the exact result."""
    m, out = x.shape[0], []
    for index, tile in enumerate(problem.tiles):
        stored = present(problem, index)
        if problem.dtype == Dtype.F16:
            w = tile.view(np.float16).reshape(-1, 16, 2).transpose(1, 0, 2).reshape(16, -1)
            w = w.astype(np.float64) * stored
            out.append(x.astype(np.float64)[:, None, :] * w[None])
            continue
        weights, scale = unpack_tile(problem, tile)
        a, a_scale = quantize(x, problem.k if problem.dtype == Dtype.T2 else 32)
        products = (weights * stored).reshape(16, -1, 32)[None] * a.reshape(m, 1, -1, 32)
        dots = products.sum(axis=3)  # (m, 16, blocks), exact int64
        out.append(dots * scale[None] * a_scale[:, None, :].astype(np.float64))
    return np.concatenate(out, axis=1)


def set_scales(problem: Problem, scale: Any, sub_mask: int = 0xFF) -> None:
    """Write scale() to every float scale; AND the byte sub-scales with sub_mask."""
    shape = GEOMETRIES[problem.dtype]
    for tile in problem.tiles:
        if problem.dtype == Dtype.F16:
            tile[:] = scale(tile.size // 2, np.float16).view(np.uint8)
        elif problem.dtype == Dtype.T2:
            tile[:64] = scale(16, np.float32).view(np.uint8)
        elif shape.head:
            tile[:32] = scale(16, np.float16).view(np.uint8)
        for metadata, _ in superblocks(problem, tile):
            if shape.scales == 16:
                metadata &= sub_mask
            for at in range(0, metadata.size - 31, shape.scales) if shape.scales >= 32 else ():
                metadata[at : at + 32] = scale(16, np.float16).view(np.uint8)


def make_problem(
    rng: np.random.Generator,
    dtype: Dtype,
    group: int,
    k: int,
    layout: Layout = Layout.T16,
    sparse: bool = False,
) -> Problem:
    """Return random bytes whose floating-point numbers are finite and moderate."""
    entries = {Dtype.C5: 32, Dtype.C3: 8, Dtype.C2: 4}.get(dtype, 16)
    codebook = np.zeros(32, np.int8)
    codebook[:entries] = rng.integers(-128, 128, entries)
    problem = Problem(dtype, k, group, int(rng.integers(-127, 128)), codebook, [], None, layout)
    sizes = superblock_sizes(problem)
    size = GEOMETRIES[dtype].head + sum(map(sum, sizes))
    tiles = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(3)]
    kept = [np.flatnonzero(rng.random(len(sizes)) < 0.6).tolist() for _ in tiles]
    problem = replace(problem, tiles=tiles, kept=kept if sparse else None)
    set_scales(problem, lambda count, kind: rng.uniform(-2, 2, count).astype(kind))
    return problem


def aligned(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy bytes to an address that 64 divides."""
    memory = np.empty(data.size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    memory[start : start + data.size] = data
    return memory[start : start + data.size]


def tile_offsets(problem: Problem) -> NDArray[np.uint64] | None:
    """Return where each stored tile begins, and the end; None for a dense problem."""
    if problem.kept is None:
        return None
    sizes = [
        thin(problem, t, kept).size for t, kept in zip(problem.tiles, problem.kept, strict=True)
    ]
    return np.cumsum([0, *sizes]).astype(np.uint64)


def make_call(problem: Problem, x: Any, weights: Any, out: Any, offsets: Any = None) -> Any:
    """Return a filled ingot_linear_call; the arrays must outlive it."""
    ffi, call = native().ffi, native().struct("ingot_linear_call")
    call.dtype, call.k, call.group = int(problem.dtype), problem.k, problem.group
    call.m, call.tile_begin, call.tile_end = x.shape[0], 0, len(problem.tiles)
    call.layout = int(problem.layout)
    if offsets is not None:
        call.tile_offsets = ffi.from_buffer("uint64_t[]", offsets)
    call.delta = problem.delta
    ffi.memmove(call.codebook, problem.codebook.tobytes(), 32)
    call.weights, call.weights_size = ffi.from_buffer("uint8_t[]", weights), weights.size
    call.x, call.out = ffi.from_buffer("float[]", x), ffi.from_buffer("float[]", out)
    return call
