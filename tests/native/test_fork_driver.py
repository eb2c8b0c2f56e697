# SPDX-License-Identifier: Apache-2.0
"""Forks from C: shared blocks, copy on write, no allocation, several threads, blocks copied."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def drive(build: Path, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(build / "fork_driver"), str(file), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_forks_hold_their_promises(native_build: Path, lantern_ingot: Path) -> None:
    done = drive(native_build, lantern_ingot)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 15


@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        ("write", "a fork is as a session of its own"),
        ("leak", "all blocks come back"),
        ("alloc", "no allocation after a fork"),
    ],
)
def test_the_driver_can_fail(
    native_build: Path, lantern_ingot: Path, plant: str, caught: str
) -> None:
    done = drive(native_build, lantern_ingot, "--plant", plant)
    assert done.returncode == 1
    assert "FAIL" in done.stdout and caught in done.stdout
