# SPDX-License-Identifier: Apache-2.0
"""Each allocation fails once, and each error of the C interface is met, with status and message."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.native.driver_files import DriverFiles, write_driver_files


@pytest.fixture(scope="module")
def driver_files(tmp_path_factory: pytest.TempPathFactory) -> DriverFiles:
    return write_driver_files(tmp_path_factory.mktemp("drivers"))


def drive(program: Path, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    words = [str(program), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_each_allocation_may_fail(native_build: Path, driver_files: DriverFiles) -> None:
    done = drive(native_build / "allocation_driver", *driver_files.allocations)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(counts) == 4 and min(counts) > 20


@pytest.mark.parametrize(
    ("plant", "caught"), [("silent", "not reported once"), ("leak", "memory is held")]
)
def test_the_allocation_driver_can_fail(
    native_build: Path, driver_files: DriverFiles, plant: str, caught: str
) -> None:
    done = drive(native_build / "allocation_driver", driver_files.plain, "--plant", plant)
    assert done.returncode == 1
    assert "FAIL" in done.stdout and caught in done.stdout


def test_errors_have_a_status_and_a_message(native_build: Path, driver_files: DriverFiles) -> None:
    done = drive(native_build / "errors_driver", *driver_files.errors)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[1]) > 100


def test_errors_around_backends(native_build: Path, driver_files: DriverFiles) -> None:
    done = drive(native_build / "backend_driver", driver_files.plain)
    assert done.returncode == 0, done.stdout + done.stderr
    planted = drive(native_build / "backend_driver", driver_files.plain, "--plant", "status")
    assert planted.returncode == 1 and planted.stdout.count("FAIL line") == 1


def test_the_errors_driver_can_fail(native_build: Path, driver_files: DriverFiles) -> None:
    done = drive(native_build / "errors_driver", *driver_files.errors, "--plant", "status")
    assert done.returncode == 1
    assert done.stdout.count("FAIL line") == 1 and "expected internal" in done.stdout
