# SPDX-License-Identifier: Apache-2.0
"""What a program on the board finds: how much memory there is, and what its storage does.

Memory is held by `ulimit -d` around qemu: what the program allocates counts, files that it maps do
not, as their pages can be dropped. What qemu itself takes is measured and added. The same figure
stands in /proc/meminfo, which is a file of the board's view of the root, and in sysinfo().
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from targets.cross.build import tool
from targets.cross.triples import GLIBC, parse_triple
from targets.cross.zig import zig_environment, zig_settings
from targets.lab.boards import Storage
from targets.lab.process import LabError, run

__all__ = ["Conditions", "build_shim", "data_bytes", "limited", "view_of"]

SOURCE = Path(__file__).with_name("storage.c")
MEMINFO = """MemTotal:       {total:>8} kB
MemFree:        {free:>8} kB
MemAvailable:   {free:>8} kB
SwapTotal:             0 kB
SwapFree:              0 kB
"""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Memory in bytes, and storage below a folder; None for what stays as it is."""

    memory_bytes: int | None = None
    storage: Storage | None = None
    storage_folder: Path | None = None


def build_shim(folder: Path, architecture: str) -> Path:
    """Compile storage.c for the board; return the library. Raises: LabError without a compiler."""
    library = folder / f"storage-{architecture}.so"
    if library.exists() and library.stat().st_mtime >= SOURCE.stat().st_mtime:
        return library
    suffix = "eabihf" if architecture == "armv7" else ""
    triple = parse_triple(f"{architecture}-linux-gnu{suffix}")
    gcc = shutil.which(f"{triple.architecture.gcc}-gcc")
    if gcc is None:
        zig_settings(folder, triple, GLIBC)
        gcc = str(folder / "zig-tools" / triple.zig_target(GLIBC) / "zig-cc")
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden"]
    partial = library.with_suffix(".partial")
    command = [gcc, *options, str(SOURCE), "-ldl", "-o", str(partial)]
    run(command, environment=zig_environment(folder))
    partial.replace(library)
    return library


def view_of(root: Path, folder: Path, memory_bytes: int) -> Path:
    """Return a root that is the board's, but tells of another memory; qemu looks there first."""
    view = folder / "views" / f"{root.parent.name}-{memory_bytes}"
    meminfo = view / "proc" / "meminfo"
    if meminfo.exists():
        return view
    meminfo.parent.mkdir(parents=True, exist_ok=True)
    for entry in root.iterdir():
        link = view / entry.name
        if not link.is_symlink():
            link.symlink_to(entry)
    partial = meminfo.with_suffix(".partial")
    total = memory_bytes // 1024
    partial.write_text(MEMINFO.format(total=total, free=total * 9 // 10), encoding="utf-8")
    partial.replace(meminfo)
    return view


def data_bytes(qemu: list[str], root: Path) -> int:
    """Return what qemu takes for itself of the memory that `ulimit -d` counts.

    Raises: LabError if the board runs nothing.
    """
    status = run([*qemu, str(root / "bin" / "cat"), "/proc/self/status"])
    found = re.search(r"VmData:\s*(\d+) kB", status)
    if found is None:
        raise LabError("the board's /proc/self/status has no VmData")
    return int(found.group(1)) * 1024


def limited(command: list[str], limit_bytes: int) -> list[str]:
    """Return the command under `ulimit -d`."""
    return [tool("sh"), "-c", f'ulimit -d {limit_bytes // 1024}; exec "$@"', "sh", *command]
