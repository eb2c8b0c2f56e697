# SPDX-License-Identifier: Apache-2.0
"""Running a tool of the lab: quiet when it works, its last words when it does not."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["LabError", "run"]


class LabError(Exception):
    """The board cannot be built or run here; the message says what is missing."""


def run(
    command: Sequence[str],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a command and return its output.

    Raises: LabError with the end of what it printed if it fails, hangs or does not exist.
    """
    shown = " ".join(command[:8])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
            env=environment,
            timeout=timeout_s,
        )
    except FileNotFoundError as error:
        raise LabError(f"'{command[0]}' is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shown}: no end after {timeout_s:g} s") from error
    if done.returncode != 0:
        raise LabError(f"{shown}: exit status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout
