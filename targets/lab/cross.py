# SPDX-License-Identifier: Apache-2.0
"""Building libingot and the kernel harness for the board, with Debian's gcc and with zig."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from targets.lab.process import LabError, run
from targets.lab.rootfs import pinned

__all__ = ["COMPILERS", "build_native", "prepare_zig"]

COMPILERS = ("gcc", "zig")
REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = ["ingot", "ingot_ffi", "kernel_harness"]
TOOLCHAINS = REPOSITORY / "targets" / "cmake"

# zig spells a base architecture as features of a generic CPU, and each glibc version is a target.
ZIG_CC = """#!/bin/sh
for word do
    shift
    case "$word" in
        -march=armv8.2-a*) word="-mcpu=generic+v8_2a${word#-march=armv8.2-a}" ;;
    esac
    set -- "$@" "$word"
done
exec "ZIG" cc -target aarch64-linux-gnu.2.28 "$@"
"""
ZIG_TOOL = """#!/bin/sh
exec "ZIG" TOOL "$@"
"""


def build_native(folder: Path, compiler: str) -> Path:
    """Build what changed and return the folder with libingot.so and kernel_harness.

    Raises: LabError if the compiler is not there or the sources do not build.
    """
    if compiler not in COMPILERS:
        raise LabError(f"unknown compiler '{compiler}', expected one of {', '.join(COMPILERS)}")
    build = folder / f"native-{compiler}"
    environment = dict(os.environ)
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DINGOT_BUILD_TESTS=ON"]
    settings += [f"-DPython_EXECUTABLE={sys.executable}"]
    if compiler == "gcc":
        if shutil.which("aarch64-linux-gnu-gcc") is None:
            raise LabError("aarch64-linux-gnu-gcc is not installed (gcc-aarch64-linux-gnu)")
        settings.append(f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAINS / 'aarch64-linux-gnu-gcc.cmake'}")
    else:
        tools = prepare_zig(folder, REPOSITORY / "constraints.txt")
        settings.append(f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAINS / 'aarch64-zig.cmake'}")
        settings.append(f"-DINGOT_ZIG_FOLDER={tools}")
        environment["ZIG_LOCAL_CACHE_DIR"] = str(folder / "zig-cache")
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(folder / "zig-cache")
    cmake, ninja = _tool("cmake"), _tool("ninja")
    configure = [cmake, "-S", str(REPOSITORY / "native"), "-B", str(build), "-G", "Ninja"]
    run([*configure, f"-DCMAKE_MAKE_PROGRAM={ninja}", *settings], environment=environment)
    command = [cmake, "--build", str(build), "--parallel", "2", "--target", *TARGETS]
    run(command, environment=environment)
    return build


def prepare_zig(folder: Path, constraints: Path) -> Path:
    """Install the Python package ziglang for the lab alone; return the folder of its wrappers.

    Raises: LabError if pip cannot download it.
    Cost: 410 MB and some seconds, once; the first link builds glibc's stubs in 12 s more.
    """
    package = folder / "zig"
    tools = folder / "zig-tools"
    stamp = folder / "zig.done"
    wanted = pinned(constraints, ["ziglang"])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted[0]:
        return tools
    for path in (package, tools):
        shutil.rmtree(path, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    run([*pip, str(package), *wanted])
    zig = package / "ziglang" / "zig"
    scripts = {"zig-cc": ZIG_CC, "zig-ar": ZIG_TOOL, "zig-ranlib": ZIG_TOOL}
    tools.mkdir(parents=True)
    for name, text in scripts.items():
        script = tools / name
        text = text.replace('"ZIG"', f'"{zig}"').replace("TOOL", name.removeprefix("zig-"))
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
    stamp.write_text(wanted[0], encoding="utf-8")
    return tools


def _tool(name: str) -> str:
    """Return the path of a build tool, the one beside this interpreter first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed (it comes with the dev extra)")
    return found
