# SPDX-License-Identifier: Apache-2.0
"""The same prompts gone on with by the checkpoint and by the file, both greedily."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot import Model
from ingot_compressor.evaluate import Logits
from ingot_compressor.ir import Program
from ingot_compressor.measure import open_store, reference_logits

__all__ = ["Sample", "greedy_reference", "take_samples"]

PROMPT_TOKENS = 24
SAMPLE_TOKENS = 40

# Token ids so far, how many more at most -> a guess at what follows.
Guess = Callable[[list[int], int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and both answers; `agreed` counts the tokens before they part."""

    prompt: str
    reference: str
    file: str
    agreed: int
    tokens: int


def greedy_reference(
    logits: Logits, prompt: Sequence[int], count: int, stops: Collection[int], guess: Guess
) -> list[int]:
    """Return the `count` likeliest tokens one after the other, fewer where a stop id comes.

    The result is that of plain greedy decoding, whatever `guess` says.
    Source: Leviathan et al. 2022 (arXiv:2211.17192), greedy case.
    Cost: a run over all tokens so far for each wrong guess, not for each token.
    """
    made: list[int] = []
    while len(made) < count:
        guessed = [int(one) for one in guess([*prompt, *made], count - len(made))]
        rows = logits(np.array([*prompt, *made, *guessed], np.int64))
        chosen = rows[len(prompt) + len(made) - 1 :].argmax(axis=1).tolist()
        right = _agreed(guessed, chosen)
        for token in chosen[: right + 1]:
            if token in stops or len(made) == count:
                return made
            made.append(int(token))
    return made


def take_samples(
    program: Program,
    path: Path,
    windows: Sequence[NDArray[np.int64]],
    threads: int,
    done: Callable[[int], None],
) -> tuple[Sample, ...]:
    """Go on with the beginnings of windows, the file in the native runtime.

    Shapes: windows each (t,) int64. Keys and values are float16 as in the certificate.
    """
    logits = reference_logits(program, open_store(program))
    found = []
    with Model(path) as model:
        room = min(model.info.context, PROMPT_TOKENS + SAMPLE_TOKENS)
        stops, decode = frozenset(model.chat.eos_token_ids), model.tokenizer.decode
        with model.session(room, threads, kv="f16") as session:

            def go_on(ids: list[int], count: int) -> Sequence[int]:
                session.reset()
                return session.generate(ids, max_tokens=count).token_ids

            for window in windows:
                prompt = window[: min(PROMPT_TOKENS, room - 1)].tolist()
                count = room - len(prompt)
                ours = list(go_on(prompt, count))
                theirs = greedy_reference(logits, prompt, count, stops, go_on)
                agreed = _agreed(ours, theirs)
                texts = decode(prompt), decode(theirs), decode(ours)
                found.append(Sample(*texts, agreed, max(len(ours), len(theirs))))
                done(len(found))
    return tuple(found)


def _agreed(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
