# SPDX-License-Identifier: Apache-2.0
"""The emulated board: programs and Python scripts at a chosen ARM core."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.lab.boards import boards
from targets.lab.cross import REPOSITORY, build_native
from targets.lab.process import LabError, run
from targets.lab.rootfs import prepare_root, prepare_site, python_of

__all__ = ["CPU_LEVELS", "DEFAULT_FOLDER", "Board"]

DEFAULT_FOLDER = REPOSITORY / "build" / "lab"
# What runs 64-bit and 32-bit programs, and what compiles for them where nobody chooses.
EMULATORS: Mapping[str, str] = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}
NATIVE_COMPILERS: Mapping[str, str] = {"aarch64": "gcc", "armv7": "zig"}
# The kernel levels that must be there and run at each core of the suite, weakest core first.
CPU_LEVELS: Mapping[str, tuple[str, ...]] = {
    "cortex-a53": ("ref", "neon"),
    "cortex-a76": ("ref", "neon", "neon_dotprod"),
    "max": ("ref", "neon", "neon_dotprod", "neon_i8mm"),
}


@dataclass(frozen=True, slots=True)
class Board:
    """An emulated board whose files are in one cache folder; `architecture` as in boards.toml."""

    folder: Path = DEFAULT_FOLDER
    architecture: str = "aarch64"

    def native(self, compiler: str = "") -> Path:
        """Build libingot and the harness for the board; return their folder."""
        compiler = compiler or NATIVE_COMPILERS[self.architecture]
        return build_native(self.folder, compiler, self.architecture)

    def root(self) -> Path:
        """Return the board's root file system, made at first use. Raises: LabError."""
        return prepare_root(self.folder, self.architecture)

    def site(self) -> Path:
        """Return the packages that the runtime needs, made at first use. Raises: LabError."""
        return prepare_site(self.folder, REPOSITORY / "constraints.txt", self.architecture)

    def command(
        self,
        cpu: str,
        program: Sequence[str | Path],
        options: Sequence[str] = (),
        root: Path | None = None,
    ) -> list[str]:
        """Return the command that runs a program of the board at a core, with options for qemu.

        Raises: LabError if there is no qemu or no such core.
        """
        cpus = [b.cpu for b in boards().values() if b.architecture == self.architecture]
        if cpu not in (known := list(dict.fromkeys(cpus))):
            raise LabError(f"unknown core '{cpu}', expected one of {', '.join(known)}")
        emulator = EMULATORS[self.architecture]
        qemu = shutil.which(emulator)
        if qemu is None:
            raise LabError(f"{emulator} is not installed (qemu-user)")
        place = str(root or self.root())
        return [qemu, "-cpu", cpu, "-L", place, *options, *(str(word) for word in program)]

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a program on the board: nothing of this machine's."""
        found = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        found.update({k: v for k, v in os.environ.items() if k.startswith("INGOT_FORCE")})
        return {**found, **settings}

    def run(
        self,
        cpu: str,
        program: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        timeout_s: float = 600.0,
    ) -> str:
        """Run a program of the board at a core and return what it printed.

        Raises: LabError if it fails.
        """
        command = self.command(cpu, program, options)
        return run(command, environment=self.environment(environment or {}), timeout_s=timeout_s)

    def python_environment(self, site: Path | None = None, compiler: str = "") -> dict[str, str]:
        """Return what the board's Python needs to find the runtime: this tree's, or that of site.

        Raises: LabError if a part cannot be made.
        """
        # numpy's own threads would only take time from the emulator.
        quiet = {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if site is not None:
            return {"PYTHONPATH": str(site), **quiet}
        paths = f"{REPOSITORY / 'runtime'}:{self.site()}"
        return {"PYTHONPATH": paths, "INGOT_NATIVE_DIR": str(self.native(compiler)), **quiet}

    def python(
        self,
        cpu: str,
        arguments: Sequence[str | Path],
        compiler: str = "",
        options: Sequence[str] = (),
        timeout_s: float = 600.0,
    ) -> str:
        """Run the board's Python with the runtime of this tree and return what it printed.

        Raises: LabError if it fails.
        """
        environment = self.python_environment(None, compiler)
        python = python_of(self.root())
        return self.run(cpu, [python, *arguments], environment, options, timeout_s)
