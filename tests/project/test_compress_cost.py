# SPDX-License-Identifier: Apache-2.0
"""The committed costs of the presets keep their bars."""

from __future__ import annotations

import csv
from dataclasses import replace

from tests.benchmarks.compress_cost import BARS, TABLE, Cost


def read() -> dict[str, Cost]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["preset"]: Cost(
            row["preset"],
            int(row["checkpoint_bytes"]),
            float(row["seconds"]),
            int(row["peak_bytes"]),
            int(row["file_bytes"]),
            int(row["cpus"]),
        )
        for row in rows
    }


def test_presets_keep_their_bars_on_half_a_billion_weights() -> None:
    found = read()
    assert set(BARS) <= set(found)
    for cost in found.values():
        assert cost.kept() and cost.checkpoint_bytes > 900e6 and cost.cpus <= 2


def test_a_bar_is_of_time_and_of_memory() -> None:
    cost = Cost("balanced", 1, 2400.0, int(6e9), 1, 2)
    assert cost.kept()
    assert not replace(cost, seconds=2401.0).kept()
    assert not replace(cost, peak_bytes=int(6e9) + 1).kept()
