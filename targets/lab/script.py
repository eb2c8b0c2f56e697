# SPDX-License-Identifier: Apache-2.0
"""Running a Python script or a program on an emulated board, under conditions."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from targets.lab.board import DEFAULT_FOLDER, Board
from targets.lab.boards import BoardProfile
from targets.lab.conditions import Conditions, build_shim, data_bytes, limited, view_of
from targets.lab.process import LabError
from targets.lab.rootfs import python_of

__all__ = ["Outcome", "run_script"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit status, -N for signal N, and both outputs where captured."""

    status: int
    output: str
    errors: str


def run_script(
    profile: BoardProfile,
    words: Sequence[str | Path],
    conditions: Conditions | None = None,
    folder: Path = DEFAULT_FOLDER,
    site: Path | None = None,
    capture: bool = True,
    timeout_s: float = 600.0,
) -> Outcome:
    """Run a script, or Python's own options, or a program of the board's architecture.

    `words` are what would follow `python` there; `site` is a folder into which a wheel was
    installed, used in place of this tree's runtime. Without conditions the memory is the board's.

    Raises: LabError if the board cannot be built, or there is no end after timeout_s.
    """
    board = Board(folder, profile.architecture)
    conditions = conditions or Conditions()
    if conditions.memory_bytes is None:
        conditions = replace(conditions, memory_bytes=profile.memory_bytes)
    environment = board.python_environment(site)
    program = [str(word) for word in words]
    if not _is_program(Path(program[0])):
        program = [str(python_of(board.root())), *program]
    command = _command(board, profile, program, conditions)
    pipe = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(
            command,
            env=board.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{program[-1]}: no end after {timeout_s:g} s") from error
    return Outcome(done.returncode, _text(done.stdout), _text(done.stderr))


def _command(
    board: Board, profile: BoardProfile, program: list[str], conditions: Conditions
) -> list[str]:
    memory = conditions.memory_bytes or profile.memory_bytes
    root = board.root()
    settings = {"INGOT_LAB_MEMORY": str(memory)}
    if conditions.storage is not None:
        settings |= conditions.storage.environment(conditions.storage_folder or Path.cwd())
    settings["LD_PRELOAD"] = str(build_shim(board.folder, profile.architecture))
    # -E sets them for the program alone: qemu itself is a program of this machine.
    options = [word for key, value in settings.items() for word in ("-E", f"{key}={value}")]
    plain = board.command(profile.cpu, [])
    limit = memory + data_bytes(plain, root)
    qemu = board.command(profile.cpu, program, options, view_of(root, board.folder, memory))
    return limited(qemu, limit)


def _is_program(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _text(output: bytes | None) -> str:
    return (output or b"").decode("utf-8", errors="replace")
