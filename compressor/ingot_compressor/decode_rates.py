# SPDX-License-Identifier: Apache-2.0
"""How fast a target reads weights of each format for one token, and multiplies many tokens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot._native import native
from ingot.errors import InvalidArgumentError
from ingot.format import ACTIVATION_GROUP, TILE_ROWS, Dtype
from ingot.packing import Quantized, pack, payload_bytes
from ingot.targets import Target
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix

__all__ = ["decode_rates", "measure_rate", "prefill_rates"]

# A matrix beyond the caches, in bytes for each thread, and how often it is read.
MATRIX_BYTES = 32 << 20
MATRIX_K = 4096
REPETITIONS = 7
# Products of int8 that a core does in a cycle, by the best level that it has: two SDOT of 16 on a
# Cortex-A76, one SMLAL of 8 before it; 32 or 64 bytes of VPDPBUSD twice on x86. Small cores of the
# same level do half.
PRODUCTS_PER_CYCLE = {
    **{"ref": 1, "neon": 8, "neon_dotprod": 32, "neon_i8mm": 64, "sve2": 64},
    **{"avx2": 32, "avxvnni": 64, "avx512vnni": 128},
}
# What our kernels reach of that on prompts: 0.38 and 0.49 in tests/benchmarks/results.md.
PRODUCTS_SHARE = 0.4


def decode_rates(target: Target, formats: Iterable[Dtype], threads: int) -> Mapping[Dtype, float]:
    """Return bytes of weights per second by format.

    A profile's figure for memory is that of every format: it is what bounds a token on the devices
    that have one. The host is measured.
    Raises: InvalidArgumentError for a profile without `achievable_gb_s`.
    """
    rate = target.memory.achievable_gb_s
    if rate is not None:
        return dict.fromkeys(formats, rate * 1e9)
    if target.name != "host":
        raise InvalidArgumentError(
            f"target {target.name} has no memory.achievable_gb_s: nobody measured it;"
            " --min-decode needs a profile that has it, or --target host"
        )
    return {dtype: measure_rate(dtype, threads) for dtype in formats}


def prefill_rates(
    target: Target, formats: Iterable[Dtype], threads: int, chunk: int
) -> Mapping[Dtype, float]:
    """Return products of a weight and a token per second by format, `chunk` tokens at a time.

    The host is measured. Of a profile it is what its cores' instructions give, a share of it for
    our kernels, or what its memory brings where a chunk is short; nobody measured that there.
    """
    if target.name == "host":
        return {one: measure_products(one, threads, chunk) for one in formats}
    cores = sum(
        core.count * core.mhz * 1e6 * max(PRODUCTS_PER_CYCLE[level] for level in core.isa)
        for core in target.cores
    )
    memory = target.memory.achievable_gb_s
    rates = {}
    for one in formats:
        size = payload_bytes(one, TILE_ROWS, MATRIX_K, group_of(one, 128)) / (TILE_ROWS * MATRIX_K)
        brought = float("inf") if memory is None else memory * 1e9 * chunk / size
        rates[one] = min(PRODUCTS_SHARE * cores, brought)
    return rates


def measure_products(dtype: Dtype, threads: int, tokens: int) -> float:
    """Return the products per second of this machine's kernel on so many tokens at a time.

    Raises: InvalidArgumentError for a format without a kernel.
    """
    seconds, tiles, _ = _measured(dtype, threads, MATRIX_BYTES, tokens)
    return threads * tiles * TILE_ROWS * MATRIX_K * tokens / seconds


def measure_rate(dtype: Dtype, threads: int, matrix_bytes: int = MATRIX_BYTES) -> float:
    """Return the bytes per second at which this machine's kernel multiplies one token.

    Each thread reads a matrix of its own; the median of a few repetitions.
    Raises: InvalidArgumentError for a format without a kernel.
    """
    seconds, tiles, tile_bytes = _measured(dtype, threads, matrix_bytes, 1)
    return threads * tiles * tile_bytes / seconds


def _measured(dtype: Dtype, threads: int, matrix_bytes: int, tokens: int) -> tuple[float, int, int]:
    """Return the median time of a call, its tiles, and the bytes of a tile."""
    index, group = _kernel(dtype), group_of(dtype, 128)
    random = np.random.default_rng(0).standard_normal((TILE_ROWS, MATRIX_K), np.float32)
    tile = quantize_matrix(random, Encoding(dtype, group, search=False))
    packed = pack(tile).reshape(-1)
    tiles = max(1, matrix_bytes // packed.size)
    work = [_Work(tile, packed, tiles, tokens) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = []
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            list(pool.map(lambda one: one.run(index), work))
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), tiles, packed.size


class _Work:
    """One thread's matrix, the same tile over and over, and its call on some tokens."""

    def __init__(self, tile: Quantized, packed: NDArray[np.uint8], tiles: int, tokens: int) -> None:
        store = np.empty(tiles * packed.size + 64, np.uint8)
        start = -store.ctypes.data % 64
        self.weights = store[start : start + tiles * packed.size]
        self.weights.reshape(tiles, -1)[:] = packed
        self.x = np.ones((tokens, MATRIX_K), np.float32)
        self.out = np.empty((tokens, TILE_ROWS * tiles), np.float32)
        self.call = self._call(tile, tiles)

    def run(self, index: int) -> None:
        """Multiply once; the library runs outside of the interpreter lock."""
        native().check(native().lib.ingot_kernel_run(index, self.call))

    def _call(self, tile: Quantized, tiles: int) -> Any:
        ffi = native().ffi
        call = native().struct("ingot_linear_call")
        # a call names 32 where the record of t2, with one scale for each row, has no group
        group = ACTIVATION_GROUP if tile.dtype is Dtype.T2 else tile.group
        call.dtype, call.k, call.group, call.m = tile.dtype, MATRIX_K, group, len(self.x)
        call.tile_begin, call.tile_end = 0, tiles
        call.delta = tile.delta
        call.codebook = [*tile.codebook.tolist(), *[0] * (32 - tile.codebook.size)]
        call.weights = ffi.cast("uint8_t *", ffi.from_buffer(self.weights))
        call.weights_size = self.weights.size
        call.x = ffi.cast("float *", ffi.from_buffer(self.x))
        call.out = ffi.cast("float *", ffi.from_buffer(self.out))
        return call


def _kernel(dtype: Dtype) -> int:
    """Return the kernel that the runtime takes for a format in layout T16."""
    info, lib = native().struct("ingot_kernel_info"), native().lib
    name = dtype.name.lower()
    for index in range(lib.ingot_kernel_count()):
        native().check(lib.ingot_kernel_info_get(index, info))
        stem = native().text(info.name).partition("__")[0]
        if info.selected and stem in (f"linear_{name}_a8", f"linear_{name}_f32"):
            return index
    raise InvalidArgumentError(f"no kernel for format {name} on this machine")
