# SPDX-License-Identifier: Apache-2.0
"""libingot with its binding for one system, in a folder that can be copied to the device."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.cross.android import android_settings
from targets.cross.triples import GLIBC, Triple
from targets.cross.zig import REPOSITORY, zig_environment, zig_settings
from targets.lab.process import LabError, run

__all__ = ["COMPILERS", "Built", "build_native", "build_runtime", "glibc_needed", "tool"]

COMPILERS = ("auto", "zig", "gcc", "ndk")
STRIPPED = "-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-s"
_LEVELS = re.compile(r"-- Kernel levels: (.*)")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made. `glibc` is the oldest that it runs with; None for musl or unknown."""

    triple: str
    compiler: str
    folder: Path
    library: Path
    bytes: int
    levels: tuple[str, ...]
    glibc: str | None
    note: str


def build_runtime(
    triple: Triple,
    out: Path,
    cache: Path,
    compiler: str = "auto",
    glibc: str = GLIBC,
    progress: Progress = lambda line: None,
    backends: Sequence[str] = (),
) -> Built:
    """Build libingot, and backends (vulkan, cuda), and copy all with binding and headers to out.

    Raises: LabError naming the compiler that is missing, or the end of what the build said.
    Cost: about a minute on one core; with zig 410 MB once.
    """
    chosen = _chosen(triple, compiler)
    progress(f"{triple.name} with {chosen}")
    build = cache / "runtime" / f"{triple.name}-{chosen}-{glibc}"
    names = [f"ingot_{backend}" for backend in backends]
    options = [STRIPPED, *(f"-DINGOT_{backend.upper()}=ON" for backend in backends)]
    goals = ["ingot", "ingot_ffi", *names]
    levels = build_native(build, triple, chosen, cache, glibc, goals, options)
    out.mkdir(parents=True, exist_ok=True)
    headers = (REPOSITORY / "native" / "include").glob("*.h")
    libraries = [build / f"lib{name}.so" for name in ("ingot", *names)]
    for path in (*libraries, build / "_ingot_ffi.py", *sorted(headers)):
        shutil.copy(path, out / path.name)
    library = out / "libingot.so"
    needed = glibc_needed(library) if triple.libc == "gnu" else None
    note = triple.architecture.note
    if needed is not None and _version(needed) > _version(glibc):
        note = f"{note + '; ' if note else ''}for systems before glibc {needed} take --compiler zig"
    size = library.stat().st_size
    return Built(triple.name, chosen, out, library, size, levels, needed, note)


def build_native(
    build: Path,
    triple: Triple,
    compiler: str,
    cache: Path,
    glibc: str,
    goals: list[str],
    options: list[str],
) -> tuple[str, ...]:
    """Configure native/ for a system, build the goals, and return the kernel levels.

    Raises: LabError as build_runtime.
    """
    settings = [*_settings(triple, compiler, cache, glibc), *options]
    environment = zig_environment(cache)
    cmake, ninja = tool("cmake"), tool("ninja")
    configure = [cmake, "-S", str(REPOSITORY / "native"), "-B", str(build), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    said = run([*configure, "-DCMAKE_BUILD_TYPE=Release", *settings], environment=environment)
    command = [cmake, "--build", str(build), "--parallel", "2", "--target", *goals]
    run(command, environment=environment)
    found = _LEVELS.search(said)
    return tuple(found.group(1).split()) if found else ()


def _chosen(triple: Triple, compiler: str) -> str:
    """Return the compiler that `auto` means: the NDK for Android, else zig, which pip installs."""
    if triple.libc == "android":
        if compiler not in ("auto", "ndk"):
            raise LabError(f"{triple.name} is built by the NDK only, not by {compiler}")
        return "ndk"
    if compiler == "ndk":
        raise LabError(f"the NDK builds for Android only, not for {triple.name}")
    return "zig" if compiler == "auto" else compiler


def _settings(triple: Triple, compiler: str, cache: Path, glibc: str) -> list[str]:
    if compiler == "ndk":
        return android_settings()
    if compiler == "zig":
        return zig_settings(cache, triple, glibc)
    return _gcc_settings(triple)


def _gcc_settings(triple: Triple) -> list[str]:
    """Return CMake's settings for the system's own cross compiler."""
    if triple.libc != "gnu":
        raise LabError(f"the cross gcc links with glibc only: --compiler zig for {triple.name}")
    architecture = triple.architecture
    program = f"{architecture.gcc}-gcc"
    if shutil.which(program) is None:
        raise LabError(
            f"{program} is not installed (Debian: apt install gcc-{architecture.gcc});"
            " --compiler zig needs pip only"
        )
    return [
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={architecture.processor}",
        f"-DCMAKE_C_COMPILER={program}",
        f"-DCMAKE_C_FLAGS={' '.join(architecture.gcc_flags)}",
    ]


def glibc_needed(library: Path) -> str | None:
    """Return the newest glibc whose symbols a library asks for; None without binutils' readelf."""
    if shutil.which("readelf") is None:
        return None
    said = run(["readelf", "--wide", "--version-info", str(library)])
    versions = set(re.findall(r"Name: GLIBC_([0-9.]+)", said))
    return max(versions, key=_version) if versions else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def tool(name: str) -> str:
    """Return a build tool, the one beside this interpreter first. Raises: LabError."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed: pip install {name}")
    return found
