# SPDX-License-Identifier: Apache-2.0
"""Building libingot and the kernel harness for the board, with Debian's gcc and with zig."""

from __future__ import annotations

from pathlib import Path

from targets.cross import build
from targets.cross.triples import GLIBC, parse_triple
from targets.cross.zig import REPOSITORY
from targets.lab.process import LabError

__all__ = ["COMPILERS", "REPOSITORY", "TOOLCHAINS", "build_native"]

COMPILERS = ("gcc", "zig")
GOALS = ["ingot", "ingot_ffi", "kernel_harness"]
TOOLCHAINS = REPOSITORY / "targets" / "cmake"


def build_native(folder: Path, compiler: str, architecture: str = "aarch64") -> Path:
    """Build what changed and return the folder with libingot.so and kernel_harness.

    Raises: LabError if the compiler is not there or the sources do not build.
    """
    if compiler not in COMPILERS:
        raise LabError(f"unknown compiler '{compiler}', expected one of {', '.join(COMPILERS)}")
    suffix = "eabihf" if architecture == "armv7" else ""
    triple = parse_triple(f"{architecture}-linux-gnu{suffix}")
    native = folder / f"native-{architecture}-{compiler}"
    tests = ["-DINGOT_BUILD_TESTS=ON"]
    build.build_native(native, triple, compiler, folder, GLIBC, GOALS, tests)
    return native
