# SPDX-License-Identifier: Apache-2.0
"""The statistics of the accuracy gate: closed forms, simulated coverage, and the verdicts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ingot.errors import InvalidArgumentError
from ingot_compressor.certificate import Verdict, judge
from ingot_compressor.evaluate import Scores
from ingot_compressor.evaluation.recovery import (
    Recovery,
    items_that_decide,
    measure_recovery,
)
from ingot_compressor.recipe import Gate, load_recipe

# shares of items that both solve, the reference alone, the file alone, neither
CLOSE = (0.52, 0.08, 0.06, 0.34)


def answers(both: int, reference: int, file: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(1, 1)] * both + [(1, 0)] * reference + [(0, 1)] * file + [(0, 0)] * neither
    table = np.array(pairs, bool)
    return table[:, 0], table[:, 1]


def delta_method(both: int, reference: int, file: int, neither: int) -> float:
    """The standard error of a ratio of paired shares, to first order (Fieller 1954)."""
    n = both + reference + file + neither
    p, q = (both + reference) / n, (both + file) / n
    covariance = both / n - p * q
    relative = (1 - p) / p + (1 - q) / q - 2 * covariance / (p * q)
    return q / p * math.sqrt(relative / n)


@pytest.mark.parametrize("counts", [(520, 80, 60, 340), (3000, 40, 30, 1000), (90, 10, 5, 200)])
def test_the_bootstrap_agrees_with_the_closed_form(counts: tuple[int, int, int, int]) -> None:
    found = measure_recovery(*answers(*counts))
    both, reference, file, _ = counts
    assert found.ratio == pytest.approx((both + file) / (both + reference))
    assert found.deviation == pytest.approx(delta_method(*counts), rel=0.05)
    assert found.low == pytest.approx(found.ratio - 1.96 * found.deviation, abs=0.01)
    assert found.high == pytest.approx(found.ratio + 1.96 * found.deviation, abs=0.01)
    assert (found.both, found.only_reference, found.only_file) == counts[:3]
    assert found.accuracy == (both + file) / sum(counts)
    assert found.reference_accuracy == (both + reference) / sum(counts)


def test_counts_are_drawn_as_items_would_be() -> None:
    """The same interval from a bootstrap that draws the items one by one."""
    reference, candidate = answers(52, 8, 6, 34)
    picks = np.random.default_rng(3).integers(0, 100, (20000, 100))
    ratios = candidate[picks].sum(axis=1) / reference[picks].sum(axis=1)
    found = measure_recovery(reference, candidate)
    assert found.low == pytest.approx(np.quantile(ratios, 0.025), abs=0.01)
    assert found.high == pytest.approx(np.quantile(ratios, 0.975), abs=0.01)


def test_pairing_takes_out_what_both_find_hard() -> None:
    """As many right answers, but on other items: far less is known of the ratio."""
    paired = measure_recovery(*answers(590, 10, 8, 392))
    apart = measure_recovery(*answers(360, 240, 238, 162))
    assert paired.ratio == apart.ratio
    assert paired.high - paired.low < (apart.high - apart.low) / 4


def simulate(shares: tuple[float, ...], items: int, trials: int) -> list[Recovery]:
    rng = np.random.default_rng(7)
    drawn = rng.multinomial(items, shares, trials)
    return [measure_recovery(*answers(*(int(x) for x in row))) for row in drawn]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = (CLOSE[0] + CLOSE[2]) / (CLOSE[0] + CLOSE[1])
    found = simulate(CLOSE, 400, 200)
    hits = sum(one.low <= truth <= one.high for one in found)
    # 190 expected, deviation 3.1
    assert 180 <= hits <= 199
    # a file that is at the level itself hardly ever gets a verdict
    verdicts = [one.verdict(truth) for one in found]
    assert verdicts.count(Verdict.PASS) <= 12 and verdicts.count(Verdict.FAIL) <= 12


@pytest.mark.parametrize("items", [40, 100])
def test_few_items_without_a_loss_prove_little(items: int) -> None:
    """A file that loses 2 % of the items: the plain percentiles would pass it 44 times of 100."""
    shares = (0.6, 0.02, 0.0, 0.38)
    found = simulate(shares, items, 100)
    assert sum(one.verdict(0.6 / 0.62) is Verdict.PASS for one in found) <= 13
    nothing_lost = measure_recovery(*answers(items, 0, 0, 0))
    assert nothing_lost.ratio == 1 and 1 - 4 / items < nothing_lost.low < 1


def test_verdicts_stand_on_the_whole_interval() -> None:
    found = measure_recovery(*answers(520, 80, 60, 340))
    assert found.verdict(found.low) is Verdict.PASS
    assert found.verdict(np.nextafter(found.low, 2)) is Verdict.INCONCLUSIVE
    assert found.verdict(found.high) is Verdict.INCONCLUSIVE
    assert found.verdict(np.nextafter(found.high, 2)) is Verdict.FAIL


@pytest.mark.parametrize("level", [0.95, 0.985])
def test_the_number_of_items_that_it_names_decides(level: float) -> None:
    shares = (520, 80, 60, 340)
    few = measure_recovery(*answers(*(x // 10 for x in shares)))
    assert few.verdict(level) is Verdict.INCONCLUSIVE
    needed = items_that_decide(few, level)
    assert needed is not None and needed > 100

    def of_size(items: float) -> Verdict:
        return measure_recovery(*answers(*(round(x * items / 1000) for x in shares))).verdict(level)

    expected = Verdict.PASS if level < 0.96 else Verdict.FAIL
    assert of_size(1.2 * needed) is expected
    assert of_size(0.7 * needed) is Verdict.INCONCLUSIVE


def test_no_number_is_named_where_none_would_decide() -> None:
    level = measure_recovery(*answers(50, 5, 5, 40))
    assert level.ratio == 1 and items_that_decide(level, 1.0) is None
    nothing = measure_recovery(*answers(0, 0, 5, 95))
    assert math.isnan(nothing.ratio) and nothing.verdict(0.9) is Verdict.INCONCLUSIVE
    assert items_that_decide(nothing, 0.9) is None


def test_answers_must_pair_up() -> None:
    for a, b in (((), ()), ((1, 0), (1,))):
        with pytest.raises(InvalidArgumentError, match="expected as many"):
            measure_recovery(np.array(a, bool), np.array(b, bool))


# The gate of a recipe

LEVEL = 0.95
GATE = Gate(mean_kl=0.08, p99_kl=0.8, confidence=0.95, least_windows=8, recovery=LEVEL)


def scores(mean: float, windows: int = 16) -> Scores:
    rng = np.random.default_rng(0)
    kl = tuple(mean * rng.uniform(0.9, 1.1, 50) for _ in range(windows))
    flags = tuple(row > 0 for row in kl)
    return Scores(kl, flags, kl, kl, flags)


GOOD = answers(5900, 30, 20, 2000)
DAMAGED = answers(4500, 1430, 900, 1120)
CLOSE_CALL = answers(55, 4, 2, 39)


def test_the_gate_takes_both_limits() -> None:
    kept = measure_recovery(*GOOD)
    found = judge(GATE, scores(0.01), kept)
    assert found.verdict is Verdict.PASS
    assert [x.name for x in found.limits] == ["mean_kl", "p99_kl", "recovery"]
    assert "recovery 0.9983 [" in found.reason and "reaches the level 0.95" in found.reason
    # a file that keeps its accuracy still fails by its divergence
    assert judge(GATE, scores(9.0), kept).verdict is Verdict.FAIL


def test_the_gate_tells_a_damaged_file_from_a_good_one() -> None:
    found = judge(GATE, scores(0.01), measure_recovery(*DAMAGED))
    assert found.verdict is Verdict.FAIL and "is below the level 0.95" in found.reason
    assert "mean_kl" not in found.reason
    # whatever the divergence cannot tell yet
    assert judge(GATE, scores(0.01, 3), measure_recovery(*DAMAGED)).verdict is Verdict.FAIL


def test_too_few_items_are_named() -> None:
    recovery = measure_recovery(*CLOSE_CALL)
    found = judge(GATE, scores(0.01), recovery)
    assert found.verdict is Verdict.INCONCLUSIVE
    needed = items_that_decide(recovery, LEVEL)
    assert f"about {needed} items would decide, 100 were given" in found.reason
    nothing = judge(GATE, scores(0.01), measure_recovery(*answers(0, 0, 5, 95)))
    assert nothing.verdict is Verdict.INCONCLUSIVE and "solves none" in nothing.reason


def test_recovery_is_judged_wherever_items_are_given() -> None:
    assert judge(GATE, scores(0.01)).verdict is Verdict.PASS
    without = Gate(0.08, 0.8, 0.95, 8)
    found = judge(without, scores(0.01), measure_recovery(*DAMAGED))
    assert found.verdict is Verdict.FAIL and found.limits[-1].limit == 0.99


@pytest.mark.parametrize(
    ("preset", "level"), [("balanced", 0.99), ("quality", 0.99), ("tiny", 0.95)]
)
def test_a_preset_judges_the_accuracy(preset: str, level: float) -> None:
    gate = load_recipe(preset).gate
    found = judge(gate, scores(0.01), measure_recovery(*DAMAGED))
    assert found.verdict is Verdict.FAIL and f"is below the level {level:g}" in found.reason
    # 96.5 % of the reference's accuracy on 20,000 items
    lost = judge(gate, scores(0.01), measure_recovery(*answers(13510, 490, 0, 6000)))
    assert lost.verdict is (Verdict.PASS if level == 0.95 else Verdict.FAIL)


BALANCED = Path(__file__).parents[2] / "compressor/ingot_compressor/recipes/balanced.toml"


def test_the_level_is_a_key_that_a_recipe_may_leave_out(tmp_path: Path) -> None:
    lines, path = BALANCED.read_text(encoding="utf-8").splitlines(), tmp_path / "mine.toml"
    text = "\n".join(line for line in lines if not line.startswith("recovery"))
    path.write_text(text, encoding="utf-8")
    gate = load_recipe(path).gate
    assert gate is not None and gate.recovery is None
    path.write_text(f"{text}\nrecovery = 0.97\n", encoding="utf-8")
    gate = load_recipe(path).gate
    assert gate is not None and gate.recovery == 0.97 and gate.mean_kl == 0.08
    for value, message in (("1.5", "above 0 to 1"), ('"high"', "expected float")):
        path.write_text(f"{text}\nrecovery = {value}\n", encoding="utf-8")
        with pytest.raises(InvalidArgumentError, match=message):
            load_recipe(path)
    path.write_text(text.replace("least_windows = 8", ""), encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=r"gate.least_windows' is missing"):
        load_recipe(path)
