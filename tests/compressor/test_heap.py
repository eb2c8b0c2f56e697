# SPDX-License-Identifier: Apache-2.0
"""What is freed leaves the process: seen in a process of its own, since the setting stays."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of growing size, each freed while a small one after it stays: holes that nothing fills.
PROGRAM = """
import sys, torch
from pathlib import Path
from ingot_compressor.heap import return_large_blocks
if "with" in sys.argv:
    assert return_large_blocks()
def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // (1 << 20)
torch.ones(30 << 18)
before, kept = resident(), []
for size in range(60):
    block = torch.ones((8 << 18) + (size << 14))
    kept.append(torch.ones(4096))
    del block
    kept.append(torch.ones(4096))
blocks = [torch.ones(20 << 18) for _ in range(20)]
smalls = []
while blocks:
    blocks.pop(0)
    smalls.append(torch.ones(1 << 14))
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_blocks_leave_the_process() -> None:
    def held(*arguments: str) -> int:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert held("with") < 20 < held()
