# SPDX-License-Identifier: Apache-2.0
"""The compiler of the Python package ziglang, as three programs that CMake takes.

zig was chosen because pip alone installs it, and it carries the headers and stubs of every glibc
version and of musl: no system package, no root file system of the device.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from targets.cross.triples import Triple
from targets.lab.process import run
from targets.lab.rootfs import pinned

__all__ = ["ZIG_CMAKE", "prepare_zig", "zig_environment", "zig_settings"]

REPOSITORY = Path(__file__).resolve().parents[2]
ZIG_CMAKE = REPOSITORY / "targets" / "cmake" / "zig.cmake"

# zig spells a base architecture as features of a generic CPU.
ZIG_CC = """#!/bin/sh
for word do
    shift
    case "$word" in
        -march=armv8.2-a*) word="-mcpu=generic+v8_2a${word#-march=armv8.2-a}" ;;
    esac
    set -- "$@" "$word"
done
exec "ZIG" cc -target TARGET FLAGS "$@"
"""
ZIG_TOOL = """#!/bin/sh
exec "ZIG" TOOL "$@"
"""


def prepare_zig(folder: Path) -> Path:
    """Return zig's program: of this environment, else installed by pip below folder for us alone.

    Raises: LabError if pip cannot download it.
    Cost: 410 MB and some seconds, once; the first link builds the C library's stubs in 12 s more.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).with_name("zig")
    package, stamp = folder / "zig", folder / "zig.done"
    wanted = pinned(REPOSITORY / "constraints.txt", ["ziglang"])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted[0]:
        shutil.rmtree(package, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        run([*pip, str(package), *wanted])
        stamp.write_text(wanted[0], encoding="utf-8")
    return package / "ziglang" / "zig"


def zig_settings(folder: Path, triple: Triple, glibc: str) -> list[str]:
    """Write the wrappers of one target and return CMake's settings.

    Raises: LabError if zig cannot be had.
    """
    zig, target = prepare_zig(folder), triple.zig_target(glibc)
    tools = folder / "zig-tools" / target
    tools.mkdir(parents=True, exist_ok=True)
    flags = " ".join(triple.architecture.zig_flags)
    texts = {"zig-cc": ZIG_CC, "zig-ar": ZIG_TOOL, "zig-ranlib": ZIG_TOOL}
    for name, text in texts.items():
        text = text.replace("ZIG", str(zig)).replace("TARGET", target).replace("FLAGS", flags)
        script = tools / name
        script.write_text(text.replace("TOOL", name.removeprefix("zig-")), encoding="utf-8")
        script.chmod(0o755)
    return [
        f"-DCMAKE_TOOLCHAIN_FILE={ZIG_CMAKE}",
        f"-DINGOT_ZIG_FOLDER={tools}",
        f"-DINGOT_PROCESSOR={triple.architecture.processor}",
    ]


def zig_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with zig's caches below folder."""
    cache = str(folder / "zig-cache")
    return {**os.environ, "ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
