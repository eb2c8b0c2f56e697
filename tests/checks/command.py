# SPDX-License-Identifier: Apache-2.0
"""Running one command of a check in the repository's root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class StepError(Exception):
    """A check that does not hold; the message is what its command said."""


def tool(name: str) -> str:
    """Return a program, the one of this environment first.

    Raises: StepError if it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise StepError(f"{name} is not installed")
    return found


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    show: bool = False,
) -> str:
    """Run a command and return its output, which is printed as it comes if asked to.

    Raises: StepError with the end of the output if the command fails.
    """
    words = [str(word) for word in command]
    settings = {**os.environ, **(environment or {})}
    if show:
        done = subprocess.run(words, cwd=cwd, env=settings, check=False)
        output = ""
    else:
        captured = subprocess.run(
            words,
            cwd=cwd,
            env=settings,
            check=False,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        done, output = captured, captured.stdout
    if done.returncode != 0:
        shown = " ".join(words)
        raise StepError(f"{output[-6000:]}\nexit status {done.returncode}: {shown[:400]}")
    return output


def build_native(name: str, settings: Sequence[str], targets: Sequence[str] = ()) -> Path:
    """Build native/ with CMake into a folder below build/ and return it; all targets, or some.

    Raises: StepError if it does not build.
    """
    build = ROOT / "build" / name
    cmake, ninja = tool("cmake"), tool("ninja")
    configure = [cmake, "-S", ROOT / "native", "-B", build, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    run([*configure, *settings])
    wanted = ["--target", *targets] if targets else []
    run([cmake, "--build", build, "--parallel", "2", *wanted])
    return build
