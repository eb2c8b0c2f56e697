# SPDX-License-Identifier: Apache-2.0
"""No kill leaves a store without a model, and the walk that says so can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WALK = Path(__file__).with_name("kill_walk.py")


def test_kills_at_system_calls_leave_the_old_or_the_new() -> None:
    """Every call of rollback and gc, every ninth of an update; all of all by `tests/check.py`."""
    results = []
    for words in (["rollback", "gc"], ["update", "--step", "9"]):
        command = [sys.executable, str(WALK), "--json", "--only", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            pytest.skip(f"kills: {done.stderr.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["kills"] > 80 and results[1]["kills"] > 20
    assert results[0]["unmet"] == []


def test_the_walk_finds_a_switch_that_is_not_atomic() -> None:
    command = [sys.executable, str(WALK), "--json", "--only", "rollback", "--plant"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(f"kills: {done.stderr.strip()}")
    assert done.returncode == 1
    assert "current is ''" in "".join(json.loads(done.stdout)["bad"])
