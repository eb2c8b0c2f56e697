# SPDX-License-Identifier: Apache-2.0
"""The README's table of quality is the committed measurement, and that reaches its bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.quality_bars import BARS, Row, judge, read_rows, renew

ROOT = Path(__file__).parents[2]
NAN = float("nan")


def test_readme_shows_the_committed_table() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page == renew(page, read_rows()), "run python tests/benchmarks/quality_bars.py"


def test_committed_table_reaches_every_bar() -> None:
    lines = list(judge(read_rows()))
    assert len(lines) == len(BARS)
    assert [line for line in lines if not line.startswith("reached")] == []


@pytest.mark.parametrize(
    ("only", "run", "verdict"),
    [
        (0.9, 0.9, "reached"),
        (1.1, 0.9, "MISSED"),
        (0.9, 1.1, "MISSED"),
        (0.9, NAN, "MISSED"),
    ],
)
def test_a_bar_holds_in_both_columns(only: float, run: float, verdict: str) -> None:
    bar = BARS[0]
    mine = Row(bar.ours, "ingot", 4.3, 1, only, run, 0.0, 1)
    peer = Row(bar.peer, "llama.cpp", 4.5, 1, 1.0, 1.0, 0.0, 1)
    line = next(line for line in judge([mine, peer]) if bar.what in line)
    assert line.startswith(verdict)


@pytest.mark.parametrize(("size", "verdict"), [(100, "reached"), (101, "MISSED")])
def test_a_mix_takes_no_more_bytes_than_the_peer(size: int, verdict: str) -> None:
    bar = next(bar for bar in BARS if bar.equal_bytes)
    mine = Row(bar.ours, "ingot", 4.7, size, 0.1, 0.1, 0.0, 1)
    peer = Row(bar.peer, "llama.cpp", 4.7, 100, 1.0, 1.0, 0.0, 1)
    line = next(line for line in judge([mine, peer]) if bar.what in line)
    assert line.startswith(verdict)
