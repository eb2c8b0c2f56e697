# SPDX-License-Identifier: Apache-2.0
"""How fast a target reads weights of each format while it makes one token."""

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
from ingot.packing import Quantized, pack
from ingot.targets import Target
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix

__all__ = ["decode_rates", "measure_rate"]

# What is read, in bytes for all threads together, where the size of the model is not known, and
# how often. It has to be of the model's size: a part of it stays in the cache from token to token.
MATRIX_BYTES = 256 << 20
MATRIX_K = 4096
REPETITIONS = 7


def decode_rates(
    target: Target, formats: Iterable[Dtype], threads: int, weight_bytes: int = MATRIX_BYTES
) -> Mapping[Dtype, float]:
    """Return bytes of weights per second by format, for a model that reads `weight_bytes` a token.

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
    size = min(weight_bytes, MATRIX_BYTES)
    return {dtype: measure_rate(dtype, threads, size) for dtype in formats}


def measure_rate(dtype: Dtype, threads: int, matrix_bytes: int = MATRIX_BYTES) -> float:
    """Return the bytes per second at which this machine's kernel multiplies one token.

    Each thread reads a matrix of its own; the median of a few repetitions.
    Raises: InvalidArgumentError for a format without a kernel.
    """
    index, group = _kernel(dtype), group_of(dtype, 128)
    random = np.random.default_rng(0).standard_normal((TILE_ROWS, MATRIX_K), np.float32)
    tile = quantize_matrix(random, Encoding(dtype, group, search=False))
    packed = pack(tile).reshape(-1)
    tiles = max(1, matrix_bytes // threads // packed.size)
    work = [_Work(tile, packed, tiles) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = []
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            list(pool.map(lambda one: one.run(index), work))
            seconds.append(time.perf_counter() - started)
    return threads * tiles * packed.size / float(np.median(seconds))


class _Work:
    """One thread's matrix, the same tile over and over, and its call."""

    def __init__(self, tile: Quantized, packed: NDArray[np.uint8], tiles: int) -> None:
        store = np.empty(tiles * packed.size + 64, np.uint8)
        start = -store.ctypes.data % 64
        self.weights = store[start : start + tiles * packed.size]
        self.weights.reshape(tiles, -1)[:] = packed
        self.x = np.ones((1, MATRIX_K), np.float32)
        self.out = np.empty((1, TILE_ROWS * tiles), np.float32)
        self.call = self._call(tile, tiles)

    def run(self, index: int) -> None:
        """Multiply once; the library runs outside of the interpreter lock."""
        native().check(native().lib.ingot_kernel_run(index, self.call))

    def _call(self, tile: Quantized, tiles: int) -> Any:
        ffi = native().ffi
        call = native().struct("ingot_linear_call")
        # a call names 32 where the record of t2, with one scale for each row, has no group
        group = ACTIVATION_GROUP if tile.dtype is Dtype.T2 else tile.group
        call.dtype, call.k, call.group, call.m = tile.dtype, MATRIX_K, group, 1
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
