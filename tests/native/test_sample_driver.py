# SPDX-License-Identifier: Apache-2.0
"""Choosing tokens in C: random numbers, and the best logits kept by the head's epilogue."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def drive(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(build / "sample_driver"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_choosing_without_a_model(native_build: Path) -> None:
    done = drive(native_build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 1 + 2 * 6


@pytest.mark.parametrize("plant", ["tie", "surplus", "nan"])
def test_the_driver_can_fail(native_build: Path, plant: str) -> None:
    done = drive(native_build, "--plant", plant)
    assert done.returncode == 1 and "FAIL" in done.stdout
