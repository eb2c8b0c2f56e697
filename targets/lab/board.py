# SPDX-License-Identifier: Apache-2.0
"""The emulated board: programs and Python scripts at a chosen ARM core."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.lab.cross import REPOSITORY, build_native
from targets.lab.process import LabError, run
from targets.lab.rootfs import prepare_root, prepare_site, python_of

__all__ = ["CPU_LEVELS", "DEFAULT_FOLDER", "Board"]

DEFAULT_FOLDER = REPOSITORY / "build" / "lab"
# The kernel levels that must be there and run at each emulated core, weakest core first.
CPU_LEVELS: Mapping[str, tuple[str, ...]] = {
    "cortex-a53": ("ref", "neon"),
    "cortex-a76": ("ref", "neon", "neon_dotprod"),
    "max": ("ref", "neon", "neon_dotprod", "neon_i8mm"),
}


@dataclass(frozen=True, slots=True)
class Board:
    """An emulated board whose files are in one cache folder."""

    folder: Path = DEFAULT_FOLDER

    def native(self, compiler: str = "gcc") -> Path:
        """Build libingot and the harness for the board; return their folder."""
        return build_native(self.folder, compiler)

    def command(
        self, cpu: str, program: Sequence[str | Path], options: Sequence[str] = ()
    ) -> list[str]:
        """Return the command that runs an aarch64 program at a core, with options for qemu.

        Raises: LabError if there is no qemu or no such core.
        """
        if cpu not in CPU_LEVELS:
            raise LabError(f"unknown core '{cpu}', expected one of {', '.join(CPU_LEVELS)}")
        qemu = shutil.which("qemu-aarch64")
        if qemu is None:
            raise LabError("qemu-aarch64 is not installed (qemu-user)")
        root = prepare_root(self.folder)
        return [qemu, "-cpu", cpu, "-L", str(root), *options, *(str(word) for word in program)]

    def run(
        self,
        cpu: str,
        program: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        timeout_s: float = 600.0,
    ) -> str:
        """Run an aarch64 program at a core and return what it printed.

        Raises: LabError if it fails.
        """
        settings = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        settings.update({k: v for k, v in os.environ.items() if k.startswith("INGOT_FORCE")})
        settings.update(environment or {})
        command = self.command(cpu, program, options)
        return run(command, environment=settings, timeout_s=timeout_s)

    def python(
        self,
        cpu: str,
        arguments: Sequence[str | Path],
        compiler: str = "gcc",
        options: Sequence[str] = (),
        timeout_s: float = 600.0,
    ) -> str:
        """Run the board's Python with the runtime of this tree and return what it printed.

        Raises: LabError if it fails.
        """
        site = prepare_site(self.folder, REPOSITORY / "constraints.txt")
        python = python_of(prepare_root(self.folder))
        environment = {
            "PYTHONPATH": f"{REPOSITORY / 'runtime'}:{site}",
            "INGOT_NATIVE_DIR": str(self.native(compiler)),
            # numpy's own threads would only take time from the emulator.
            "OPENBLAS_NUM_THREADS": "1",
        }
        return self.run(cpu, [python, *arguments], environment, options, timeout_s)
