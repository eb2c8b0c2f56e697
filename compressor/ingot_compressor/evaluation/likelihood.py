# SPDX-License-Identifier: Apache-2.0
"""Likelihood of continuations: from any logits, or from a program in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.evaluate import Logits, log_softmax
from ingot_compressor.execute import TensorStore, execute, execute_block
from ingot_compressor.ir import Program

__all__ = [
    "Likelihood",
    "Progress",
    "Request",
    "Scorer",
    "fit_request",
    "logits_scorer",
    "program_scorer",
    "read_likelihood",
]

# Positions that PyTorch runs at once, padding among them.
BATCH_TOKENS = 2048
# Logits that one head's call may give, in elements: 64 MB.
HEAD_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids of which the continuation is scored; neither part is empty."""

    prefix: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def fed(self) -> tuple[int, ...]:
        """What a model has to see: all but the last token."""
        return self.prefix + self.continuation[:-1]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Sum of the natural log-probabilities; `greedy` if each token was the likeliest."""

    total: float
    greedy: bool


Progress = Callable[[int], None]
Scorer = Callable[[Sequence[Request], Progress], list[Likelihood]]


def read_likelihood(logits: NDArray[np.float32], continuation: Sequence[int]) -> Likelihood:
    """Return what logits say of the tokens that followed them. Shapes: logits (n, v)."""
    targets = np.asarray(continuation, np.int64)
    chosen = log_softmax(logits)[np.arange(len(targets)), targets]
    return Likelihood(float(chosen.sum()), bool((logits.argmax(axis=1) == targets).all()))


def logits_scorer(logits: Logits) -> Scorer:
    """Return a scorer that runs each request through logits of all positions."""

    def score(requests: Sequence[Request], progress: Progress) -> list[Likelihood]:
        found = []
        for request in requests:
            rows = logits(np.asarray(request.fed, np.int64))[len(request.prefix) - 1 :]
            found.append(read_likelihood(rows, request.continuation))
            progress(len(found))
        return found

    return score


def program_scorer(program: Program, store: TensorStore) -> Scorer:
    """Return a scorer that runs requests of like length together, padded at their ends.

    Attention looks back only, so that padding changes nothing. The head runs on scored positions.
    """
    trunk, head = _cut_at_head(program)

    def score(requests: Sequence[Request], progress: Progress) -> list[Likelihood]:
        found: list[Likelihood | None] = [None] * len(requests)
        done = 0
        for batch in _batches(requests):
            with torch.inference_mode():
                hidden = execute(trunk, _padded([requests[i].fed for i in batch]), store=store)
                for row, index in zip(hidden, batch, strict=True):
                    found[index] = _score_row(head, store, row, requests[index])
            done += len(batch)
            progress(done)
        return [one for one in found if one is not None]

    return score


def _cut_at_head(program: Program) -> tuple[Program, Program]:
    """Return the program up to the head's input, and the head."""
    weight = program.head()
    last = max(i for i, op in enumerate(program.operations) if weight in op.inputs[1:])
    source = program.operations[last].inputs[0]
    trunk = replace(program, operations=program.operations[:last], output=source)
    return trunk, replace(program, operations=program.operations[last:], input=source)


def _batches(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Yield indices of requests that run together, the longest first."""
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].fed))
    while order:
        count = max(1, BATCH_TOKENS // len(requests[order[0]].fed))
        yield order[:count]
        del order[:count]


def _padded(rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
    tokens = torch.zeros((len(rows), max(len(row) for row in rows)), dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
    return tokens


def _score_row(
    head: Program, store: TensorStore, hidden: torch.Tensor, request: Request
) -> Likelihood:
    """Run the head on the scored positions of one request, a block of them at a time."""
    first, count = len(request.prefix) - 1, len(request.continuation)
    step = max(1, HEAD_ELEMENTS // head.tensors[head.output].width)
    total, greedy = 0.0, True
    for at in range(0, count, step):
        end = min(at + step, count)
        rows = execute_block(head, hidden[None, first + at : first + end], store=store)[0]
        part = read_likelihood(rows[:, : head.vocabulary].numpy(), request.continuation[at:end])
        total, greedy = total + part.total, greedy and part.greedy
    return Likelihood(total, greedy)


def fit_request(request: Request, context: int) -> Request:
    """Return a request cut at its beginning to what a context holds.

    Raises: InvalidArgumentError if the continuation alone is too long.
    """
    if len(request.continuation) > context:
        raise InvalidArgumentError(
            f"a continuation of {len(request.continuation)} tokens does not fit the file's"
            f" context {context}"
        )
    room = context - len(request.continuation) + 1
    return (
        request if len(request.prefix) <= room else replace(request, prefix=request.prefix[-room:])
    )
