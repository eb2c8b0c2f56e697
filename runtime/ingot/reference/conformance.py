# SPDX-License-Identifier: Apache-2.0
"""Conformance vectors: the logits that a correct executor gives for a file, with a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.reference.bounds import operation_bounds
from ingot.reference.session import ReferenceSession, Values

__all__ = ["check_conformance", "conformance"]

F32 = NDArray[np.float32]
Evaluate = Callable[[list[int]], F32]
_SAFETY = 2.0
_FLOOR = 2.0**-20
_JUSTIFICATION = (
    "Largest change of a logit over the prompts when every output of every instruction is moved "
    "to one end of its float32 error bound, the signs drawn at random, over `trials` draws; times "
    "`safety`; at least 2^-20 of the largest logit. It includes what a rounding that falls the "
    "other way in an int8 activation does to all that follows."
)


class _PerturbedSession(ReferenceSession):
    """Moves every output to an end of its error bound, as a float32 executor might at worst."""

    def __init__(self, container: Container, source: ReferenceSession, seed: int) -> None:
        super().__init__(container)
        self.share_weights(source)
        self._random = np.random.default_rng(seed)

    def execute(self, index: int, values: Values, tokens: NDArray[np.int32], wanted: int) -> Values:
        outputs = super().execute(index, values, tokens, wanted)
        bounds = operation_bounds(self, index, values, outputs)
        return {out: self._moved(y, bounds[out]) for out, y in outputs.items()}

    def _moved(self, y: F32, bound: NDArray[np.float64]) -> F32:
        signs = self._random.integers(0, 2, y.shape) * 2 - 1
        return (y + signs * bound).astype(np.float32)


def conformance(
    container: Container, prompts: Sequence[Sequence[int]], top: int = 32, trials: int = 4
) -> dict[str, Any]:
    """Return the JSON of section `vectors`.

    Per prompt its token ids, and ids and values of the `top` largest logits of its last position;
    one absolute tolerance for all, with how it was computed.
    Raises: InvalidArgumentError without prompts, or for a prompt that the session refuses.
    Cost: 1 + trials evaluations of each prompt in NumPy.
    """
    if not prompts or top < 1 or trials < 1:
        raise InvalidArgumentError(
            f"{len(prompts)} prompts, top {top}, trials {trials}; expected at least one of each"
        )
    session = ReferenceSession(container)
    deviation, largest = 0.0, 0.0
    entries: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        session.reset()
        logits = session.eval(prompt, 1)[0]
        largest = max(largest, float(np.abs(logits).max()))
        entries.append(_entry(prompt, logits, top))
        for trial in range(trials):
            perturbed = _PerturbedSession(container, session, number * trials + trial)
            moved = perturbed.eval(prompt, 1)[0]
            deviation = max(deviation, float(np.abs(moved - logits).max()))
    return {
        "version": 1,
        "executor": "ingot.reference",
        "tolerance": max(_SAFETY * deviation, _FLOOR * largest),
        "justification": _JUSTIFICATION,
        "largest_deviation": deviation,
        "safety": _SAFETY,
        "trials": trials,
        "prompts": entries,
    }


def _entry(prompt: Sequence[int], logits: F32, top: int) -> dict[str, Any]:
    order = np.argsort(-logits, kind="stable")[:top]
    return {
        "token_ids": [int(token) for token in prompt],
        "top_ids": [int(token) for token in order],
        "top_logits": [float(value) for value in logits[order]],
    }


def check_conformance(vectors: Mapping[str, Any], evaluate: Evaluate) -> list[str]:
    """Return what is wrong, nothing if an executor agrees with the vectors.

    `evaluate(token_ids)` gives the logits of a fresh session, (v,) or (m, v) with the last
    position last. A prompt that lists no logits, and vectors without a prompt, are problems too.
    """
    try:
        tolerance = float(vectors["tolerance"])
        prompts = [_parsed(entry) for entry in vectors["prompts"]]
    except (KeyError, TypeError, ValueError) as error:
        return [f"vectors are not readable: {error!r}; compute them again with `ingot compress`"]
    if not prompts or not 0.0 <= tolerance < np.inf:
        return [f"vectors have {len(prompts)} prompts and tolerance {tolerance}: nothing to check"]
    problems: list[str] = []
    for number, (tokens, ids, expected) in enumerate(prompts):
        logits = np.atleast_2d(evaluate(tokens))[-1]
        problems += [
            f"prompt {number}: {text}" for text in _differ(logits, ids, expected, tolerance)
        ]
    return problems


def _parsed(entry: Mapping[str, Any]) -> tuple[list[int], NDArray[np.int64], NDArray[np.float64]]:
    tokens = [int(token) for token in entry["token_ids"]]
    ids = np.array(entry["top_ids"], np.int64)
    expected = np.array(entry["top_logits"], np.float64)
    if not tokens or ids.ndim != 1 or ids.size == 0 or ids.shape != expected.shape:
        raise ValueError("token ids, top ids or top logits are missing or do not pair up")
    return tokens, ids, expected


def _differ(
    logits: F32, ids: NDArray[np.int64], expected: NDArray[np.float64], tolerance: float
) -> list[str]:
    """Compare the listed logits, and look for an unlisted one that is larger than them."""
    if ids.min() < 0 or ids.max() >= logits.size:
        return [f"top ids up to {int(ids.max())}, but there are {logits.size} logits"]
    if not np.isfinite(logits).all():
        return [f"{int((~np.isfinite(logits)).sum())} logits are not finite"]
    error = np.abs(logits[ids] - expected)
    worst = int(error.argmax())
    problems = []
    # Written so that a NaN among the expected logits fails too.
    if not error.max() <= tolerance:
        problems.append(
            f"logit of token {int(ids[worst])} is {float(logits[ids[worst]]):.6g}, expected "
            f"{float(expected[worst]):.6g} within {tolerance:.2g}"
        )
    rest = np.delete(logits, ids)
    if rest.size and float(rest.max()) > float(expected.min()) + tolerance:
        problems.append(
            f"an unlisted logit is {float(rest.max()):.6g}, above the listed ones' least, "
            f"{float(expected.min()):.6g}, by more than {tolerance:.2g}"
        )
    return problems
