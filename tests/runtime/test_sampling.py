# SPDX-License-Identifier: Apache-2.0
"""Sampling: exact distributions, their order, and the draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingot.errors import InternalError, InvalidArgumentError
from ingot.reference.sampling import candidates, choose
from ingot.sampling import Sampling

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32))


def _kept(sampling: Sampling, logits: NDArray[np.float32] = LOGITS) -> dict[int, float]:
    ids, probabilities = candidates(logits, sampling, ())
    return {int(token): round(float(p), 6) for token, p in zip(ids, probabilities, strict=True)}


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert choose(np.array([1, 3, 3], np.float32), Sampling(), (), 0) == 1


def test_temperature_rescales() -> None:
    flat = _kept(Sampling(temperature=2.0))
    roots = np.sqrt([0.05, 0.4, 0.1, 0.25, 0.2])
    assert flat == pytest.approx(dict(enumerate(roots / roots.sum())), abs=1e-5)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1, top_k=2), {1: 0.4 / 0.65, 3: 0.25 / 0.65}),
        (Sampling(temperature=1, top_p=0.6), {1: 0.4 / 0.65, 3: 0.25 / 0.65}),
        (Sampling(temperature=1, top_p=0.66), {1: 0.4 / 0.85, 3: 0.25 / 0.85, 4: 0.2 / 0.85}),
        (Sampling(temperature=1, top_p=0.01), {1: 1.0}),
        (Sampling(temperature=1, min_p=0.6), {1: 0.4 / 0.65, 3: 0.25 / 0.65}),
        # top-k first, so that top-p sees 0.4 / 0.65 = 0.615 and stops there
        (Sampling(temperature=1, top_k=2, top_p=0.6), {1: 1.0}),
    ],
)
def test_filters_keep_exactly_these(sampling: Sampling, expected: dict[int, float]) -> None:
    assert _kept(sampling) == pytest.approx(expected, abs=1e-5)


def test_top_k_among_equals_keeps_the_lower_ids() -> None:
    assert set(_kept(Sampling(temperature=1, top_k=3), np.zeros(6, np.float32))) == {0, 1, 2}


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 400), st.floats(0.05, 0.999))
def test_top_p_equals_a_full_sort(seed: int, size: int, top_p: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    weights = np.exp(logits.astype(np.float64) - logits.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[order]), top_p)
    assert set(_kept(Sampling(temperature=1, top_p=top_p), logits)) == set(
        order[: reached + 1].tolist()
    )


def test_repetition_penalty_lowers_both_signs_once() -> None:
    logits = np.array([2.0, -2.0, 1.5], np.float32)
    assert choose(logits, Sampling(repetition_penalty=2.0), [0, 0, 1], 0) == 2
    ids, _ = candidates(logits, Sampling(temperature=1, top_k=1, repetition_penalty=1.5), [2, 99])
    assert ids.tolist() == [0]
    assert logits.tolist() == [2.0, -2.0, 1.5]


def test_draws_follow_the_distribution() -> None:
    sampling = Sampling(temperature=1.0, seed=11)
    draws = 20_000
    counts = np.bincount([choose(LOGITS, sampling, (), i) for i in range(draws)], minlength=5)
    expected = np.array([0.05, 0.4, 0.1, 0.25, 0.2]) * draws
    # 18.47 is the 99.9th percentile of chi-square with four degrees of freedom.
    assert float(((counts - expected) ** 2 / expected).sum()) < 18.47


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int, position: int) -> int:
        return choose(logits, Sampling(temperature=1, seed=seed), (), position)

    assert draw(3, 7) == draw(3, 7)
    assert len({draw(3, position) for position in range(50)}) > 40
    assert len({draw(seed, 7) for seed in range(50)}) > 40
    assert draw(2**64 - 1, 0) in range(1000)


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -1},
        {"top_k": -1},
        {"top_k": 1.5},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_values_out_of_range_name_themselves(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
        Sampling(**arguments)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_are_an_error() -> None:
    for bad in (np.nan, np.inf):
        logits = np.array([1.0, bad, 0.0], np.float32)
        with pytest.raises(InternalError, match="token 1"):
            choose(logits, Sampling(), (), 0)
        with pytest.raises(InternalError, match="token 1"):
            choose(logits, Sampling(temperature=1, seed=1), (), 0)
    with pytest.raises(InvalidArgumentError, match="seed"):
        choose(LOGITS, Sampling(temperature=1), (), 0)
