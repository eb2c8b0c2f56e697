# SPDX-License-Identifier: Apache-2.0
"""A sparse file is chosen only where it beats the dense files of its size."""

from __future__ import annotations

import math

import pytest

from ingot.errors import InvalidArgumentError
from ingot_compressor.passes.hybrid import (
    MeasuredPoint,
    compare_with_dense,
    dense_front,
    front_kl,
)

SMALL = MeasuredPoint("c3", 300, 0.16)
LARGE = MeasuredPoint("c4", 500, 0.01)
BEATEN = MeasuredPoint("q4", 520, 0.012)
MIDDLE = 400  # where the front is the geometric mean of both: 0.04


def test_front_leaves_out_what_another_file_beats_in_both_figures() -> None:
    points = [BEATEN, LARGE, SMALL, MeasuredPoint("worse", 300, 0.2)]
    assert dense_front(points) == (SMALL, LARGE)
    for point in points:
        better = [p for p in points if p.stored_bytes <= point.stored_bytes and p != point]
        on_front = all(p.mean_kl > point.mean_kl for p in better)
        assert (point in dense_front(points)) == on_front


def test_front_between_files_is_the_line_of_the_logarithm() -> None:
    front = dense_front([SMALL, LARGE])
    assert front_kl(front, MIDDLE) == pytest.approx(math.sqrt(0.16 * 0.01))
    assert front_kl(front, 300) == 0.16
    assert front_kl(front, 10_000) == 0.01
    assert front_kl(front, 299) is None


@pytest.mark.parametrize(
    ("size", "kl", "chosen"),
    [
        (MIDDLE, 0.039, True),
        (MIDDLE, 0.041, False),
        (MIDDLE, 0.04001, False),
        (300, 0.16, False),  # as good is not better
        (600, 0.0099, True),
        (600, 0.011, False),
        (200, 0.0, False),  # nothing dense is as small: no evidence
    ],
)
def test_choice(size: int, kl: float, chosen: bool) -> None:
    (row,) = compare_with_dense([BEATEN, LARGE, SMALL], [MeasuredPoint("sparse", size, kl)])
    assert row.chosen is chosen
    assert (row.stored_bytes, row.mean_kl) == (size, kl)
    assert (row.dense_kl is None) == (size < 300)
    assert "dense" in row.reason


def test_dense_point_that_is_beaten_itself_does_not_lower_the_bar() -> None:
    sparse = MeasuredPoint("sparse", 520, 0.011)
    (row,) = compare_with_dense([SMALL, LARGE, BEATEN], [sparse])
    assert not row.chosen
    (row,) = compare_with_dense([SMALL, BEATEN], [sparse])
    assert row.chosen


@pytest.mark.parametrize("bad", [(0, 0.1), (-5, 0.1), (10, -0.1), (10, math.nan), (10, math.inf)])
def test_figures_that_are_no_measurement(bad: tuple[int, float]) -> None:
    with pytest.raises(InvalidArgumentError, match="no measurement"):
        compare_with_dense([MeasuredPoint("bad", *bad)], [])
    with pytest.raises(InvalidArgumentError, match="no measurement"):
        compare_with_dense([SMALL], [MeasuredPoint("bad", *bad)])


def test_no_dense_file() -> None:
    with pytest.raises(InvalidArgumentError, match="no dense file"):
        compare_with_dense([], [SMALL])
