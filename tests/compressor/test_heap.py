# SPDX-License-Identifier: Apache-2.0
"""What is freed leaves the process: seen in a process of its own, since the setting stays."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Large blocks with a small one behind each, so that the heap cannot shrink when they are freed. The
# first free of a large block is what makes glibc keep later ones of its size in the heap.
PROGRAM = """
import ctypes, sys
from pathlib import Path
from ingot_compressor.heap import return_large_blocks
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
def block(size):
    found = library.malloc(size)
    ctypes.memset(found, 1, size)
    return found
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
if "with" in sys.argv:
    assert return_large_blocks()
library.free(block(16 << 20))
before = resident()
blocks = [(block(8 << 20), block(1 << 12)) for _ in range(20)]
for large, _ in blocks:
    library.free(large)
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_leave_the_process() -> None:
    def held(*arguments: str) -> int:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert held("with") < 20 < held()
