# SPDX-License-Identifier: Apache-2.0
"""Sessions from C: the same bits everywhere, no allocation after open, cancel, two at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def drive(build: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(build / "session_driver"), str(file), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_sessions_hold_their_promises(native_build: Path, lantern_ingot: Path) -> None:
    done = drive(native_build, lantern_ingot)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no allocation after open" in done.stdout
    assert done.stdout.count("ok ") == 5


@pytest.mark.parametrize(
    ("plant", "caught"),
    [("alloc", "no allocation after open"), ("bits", "same bits for any threads and chunk")],
)
def test_the_driver_can_fail(
    native_build: Path, lantern_ingot: Path, plant: str, caught: str
) -> None:
    done = drive(native_build, lantern_ingot, "--plant", plant)
    assert done.returncode == 1
    assert f"FAIL {caught}" in done.stdout
