# SPDX-License-Identifier: Apache-2.0
"""Descent by the sign of the gradient, with a step that falls linearly to nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["SignDescent"]


class SignDescent:
    """p -= rate * (1 - step / steps) * sign(gradient).

    Source: signSGD (1802.04434), with the schedule of SignRound (2309.05516). A bounded step suits
    rounding: what counts is which side of a half a value ends on, not how steep the way was.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float, steps: int) -> None:
        self._parameters, self._rate, self._steps = list(parameters), rate, steps
        self._done = 0

    def step(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Take one step; a parameter without gradient stays."""
        rate = self._rate * max(0.0, 1 - self._done / self._steps)
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(torch.sign(gradient), alpha=rate)
        self._done += 1

    def skip(self, steps: int) -> None:
        """Count steps that an earlier run took."""
        self._done += steps
