# SPDX-License-Identifier: Apache-2.0
"""Messages, log, digests and packed sizes of the native core."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ingot.packing.sizes import packed_bytes


def test_core_facts(repo_root: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "a C compiler is needed"
    native = repo_root / "native"
    names = ("about", "crc32c", "error", "layout", "sha256")
    sources = [str(native / "core" / f"{name}.c") for name in names]
    sources.append(str(repo_root / "tests" / "native" / "about_driver.c"))
    flags = ["-std=gnu11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    includes = [f"-I{native}", f"-I{native / 'include'}"]
    program = tmp_path / "about_driver"
    subprocess.run([compiler, *flags, *includes, *sources, "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == 1400
    for dtype, group, k, size in lines:
        assert size == packed_bytes(dtype, k + 3, k, group), (dtype, group, k)
