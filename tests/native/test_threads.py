# SPDX-License-Identifier: Apache-2.0
"""The pool from C: runs of changing size, the crew's history, workers that sleep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def drive(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(build / "threads_driver"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pool_and_crew(native_build: Path) -> None:
    done = drive(native_build)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 3


@pytest.mark.parametrize(("plant", "caught"), [("lost", "runs"), ("history", "crew")])
def test_the_driver_can_fail(native_build: Path, plant: str, caught: str) -> None:
    done = drive(native_build, "--plant", plant)
    assert done.returncode == 1 and f"FAIL {caught}" in done.stdout


def test_contention_is_measured(native_build: Path, lantern_ingot: Path, repo_root: Path) -> None:
    script = repo_root / "tests" / "benchmarks" / "contention.py"
    sizes = ["--rounds", "1", "--seconds", "0.05", "--json"]
    command = [sys.executable, str(script), "--build", str(native_build), str(lantern_ingot)]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)["results"][0]
    assert result["threads"] == 2 and len(result["ratios"]) == 1 and result["disturbed_p99_ms"] > 0
