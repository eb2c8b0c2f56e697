# SPDX-License-Identifier: Apache-2.0
"""Tests that `make test` leaves out for its time limit."""

from __future__ import annotations

import sys

from tests.checks.command import run


def slow_tests() -> None:
    """Everything marked `slow`."""
    run([sys.executable, "tests/run.py", "-m", "slow", "tests"])
