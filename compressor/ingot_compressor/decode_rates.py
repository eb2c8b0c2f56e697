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
from ingot.device_rates import device_rates
from ingot.errors import InvalidArgumentError
from ingot.format import ACTIVATION_GROUP, TILE_ROWS, Dtype
from ingot.packing import Quantized, pack, payload_bytes
from ingot.prediction import format_rate
from ingot.published import load_published
from ingot.targets import Target
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix

__all__ = ["decode_rates", "measure_rate", "prefill_rates"]

# What is read, in bytes for all threads together, where the size of the model is not known, and
# how often. It has to be of the model's size: a part of it stays in the cache from token to token.
MATRIX_BYTES = 256 << 20
MATRIX_K = 4096
REPETITIONS = 7
# For prompts, in bytes for each thread: below that a kernel's call is held up by its inputs.
PROMPT_BYTES = 32 << 20
# The share of a prompt's time that linear operations take; the rest is attention and norms. A model
# of 0.5 billion weights gave 0.83 of what is measured here, prompts of 512 tokens.
PRODUCT_TIME_SHARE = 0.8


def decode_rates(
    target: Target, formats: Iterable[Dtype], threads: int, weight_bytes: int = MATRIX_BYTES
) -> Mapping[Dtype, float]:
    """Return bytes of weights per second by format, for a model that reads `weight_bytes` a token.

    A profile's are its memory's rate, or what its cores' loops take where they are slower
    (ingot.prediction). The host is measured.
    Raises: InvalidArgumentError for a profile without `achievable_gb_s`.
    """
    rate = target.memory.achievable_gb_s
    if rate is not None:
        return {one: format_rate(target, one.name.lower(), rate * 1e9) for one in formats}
    if target.name != "host":
        raise InvalidArgumentError(
            f"target {target.name} has no memory.achievable_gb_s: nobody measured it;"
            " --min-decode needs a profile that has it, or --target host"
        )
    size = min(weight_bytes, MATRIX_BYTES)
    return {dtype: measure_rate(dtype, threads, size) for dtype in formats}


def prefill_rates(
    target: Target, formats: Iterable[Dtype], threads: int, chunk: int
) -> Mapping[Dtype, float]:
    """Return products of a weight and a token per second by format, `chunk` tokens at a time.

    Prompts reach them as a whole, attention and norms included. The host's kernels are measured. Of
    a profile it is the share of its cores' int8 products that published results reach, or what its
    memory brings where a chunk is short (ingot.device_rates).
    Raises: InvalidArgumentError for a profile that does not know its products or its memory.
    """
    if target.name == "host":
        measured = {one: measure_products(one, threads, chunk) for one in formats}
        return {one: PRODUCT_TIME_SHARE * rate for one, rate in measured.items()}
    names = {one: one.name.lower() for one in formats}
    machine = device_rates(target, "cpu", names.values(), load_published()).machine
    if machine.macs_per_second is None:
        raise InvalidArgumentError(
            f"target {target.name}: nobody knows the int8 products of its cores; --min-prefill"
            " needs a profile that has them, or --target host"
        )
    return {
        one: min(machine.macs_per_second, machine.rates[name] * chunk / _weight_bytes(one))
        for one, name in names.items()
    }


def _weight_bytes(dtype: Dtype) -> float:
    """Return the bytes of a weight of a large matrix, with its scales."""
    return payload_bytes(dtype, TILE_ROWS, MATRIX_K, group_of(dtype, 128)) / (TILE_ROWS * MATRIX_K)


def measure_products(dtype: Dtype, threads: int, tokens: int) -> float:
    """Return the products per second of this machine's kernel on so many tokens at a time.

    Raises: InvalidArgumentError for a format without a kernel.
    """
    seconds, tiles, _ = _measured(dtype, threads, threads * PROMPT_BYTES, tokens)
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
    tiles = max(1, matrix_bytes // threads // packed.size)
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
