# SPDX-License-Identifier: Apache-2.0
"""Build the emulation: libcuda_emulated.so with the kernels as host code, the backend too."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["BACKEND", "DRIVER", "build_emulation"]

ROOT = Path(__file__).resolve().parents[3]
CUDA = ROOT / "native" / "cuda"
HERE = Path(__file__).resolve().parent
DRIVER, BACKEND = "libcuda_emulated.so", "libingot_cuda.so"
INCLUDES = [
    f"-I{folder}"
    for folder in (
        ROOT / "native",
        CUDA,
        CUDA / "kernels",
        ROOT / "native" / "include",
        HERE,
    )
]
SHARED = ["-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
CXX = ["-std=c++17", "-O1", *SHARED, "-Wno-unused-function", "-Wno-unknown-pragmas"]
C = ["-std=gnu11", "-O2", *SHARED, "-Wconversion", "-Wshadow", "-Wvla"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"


def _is_current(target: Path, sources: list[Path]) -> bool:
    if not target.exists():
        return False
    made = target.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns < made for source in sources)


def build_emulation(folder: Path) -> Path:
    """Build what is out of date into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    gxx, gcc = shutil.which("g++"), shutil.which("gcc")
    assert gxx and gcc, "g++ and gcc build the emulation"
    headers = [*CUDA.glob("*.h"), *CUDA.glob("kernels/*.cuh"), *CUDA.glob("kernels/*.h")]
    headers += [*HERE.glob("*.h"), Path(__file__)]
    objects, commands = [], []
    for source in sorted([*CUDA.glob("kernels/*.cu"), *HERE.glob("*.cpp")]):
        target = folder / f"{source.stem}.o"
        objects.append(target)
        if not _is_current(target, [source, *headers]):
            command = [gxx, *CXX, "-DINGOT_EMULATED", *INCLUDES, "-x", "c++", "-c", str(source)]
            commands.append([*command, "-o", str(target)])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_run, commands))
    driver, backend = folder / DRIVER, folder / BACKEND
    if not _is_current(driver, objects):
        _run([gxx, "-shared", "-o", str(driver), *map(str, objects)])
    sources = [*sorted(CUDA.glob("*.c")), ROOT / "native" / "core" / "layout.c", *HERE.glob("*.c")]
    if not _is_current(backend, [*sources, *headers, ROOT / "native/include/ingot_backend.h"]):
        command = [gcc, *C, *INCLUDES, "-shared", "-o", str(backend), *map(str, sources)]
        _run([*command, "-ldl", "-lpthread"])
    return folder
