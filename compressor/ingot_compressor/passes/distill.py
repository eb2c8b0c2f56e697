# SPDX-License-Identifier: Apache-2.0
"""Trains a quantized model as a whole: its next-token distribution against the original's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.ir import Program
from ingot_compressor.numerics.fake_quantize import FakeQuantized
from ingot_compressor.numerics.sign_descent import SignDescent

__all__ = ["DistillSettings", "Distillation", "distill", "top_kl"]

# Checks of the windows kept apart, spread over the steps.
CHECKS = 10


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """How long and how far: `rate` is the first step in gaps of the grid, falling to nothing.

    `top`: tokens of the original's distribution that are told apart; the others count as one.
    `held`: windows kept apart to choose the best state: the first of the text, or with `spread`
    some from all of it.
    """

    steps: int
    batch: int
    rate: float
    top: int = 4096
    held: int = 16
    activations: bool = False
    seed: int = 0
    spread: bool = False

    def kept_apart(self, count: int) -> list[int]:
        """Return which of so many windows are kept apart."""
        if not self.spread:
            return list(range(self.held))
        return [int(i) for i in np.linspace(0, count - 1, self.held).round()]


@dataclass(frozen=True, slots=True)
class Distillation:
    """Mean KL divergence on the windows kept apart, before and after, and each step's loss."""

    before: float
    after: float
    losses: tuple[float, ...]


def top_kl(reference: torch.Tensor, candidate: torch.Tensor, top: int) -> torch.Tensor:
    """Return the mean KL divergence, in nats, over the reference's likeliest tokens.

    All other tokens are one event, so that the result is a lower bound of the full divergence and
    equal to it where `top` covers the vocabulary.

    Shapes: reference, candidate (..., v) logits; result a scalar, differentiable in candidate.
    """
    p, q = torch.log_softmax(reference, -1), torch.log_softmax(candidate, -1)
    if top >= p.shape[-1]:
        return (p.exp() * (p - q)).sum(-1).mean()
    likely, index = p.topk(top, dim=-1)
    chosen = q.gather(-1, index)
    inside = (likely.exp() * (likely - chosen)).sum(-1)
    rest, other = _rest(likely), _rest(chosen)
    return (inside + rest.exp() * (rest - other)).mean()


def _rest(chosen: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the probability that the chosen tokens leave."""
    left = 1 - chosen.exp().sum(-1)
    return left.clamp_min(1e-7).log()


class _State:
    """Everything that a resumed run needs: parameters, the best ones, losses, the order."""

    def __init__(self, weights: Mapping[str, FakeQuantized]) -> None:
        self.parameters = {
            f"{name}/{part}": tensor
            for name, weight in weights.items()
            for part, tensor in weight.parameters().items()
        }
        self.losses: list[float] = []
        self.before = self.best = math.inf
        self.kept = self.copy()

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.parameters.items()}

    def put(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                tensor.copy_(values[name])

    def dump(self) -> dict[str, Any]:
        return {
            "parameters": self.copy(),
            "kept": self.kept,
            "losses": list(self.losses),
            "before": self.before,
            "best": self.best,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        self.put(saved["parameters"])
        self.kept, self.losses = dict(saved["kept"]), list(saved["losses"])
        self.before, self.best = saved["before"], saved["best"]


def distill(
    program: Program,
    weights: Mapping[str, FakeQuantized],
    fixed: Mapping[str, torch.Tensor],
    windows: Sequence[NDArray[np.int64]],
    store: TensorStore,
    settings: DistillSettings,
    progress: Callable[[int], None] | None = None,
    saved: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Distillation:
    """Train in place and keep the state with the least divergence on the windows kept apart.

    `fixed` are weights that are quantized but not trained. `teacher` gives the logits to come near
    to, from tokens; without it the program in full precision does. With `saved` from an earlier
    `save` the run goes on where that one was; both give the same result.
    Shapes: windows each (t,) int64, all of one length.
    Source: distillation (1503.02531) as in LLM-QAT (2305.17888), by sign descent over the rounding
    of SignRound (2309.05516) and the scales of EfficientQAT's second phase (2407.11062).
    Raises: InvalidArgumentError for too few windows.
    """
    if len(windows) < settings.held + settings.batch:
        raise InvalidArgumentError(
            f"{len(windows)} windows of calibration text, expected at least"
            f" {settings.held + settings.batch}: give a longer text"
        )
    apart = settings.kept_apart(len(windows))
    held = torch.from_numpy(np.stack([windows[index] for index in apart]))
    rest = [window for index, window in enumerate(windows) if index not in set(apart)]
    texts = torch.from_numpy(np.stack(rest))
    run = _Run(program, weights, dict(fixed), store, settings, teacher)
    state = _State(weights)
    if saved is not None:
        state.load(saved)
    else:
        state.before = state.best = run.divergence(held)
    descent = SignDescent(list(state.parameters.values()), settings.rate, settings.steps)
    descent.skip(len(state.losses))
    every = max(1, settings.steps // CHECKS)
    for step in range(len(state.losses), settings.steps):
        loss = run.loss(texts[_picks(len(texts), step, settings)])
        parameters = list(state.parameters.values())
        descent.step(torch.autograd.grad(loss, parameters, allow_unused=True))
        for weight in weights.values():
            weight.keep_in_range()
        state.losses.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            _check(run, state, held, save)
        if progress is not None:
            progress(step + 1)
    state.put(state.kept)
    return Distillation(state.before, state.best, tuple(state.losses))


def _check(
    run: _Run, state: _State, held: torch.Tensor, save: Callable[[dict[str, Any]], None] | None
) -> None:
    divergence = run.divergence(held)
    if divergence < state.best:
        state.best, state.kept = divergence, state.copy()
    if save is not None:
        save(state.dump())


def _picks(count: int, step: int, settings: DistillSettings) -> torch.Tensor:
    """Return the windows of a step: each pass over the text in its own order, from the seed."""
    first = step * settings.batch
    places = range(first, first + settings.batch)
    orders = {turn: _order(count, settings.seed, turn) for turn in {i // count for i in places}}
    return torch.stack([orders[i // count][i % count] for i in places])


def _order(count: int, seed: int, turn: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + turn))


@dataclass(frozen=True, slots=True)
class _Run:
    """The original and the quantized model side by side."""

    program: Program
    weights: Mapping[str, FakeQuantized]
    fixed: dict[str, torch.Tensor]
    store: TensorStore
    settings: DistillSettings
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None

    def reference(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.teacher is not None:
            return self.teacher(tokens)
        return execute(self.program, tokens, store=self.store)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            reference = self.reference(tokens)
        trained = {name: weight.weight() for name, weight in self.weights.items()}
        return top_kl(reference, self._candidate(tokens, trained), self.settings.top)

    def divergence(self, windows: torch.Tensor) -> float:
        """Return the mean over windows, one batch in memory at a time."""
        total = 0.0
        with torch.no_grad():
            trained = {name: weight.weight() for name, weight in self.weights.items()}
            for first in range(0, len(windows), self.settings.batch):
                tokens = windows[first : first + self.settings.batch]
                reference = self.reference(tokens)
                candidate = self._candidate(tokens, trained)
                total += float(top_kl(reference, candidate, self.settings.top)) * len(tokens)
        return total / len(windows)

    def _candidate(self, tokens: torch.Tensor, trained: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return execute(
            self.program,
            tokens,
            store=self.store,
            weights={**self.fixed, **trained},
            quantize_activations=self.settings.activations,
        )
