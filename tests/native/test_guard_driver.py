# SPDX-License-Identifier: Apache-2.0
"""SIGBUS of a file that is cut short becomes an error; a set-uid process reads no environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def drive(build: Path, file: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    copy = folder / "copy.ingot"
    shutil.copyfile(file, copy)
    command = [str(build / "guard_driver"), str(file), str(copy), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_file_cut_short_is_an_error(
    native_build: Path, lantern_ingot: Path, tmp_path: Path
) -> None:
    done = drive(native_build, lantern_ingot, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 6


@pytest.mark.parametrize(
    ("plant", "caught"), [("unguarded", "unasked it is"), ("handler", "every other SIGBUS")]
)
def test_the_driver_can_fail(
    native_build: Path, lantern_ingot: Path, tmp_path: Path, plant: str, caught: str
) -> None:
    done = drive(native_build, lantern_ingot, tmp_path, "--plant", plant)
    assert done.returncode == 1 and f"FAIL {caught}" in done.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="making a set-uid program of another user needs root")
def test_a_set_uid_process_reads_no_environment(native_build: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "driver")
        shutil.copyfile(native_build / "guard_driver", program)
        Path(folder).chmod(0o755)
        program.chmod(0o755)
        environment = {**os.environ, "INGOT_FORCE_ISA": "ref"}
        command = [str(program), "--mask"]
        plain = subprocess.run(command, env=environment, capture_output=True, check=True)
        os.chown(program, 65534, 65534)
        program.chmod(0o4755)
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("the temporary folder is mounted nosuid")
        set_uid = subprocess.run(command, env=environment, capture_output=True, check=True)
    without = {name: value for name, value in os.environ.items() if name != "INGOT_FORCE_ISA"}
    command = [str(native_build / "guard_driver"), "--mask"]
    features = subprocess.run(command, env=without, capture_output=True, check=True)
    if int(features.stdout) == 1:
        pytest.skip("this CPU has no level but ref: forcing it shows nothing")
    assert (int(plain.stdout), set_uid.stdout) == (1, features.stdout)
