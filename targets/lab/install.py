# SPDX-License-Identifier: Apache-2.0
"""A wheel on the board, installed there by pip, with no network and no compiler."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from targets.lab.board import Board
from targets.lab.cross import REPOSITORY
from targets.lab.process import LabError, run
from targets.lab.rootfs import WHEELS, download_wheels, pinned, python_of

__all__ = ["install_wheel", "prepare_wheelhouse"]

PIP = "pip==25.3"


def prepare_wheelhouse(board: Board) -> Path:
    """Download pip and the runtime's aarch64 dependencies as wheels; return their folder.

    Raises: LabError if pip cannot download them, or there are none for the architecture.
    """
    if board.architecture != "aarch64":
        raise LabError(f"numpy and cffi publish no wheels for {board.architecture}")
    house, stamp = board.folder / "wheelhouse", board.folder / "wheelhouse.done"
    version = python_of(board.root()).name.removeprefix("python")
    wanted = pinned(REPOSITORY / "constraints.txt", WHEELS)
    text = "\n".join([PIP, *wanted, version, "with dependencies"])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        return house
    shutil.rmtree(house, ignore_errors=True)
    # With what tokenizers asks for: the board's pip installs nothing that lacks a dependency.
    more = ["--constraint", str(REPOSITORY / "constraints.txt")]
    download_wheels(house, wanted, version, board.architecture, more)
    run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(house), PIP])
    stamp.write_text(text, encoding="utf-8")
    return house


def install_wheel(board: Board, wheel: Path, into: Path, cpu: str = "cortex-a76") -> Path:
    """Have the board's own pip install a wheel with its dependencies into a folder; return that.

    Raises: LabError if pip refuses: another architecture, a newer C library, a missing dependency.
    Cost: about half a minute, emulated.
    """
    house = prepare_wheelhouse(board)
    pip = next(house.glob("pip-*.whl"), None)
    if pip is None:
        raise LabError(f"no pip is in {house}")
    shutil.rmtree(into, ignore_errors=True)
    options: list[str | Path] = [
        "--no-index",
        "--find-links",
        house,
        "--no-compile",
        "--no-cache-dir",
        "--quiet",
    ]
    options += ["--disable-pip-version-check", "--root-user-action", "ignore", "--target", into]
    python = python_of(board.root())
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    board.run(cpu, [python, pip / "pip", "install", *options, wheel], quiet)
    return into
