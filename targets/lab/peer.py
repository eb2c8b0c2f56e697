# SPDX-License-Identifier: Apache-2.0
"""llama.cpp for the board, from llama-cpp-python's source distribution, to count its instructions.

Built as its users build it for such a core: the repacked types, dot products, no native tuning.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

from targets.lab.cross import REPOSITORY, TOOLCHAINS
from targets.lab.process import LabError, run

__all__ = ["VERSION", "build_peer"]

VERSION = "0.3.36"
LIBRARIES = (
    "src/libllama.a",
    "ggml/src/libggml.a",
    "ggml/src/libggml-cpu.a",
    "ggml/src/libggml-base.a",
)
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS=-mtune=cortex-a76",
    "-DCMAKE_CXX_FLAGS=-mtune=cortex-a76",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16",  # what -mcpu=cortex-a76 has
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)


def fetch(folder: Path) -> Path:
    """Download and unpack the source distribution; return the folder of llama.cpp."""
    source = folder / f"llama_cpp_python-{VERSION}"
    archive = folder / f"{source.name}.tar.gz"
    if not archive.exists():
        wanted = f"llama-cpp-python=={VERSION}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
        run([*pip, "llama-cpp-python", "--dest", str(folder), wanted])
    if not source.exists():
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return source / "vendor" / "llama.cpp"


def build_peer(folder: Path) -> Path:
    """Return the counting driver, statically linked with llama.cpp.

    Raises: LabError naming what is missing or failed.
    Cost: a download of 77 MB, and some minutes on one core, once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "peer_decode"
    if program.exists():
        return program
    for tool in ("aarch64-linux-gnu-g++", "cmake", "ninja"):
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is not installed")
    source, build = fetch(folder), folder / "build"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAINS / 'aarch64-linux-gnu-gcc.cmake'}"
    run(["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", toolchain, *OPTIONS])
    run(["nice", "-n", "15", "ninja", "-C", str(build), "-j1", "llama"])
    include = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    driver = str(REPOSITORY / "targets" / "lab" / "peer_decode.cpp")
    libraries = [str(build / name) for name in LIBRARIES]
    compiler = ["aarch64-linux-gnu-g++", "-O2", "-std=c++17", *include, driver, "-static"]
    options = ["-no-pie", "-pthread", "-ldl", "-lm", "-o", str(program)]
    run([*compiler, *libraries, *options])
    return program
