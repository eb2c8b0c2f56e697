# SPDX-License-Identifier: Apache-2.0
"""`ingot bench --replay`: what speculation brings on a recorded text.

The passes and the drafter are the real ones; what the model would draw is replaced by the record,
so that any file, even one of random weights, accepts what a model that gives this text accepts.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError
from ingot.model import Model
from ingot.passes import Passes
from ingot.session_config import SessionConfig
from ingot.speculation import LookupDrafter, Speculator

__all__ = ["Transcript", "read_transcript", "replay"]


@dataclass(frozen=True, slots=True)
class Transcript:
    """Token ids of a prompt and of the answer to it."""

    name: str
    prompt: tuple[int, ...]
    output: tuple[int, ...]


def read_transcript(path: Path) -> Transcript:
    """Read {"prompt": [ids], "output": [ids]}. Raises: InvalidArgumentError if it is not that."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        prompt, output = tuple(values["prompt"]), tuple(values["output"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidArgumentError(
            f"{path}: {error!r}; expected a JSON object with token ids in 'prompt' and 'output'"
        ) from error
    if not prompt or len(output) < 2 or not all(isinstance(t, int) for t in prompt + output):
        raise InvalidArgumentError(f"{path}: expected a prompt and two tokens of output or more")
    return Transcript(path.stem, prompt, output)


def replay(model: Model, transcript: Transcript, threads: int, most: int, rounds: int) -> Any:
    """Decode a transcript plainly and with lookup in turn; return rates, ratios and acceptance.

    Units: tokens per second. Raises: InvalidArgumentError if it does not fit the model.
    """
    info = model.info
    length = len(transcript.prompt) + len(transcript.output)
    if max(transcript.prompt + transcript.output) >= info.embedding_rows or length > info.context:
        raise InvalidArgumentError(
            f"{transcript.name}: {length} tokens up to id "
            f"{max(transcript.prompt + transcript.output)}; this file takes {info.context} tokens "
            f"and ids below {info.embedding_rows}"
        )
    plain, drafted = [], []
    speculator = Speculator(LookupDrafter(), most)
    passes = Passes(model, SessionConfig(threads=threads, speculate=most))
    try:
        _play(passes, transcript, None)  # brings the weights into memory
        for _ in range(rounds):
            plain.append(_play(passes, transcript, None))
            speculator = Speculator(LookupDrafter(), most)
            drafted.append(_play(passes, transcript, speculator))
    finally:
        passes.close()
    ratios = [fast / slow for fast, slow in zip(drafted, plain, strict=True)]
    return {
        "transcript": transcript.name,
        "plain_tokens_per_second": statistics.median(plain),
        "speculated_tokens_per_second": statistics.median(drafted),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "drafted": speculator.drafted,
        "accepted": speculator.accepted,
        "passes": speculator.passes,
        "tokens": len(transcript.output) - 1,
    }


def _play(passes: Passes, transcript: Transcript, speculator: Speculator | None) -> float:
    """Feed the prompt, then decode the output; return the output's tokens per second."""
    output = transcript.output
    tokens = [*transcript.prompt, output[0]]
    passes.cut(0)
    passes.evaluate(transcript.prompt, 1)
    done, begin = 1, time.perf_counter()
    while done < len(output):
        room = len(output) - done - 1
        start = time.perf_counter()
        drafts = speculator.draft(tokens, room) if speculator is not None else []
        passes.evaluate([tokens[-1], *drafts], 1 + len(drafts))
        seconds, right = time.perf_counter() - start, 0
        while right < len(drafts) and drafts[right] == output[done + right]:
            right += 1
        passes.cut(len(tokens) + right)
        if speculator is not None:
            speculator.record(len(drafts), right, seconds)
        tokens += output[done : done + right + 1]
        done += right + 1
    return (len(output) - 1) / (time.perf_counter() - begin)
