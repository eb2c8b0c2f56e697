# SPDX-License-Identifier: Apache-2.0
"""The multiple-choice knapsack against brute force and dynamic programming."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.numerics.knapsack import InfeasibleError, Row, solve_knapsack

Floats = NDArray[np.float64]


def brute_force(costs: list[Floats], rows: list[Row]) -> float:
    """Return the least cost of all assignments, infinity if none is within the limits."""
    best = math.inf
    for picked in itertools.product(*(range(len(one)) for one in costs)):
        totals = (sum(a[i] for a, i in zip(row.amounts, picked, strict=True)) for row in rows)
        if all(total <= row.limit for total, row in zip(totals, rows, strict=True)):
            best = min(best, sum(c[i] for c, i in zip(costs, picked, strict=True)))
    return best


def by_table(costs: list[Floats], amounts: list[NDArray[np.int64]], limit: int) -> float:
    """Return the least cost with whole amounts of one kind: best[b] after each unit."""
    best = np.zeros(limit + 1)
    for cost, amount in zip(costs, amounts, strict=True):
        following = np.full(limit + 1, np.inf)
        for c, a in zip(cost, amount, strict=True):
            if a <= limit:
                following[a:] = np.minimum(following[a:], best[: limit + 1 - a] + c)
        best = following
    return float(best[limit])


def total(costs: list[Floats], picked: tuple[int, ...]) -> float:
    return float(sum(c[i] for c, i in zip(costs, picked, strict=True)))


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force_with_three_rows(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(1, 5, 6)
    costs = [random.exponential(size=n) for n in counts]
    rows = []
    for name in ("bytes", "decode", "prefill"):
        amounts = tuple(random.uniform(0, 10, n) for n in counts)
        least = sum(a.min() for a in amounts)
        rows.append(Row(name, amounts, float(least + random.uniform(2, 14))))
    best = brute_force(costs, rows)
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            solve_knapsack(costs, rows)
        return
    picked = solve_knapsack(costs, rows)
    assert all(row.total(picked) <= row.limit for row in rows)
    assert total(costs, picked) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_table_on_many_units(seed: int) -> None:
    random = np.random.default_rng(seed)
    amounts = [np.sort(random.integers(1, 40, 7)) for _ in range(40)]
    costs = [np.sort(random.exponential(size=7))[::-1].copy() for _ in range(40)]
    limit = int(sum(a.min() for a in amounts) * 2)
    row = Row("bytes", tuple(a.astype(np.float64) for a in amounts), limit)
    picked = solve_knapsack(costs, [row])
    assert row.total(picked) <= limit
    assert total(costs, picked) == pytest.approx(by_table(costs, amounts, limit), rel=2e-5)


def test_tiny_costs_and_large_amounts_are_exact() -> None:
    """Divergences of 1e-9 against bytes of 1e9: a limit is not overstepped by one byte."""
    costs = [np.array([5e-9, 1e-9, 0.0])] * 3
    amounts = (np.array([1e9, 2e9, 3e9 + 1]),) * 3
    exactly = solve_knapsack(costs, [Row("bytes", amounts, 6e9 + 1)])
    assert sorted(exactly) == [0, 1, 2] or exactly == (1, 1, 1)
    assert total(costs, exactly) == pytest.approx(3e-9)
    below = solve_knapsack(costs, [Row("bytes", amounts, 6e9 - 1)])
    assert sorted(below) == [0, 1, 1]


def test_without_rows_each_unit_takes_its_cheapest() -> None:
    assert solve_knapsack([np.array([3.0, 1.0]), np.array([0.5, 2.0])], []) == (1, 0)


def test_equal_costs_of_zero_leave_the_limits_alone_to_decide() -> None:
    row = Row("bytes", (np.array([1.0, 9.0]), np.array([9.0, 1.0])), 2.0)
    assert solve_knapsack([np.zeros(2), np.zeros(2)], [row]) == (0, 1)


def test_the_row_that_cannot_be_met_is_named_with_the_least_possible() -> None:
    costs = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]
    size = (np.array([2.0, 4.0]), np.array([3.0, 5.0]))
    with pytest.raises(InfeasibleError, match="bytes: at least 5 is needed, the limit is 4") as one:
        solve_knapsack(costs, [Row("bytes", size, 4.0)])
    assert one.value.row.name == "bytes" and one.value.least == 5.0
    # alone each can be met, together not: beside 6 bytes the least time is 9 + 5
    time = (np.array([9.0, 1.0]), np.array([8.0, 5.0]))
    with pytest.raises(InfeasibleError) as both:
        solve_knapsack(costs, [Row("bytes", size, 6.0), Row("time", time, 13.5)])
    assert (both.value.row.name, both.value.least) == ("time", 17.0)
    assert isinstance(both.value, InvalidArgumentError)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="row bytes has other units"):
        solve_knapsack([np.zeros(2)], [Row("bytes", (np.zeros(3),), 1.0)])


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS does, on problems like these."""
    random = np.random.default_rng(0)
    sizes = random.choice([16384, 65536, 131072, 393216], 40)
    bits = np.array([2.25, 3.25, 4.125, 4.35, 5.35, 6.35, 8.5])
    costs = [random.lognormal() * s * 4.0**-bits * random.uniform(0.8, 1.2, 7) for s in sizes]
    amounts = tuple(np.round(s * bits / 8) for s in sizes)
    print("before")
    for budget in np.linspace(2.3, 8, 8):
        solve_knapsack(costs, [Row("bytes", amounts, float(budget * sizes.sum() / 8))])
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"
