# SPDX-License-Identifier: Apache-2.0
"""The emulation itself: mma by its documented fragments, and what a GPU would let pass."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cuda.emulation.build import DRIVER

SIGNED, UNSIGNED, TF32 = 0, 1, 2
U32 = NDArray[np.uint32]


def launch(emulation: Path, name: str, threads: int, args: ctypes.Structure) -> int:
    driver = ctypes.CDLL(str(emulation / DRIVER))
    function = c_void_p()
    driver.cuModuleGetFunction.argtypes = [c_void_p, c_void_p, c_char_p]
    assert driver.cuModuleGetFunction(ctypes.byref(function), None, name.encode()) == 0
    pointers = (c_void_p * 1)(ctypes.addressof(args))
    driver.cuLaunchKernel.argtypes = [c_void_p, *[c_uint32] * 7, c_void_p, c_void_p, c_void_p]
    result: int = driver.cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, None, pointers, None)
    return result


def error_text(emulation: Path, result: int) -> str:
    text = c_char_p()
    ctypes.CDLL(str(emulation / DRIVER)).cuGetErrorString(result, ctypes.byref(text))
    return (text.value or b"").decode()


class ProbeArgs(ctypes.Structure):
    _fields_ = [("registers", c_void_p), ("out", c_void_p), ("kind", c_uint32)]


def run_mma(emulation: Path, registers: U32, kind: int) -> U32:
    out = np.zeros((32, 4), np.uint32)
    args = ProbeArgs(registers.ctypes.data, out.ctypes.data, kind)
    assert launch(emulation, "probe_mma", 32, args) == 0
    return out


def place_of_c(lane: int, i: int) -> tuple[int, int]:
    """Row and column of accumulator i, from the PTX manual's figure of m16n8."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def int8_registers(a: NDArray[Any], b: NDArray[Any], c: NDArray[np.int32]) -> U32:
    """Fill the fragments of m16n8k32, byte by byte as the PTX manual numbers them."""
    registers = np.zeros((32, 10, 4), np.uint8)
    words = np.zeros((32, 10), np.uint32)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(16):
            row = group if i < 4 or 8 <= i < 12 else group + 8
            column = thread * 4 + (i & 3) + (0 if i < 8 else 16)
            registers[lane, i // 4, i % 4] = a[row, column].astype(np.uint8)
        for i in range(8):
            row = thread * 4 + (i & 3) + (0 if i < 4 else 16)
            registers[lane, 4 + i // 4, i % 4] = b[row, group].astype(np.uint8)
        words[lane] = registers[lane].view("<u4")[:, 0]
        for i in range(4):
            words[lane, 6 + i] = c[place_of_c(lane, i)].view(np.uint32)
    return words


@pytest.mark.parametrize("kind", [SIGNED, UNSIGNED])
def test_int8_mma_is_a_matrix_product(emulation: Path, kind: int) -> None:
    rng = np.random.default_rng(kind)
    a = rng.integers(-128, 128, (16, 32)) if kind == SIGNED else rng.integers(0, 256, (16, 32))
    b, c = rng.integers(-128, 128, (32, 8)), rng.integers(-1000, 1000, (16, 8)).astype(np.int32)
    out = run_mma(emulation, int8_registers(a, b, c), kind).view(np.int32)
    expected = a @ b + c
    for lane in range(32):
        for i in range(4):
            assert out[lane, i] == expected[place_of_c(lane, i)], (lane, i)


def test_tf32_mma_is_a_matrix_product(emulation: Path) -> None:
    rng = np.random.default_rng(2)
    # Small whole numbers are exact in tf32, and so are their sums in float32.
    a, b = rng.integers(-9, 9, (16, 8)), rng.integers(-9, 9, (8, 8))
    c = rng.integers(-99, 99, (16, 8)).astype(np.float32)
    registers = np.zeros((32, 10), np.float32)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        places = [
            (group, thread),
            (group + 8, thread),
            (group, thread + 4),
            (group + 8, thread + 4),
        ]
        registers[lane, :4] = [a[place] for place in places]
        registers[lane, 4:6] = b[thread, group], b[thread + 4, group]
        registers[lane, 6:] = [c[place_of_c(lane, i)] for i in range(4)]
    out = run_mma(emulation, registers.view(np.uint32), TF32).view(np.float32)
    expected = a @ b + c
    for lane in range(32):
        for i in range(4):
            assert out[lane, i] == expected[place_of_c(lane, i)], (lane, i)


class PartArgs(ctypes.Structure):
    _fields_ = [("out", c_void_p)]


def test_a_barrier_that_not_all_threads_reach_is_an_error(emulation: Path) -> None:
    out = np.zeros(1, np.uint32)
    result = launch(emulation, "probe_divergence", 64, PartArgs(out.ctypes.data))
    assert "not all threads reach a barrier" in error_text(emulation, result)


def test_too_many_threads_are_an_error(emulation: Path) -> None:
    out = np.zeros(1, np.uint32)
    result = launch(emulation, "probe_divergence", 96, PartArgs(out.ctypes.data))
    assert "a launch that no device takes" in error_text(emulation, result)
