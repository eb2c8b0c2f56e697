# SPDX-License-Identifier: Apache-2.0
"""Checks of what brings models onto devices: kills, deployment over ssh, a bundle on the board."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.checks.command import ROOT, StepError, run
from tests.checks.package import model_file

NOT_HERE = "exit status 3:"


def kills() -> None:
    """Kill every change of a store at each of its system calls."""
    _run_or_tell([sys.executable, ROOT / "tests" / "runtime" / "kill_walk.py"])


def deployment() -> None:
    """Deploy 100 MB over loopback, with a cut, and again with one section changed."""
    _run_or_tell([sys.executable, ROOT / "tests" / "benchmarks" / "deploy_bars.py", model_file()])


def bundle() -> None:
    """Install a bundle on the emulated board without network."""
    _run_or_tell([sys.executable, ROOT / "tests" / "targets" / "bundle_board.py", model_file()])


def _run_or_tell(command: list[object], tell: Callable[[str], None] = print) -> None:
    """Run a script; one that cannot run here (status 3) says why and is no failure."""
    try:
        tell(run([str(word) for word in command]).strip())
    except StepError as error:
        if NOT_HERE not in str(error):
            raise
        tell(f"skipped: {str(error).strip().splitlines()[0]}")
