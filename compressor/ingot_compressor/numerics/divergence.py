# SPDX-License-Identifier: Apache-2.0
"""Divergence from a reference of which only the likeliest tokens are kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Likeliest", "keep_likeliest", "kl_from"]


@dataclass(frozen=True, slots=True, eq=False)
class Likeliest:
    """The likeliest tokens of each position and what is left for all others.

    Shapes: ids (p, c) int64; log_probabilities (p, c) float64; rest (p,) float64, a probability.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor
    rest: torch.Tensor


def keep_likeliest(logits: torch.Tensor, most: int) -> Likeliest:
    """Return the `most` likeliest tokens of each position, all of them where there are fewer.

    Shapes: logits (p, v).
    """
    every = torch.log_softmax(logits.double(), dim=-1)
    kept, ids = every.topk(min(most, every.shape[-1]), dim=-1)
    rest = 1 - kept.exp().sum(dim=-1) if most < every.shape[-1] else torch.zeros(len(every))
    return Likeliest(ids, kept, rest.double().clamp(min=0))


def kl_from(reference: Likeliest, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(reference || candidate) of each position, all tokens not kept taken as one.

    Exact where every token is kept, else a lower bound (data-processing inequality).

    Shapes: logits (p, v) of the candidate; result (p,) float64, in nats, not negative.
    Source: EvoPress (arXiv:2410.14649): 512 tokens are enough to rank.
    """
    wide = logits.double()
    normaliser = torch.logsumexp(wide, dim=-1, keepdim=True)
    q = wide.gather(-1, reference.ids) - normaliser
    p = reference.log_probabilities
    kept = (p.exp() * (p - q)).sum(dim=-1)
    tiny = torch.finfo(torch.float64).tiny
    other = (1 - q.exp().sum(dim=-1)).clamp(min=tiny)
    rest = reference.rest
    return (kept + torch.xlogy(rest, rest) - rest * other.log()).clamp(min=0)
