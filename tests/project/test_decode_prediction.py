# SPDX-License-Identifier: Apache-2.0
"""The committed table of predicted and measured decode speed keeps its bar."""

from __future__ import annotations

import csv

from ingot_compressor.reporting.speed import Speed
from tests.benchmarks.decode_prediction import COLUMNS, TABLE, TOLERANCE, row


def test_three_files_at_one_and_two_threads_are_within_the_tolerance() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for threads in ("1", "2"):
        close = {
            one["file"]
            for one in rows
            if one["threads"] == threads and abs(float(one["ratio_median"]) - 1) <= TOLERANCE
        }
        assert len(close) >= 3


def test_a_row_sets_measured_over_predicted() -> None:
    speeds = [Speed(100.0, rate, 1, 32, 1) for rate in (90.0, 130.0, 110.0)]
    found = row("M/c4", speeds)
    assert (found["ratio_min"], found["ratio_median"], found["ratio_max"]) == ("0.9", "1.1", "1.3")
    assert found["measured"] == "110"
