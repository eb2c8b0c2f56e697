# SPDX-License-Identifier: Apache-2.0
"""Create .venv and install the project into it with the pinned development tools.

Runs on the system's Python with nothing but the standard library.

Example:
    python3 targets/install.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 10)
BUILD_TOOLS = ["scikit-build-core", "cffi", "cmake", "ninja", "tomli"]


def missing_prerequisites() -> list[str]:
    """Name what this machine lacks to build the project."""
    missing = []
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:2])
        missing.append(f"Python 3.10 or newer (this is {found}; set PYTHON=... for make)")
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        missing.append("a C compiler (Debian: apt install gcc)")
    return missing


def pip_install(arguments: list[str]) -> None:
    """Run pip of the virtual environment under the project's constraints."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*command, *constraints, *arguments], cwd=ROOT, check=True)


def main() -> int:
    """Build the environment; a second call only rebuilds what changed."""
    missing = missing_prerequisites()
    if missing:
        print("ingot needs: " + "; ".join(missing), file=sys.stderr)
        return 1
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip_install(BUILD_TOOLS)
    # Without isolation the CMake build folder keeps its paths, so that a rebuild is incremental.
    pip_install(["--no-build-isolation", ".[compress,dev]"])
    subprocess.run([str(python), "-c", "import ingot"], cwd=VENV, check=True)
    (VENV / "installed").touch()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        sys.exit(1)
