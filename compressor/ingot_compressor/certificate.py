# SPDX-License-Identifier: Apache-2.0
"""The certificate: what was measured on which bytes, and the verdict of the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingot.format import Section
from ingot_compressor.evaluation.recovery import Recovery, items_that_decide
from ingot_compressor.evaluation.verdict import Verdict
from ingot_compressor.recipe import Gate, Recipe

if TYPE_CHECKING:
    from ingot.container import Container
    from ingot_compressor.evaluate import Quality, Scores

__all__ = ["Judgement", "Limit", "Verdict", "build_certificate", "judge", "measured_sections"]

SCHEMA = 1
MEASURED = (Section.TENSORS, Section.PROGRAM, Section.WEIGHTS)
RESAMPLES = 1000
# The share of the checkpoint's accuracy to keep where items are given and the recipe names none.
RECOVERY = 0.99
SEED = 20260101


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, the measured value, and its confidence interval.

    `at_least` is for a level to reach instead of a bound to keep; `remark` says what would decide.
    """

    name: str
    limit: float
    measured: float
    low: float
    high: float
    at_least: bool = False
    remark: str = ""

    @property
    def verdict(self) -> Verdict:
        """Pass or fail only where the whole interval stands on one side."""
        if self.at_least:
            if self.low >= self.limit:
                return Verdict.PASS
            return Verdict.FAIL if self.high < self.limit else Verdict.INCONCLUSIVE
        if not np.isfinite(self.measured) or self.low > self.limit:
            return Verdict.FAIL
        return Verdict.PASS if self.high <= self.limit else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the reason in words, and the limits it rests on."""

    verdict: Verdict
    reason: str
    limits: tuple[Limit, ...] = ()


def judge(gate: Gate | None, scores: Scores | None, recovery: Recovery | None = None) -> Judgement:
    """Return the verdict on measured scores, and on the accuracy where items were given.

    Intervals of the divergence are bootstrapped over windows: positions of one window depend on
    each other; that of `recovery` over items, measured at the gate's confidence.
    """
    if gate is None:
        return Judgement(Verdict.UNGATED, "the recipe sets no limits")
    if scores is None:
        return Judgement(Verdict.UNGATED, "nothing was measured: no evaluation text was given")
    limits: tuple[Limit, ...] = (
        _limit("mean_kl", gate.mean_kl, scores.kl, gate.confidence, None),
        _limit("p99_kl", gate.p99_kl, scores.kl, gate.confidence, 0.99),
    )
    accuracy = _accuracy_limits(gate, recovery)
    failed = any(x.verdict is Verdict.FAIL for x in accuracy)
    windows = len(scores.kl)
    few = windows < gate.least_windows and all(np.isfinite(x.measured) for x in limits)
    limits += accuracy
    if few and not failed:
        reason = (
            f"{windows} windows were measured, the gate needs {gate.least_windows}:"
            " give more evaluation text"
        )
        return Judgement(Verdict.INCONCLUSIVE, reason, limits)
    if few:
        return Judgement(Verdict.FAIL, "; ".join(_sentence(x) for x in accuracy), limits)
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        found = [x for x in limits if x.verdict is verdict]
        if found:
            return Judgement(verdict, "; ".join(_sentence(x) for x in found), limits)
    return Judgement(Verdict.PASS, "; ".join(_sentence(x) for x in limits), limits)


def _accuracy_limits(gate: Gate, recovery: Recovery | None) -> tuple[Limit, ...]:
    if recovery is None:
        return ()
    r, remark = recovery, ""
    level = RECOVERY if gate.recovery is None else gate.recovery
    if r.verdict(level) is Verdict.INCONCLUSIVE:
        needed = items_that_decide(r, level, gate.confidence)
        remark = (
            f"the reference solves none of {r.items} items"
            if r.both + r.only_reference == 0
            else f"about {needed} items would decide, {r.items} were given"
            if needed is not None
            else f"it is at the level itself with {r.items} items"
        )
    return (Limit("recovery", level, r.ratio, r.low, r.high, at_least=True, remark=remark),)


def _sentence(limit: Limit) -> str:
    if limit.at_least:
        return _sentence_of_level(limit)
    relation = {
        Verdict.PASS: "within",
        Verdict.FAIL: "above",
        Verdict.INCONCLUSIVE: "too close to",
    }[limit.verdict]
    return (
        f"{limit.name} {limit.measured:.4f} [{limit.low:.4f}, {limit.high:.4f}]"
        f" is {relation} the limit {limit.limit:g}"
    )


def _sentence_of_level(limit: Limit) -> str:
    relation = {
        Verdict.PASS: "reaches",
        Verdict.FAIL: "is below",
        Verdict.INCONCLUSIVE: "is too close to",
    }[limit.verdict]
    remark = f" ({limit.remark})" if limit.remark else ""
    return (
        f"{limit.name} {limit.measured:.4f} [{limit.low:.4f}, {limit.high:.4f}]"
        f" {relation} the level {limit.limit:g}{remark}"
    )


def _limit(
    name: str,
    limit: float,
    windows: tuple[NDArray[np.float64], ...],
    confidence: float,
    quantile: float | None,
) -> Limit:
    pooled = np.concatenate(windows)
    measured = float(pooled.mean() if quantile is None else np.quantile(pooled, quantile))
    if not np.isfinite(measured):
        return Limit(name, limit, measured, measured, measured)
    drawn = _bootstrap(windows, quantile)
    edge = (1 - confidence) / 2
    low, high = (float(x) for x in np.quantile(drawn, (edge, 1 - edge)))
    return Limit(name, limit, measured, low, high)


def _bootstrap(
    windows: tuple[NDArray[np.float64], ...], quantile: float | None
) -> NDArray[np.float64]:
    """Return the statistic of RESAMPLES draws of whole windows, with a fixed seed."""
    generator = np.random.default_rng(SEED)
    picks = generator.integers(0, len(windows), (RESAMPLES, len(windows)))
    if quantile is not None:
        return np.array(
            [np.quantile(np.concatenate([windows[i] for i in row]), quantile) for row in picks]
        )
    sums = np.array([w.sum() for w in windows])
    counts = np.array([w.size for w in windows], np.float64)
    result: NDArray[np.float64] = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return result


def measured_sections(container: Container) -> dict[str, str]:
    """Return the SHA-256 of the sections that a measurement depends on, by name."""
    found = {section.kind: bytes(section.sha256).hex() for section in container.sections}
    return {kind.name.lower(): found[kind] for kind in MEASURED}


def build_certificate(
    recipe: Recipe,
    judgement: Judgement,
    quality: Quality | None,
    sections: Mapping[str, str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the certificate as a JSON object.

    `facts` adds sizes, data and versions under their own keys.
    """
    return {
        "schema": SCHEMA,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "recipe": recipe.name,
        "gate": asdict(recipe.gate) if recipe.gate else None,
        "limits": [{**asdict(x), "verdict": x.verdict.value} for x in judgement.limits],
        "quality": asdict(quality) if quality else None,
        "sections": dict(sections),
        **facts,
    }
