# SPDX-License-Identifier: Apache-2.0
"""What greedy text shows that likelihoods do not: whether it ends, loops, and is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingot import Model
from ingot.chat import render
from ingot.errors import InvalidArgumentError
from ingot.session import Session
from ingot_compressor.evaluation.items import Generate
from ingot_compressor.evaluation.sessions import open_sessions, session_count, spread

__all__ = [
    "Generated",
    "GenerationQuality",
    "check_generation",
    "has_loop",
    "is_json",
    "matches",
    "summarize_generation",
]

# A loop is an n-gram of up to this many tokens ...
LONGEST_PERIOD = 64
# ... that stands so many times in a row ...
LEAST_REPEATS = 4
# ... over at least so many tokens: "ha ha ha ha" is none.
LEAST_SPAN = 16
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Generated:
    """The text of one item, and what was found of it; None where the item asks for nothing."""

    task: str
    line: int
    text: str
    tokens: int
    finish_reason: str
    looped: bool
    exact: bool | None
    valid_json: bool | None

    @property
    def stopped(self) -> bool:
        """Whether the model ended the text by itself."""
        return self.finish_reason in ("stop_id", "stop_string")


@dataclass(frozen=True, slots=True)
class GenerationQuality:
    """Shares of items; None where no item asks for it."""

    items: int
    stop_rate: float
    loop_rate: float
    exact_match: float | None
    json_validity: float | None
    mean_tokens: float


def has_loop(token_ids: Sequence[int]) -> bool:
    """Say whether an n-gram repeats back to back often enough to be a loop, anywhere in the text.

    Cost: O(tokens * LONGEST_PERIOD).
    Source: our own; the degeneration that Holtzman et al. 2020 (arXiv:1904.09751) describe.
    """
    ids = np.asarray(token_ids, np.int64)
    for period in range(1, min(LONGEST_PERIOD, len(ids) // LEAST_REPEATS) + 1):
        alike = ids[period:] == ids[:-period]
        span = max(period * LEAST_REPEATS, LEAST_SPAN)
        if _longest_run(alike) + period >= span:
            return True
    return False


def _longest_run(flags: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max()) if edges.size else 0


def matches(text: str, answer: str, match: str) -> bool:
    """Say whether a text is the answer: as a whole, by its first line, or by its last number."""
    if match == "number":
        found = NUMBER.findall(text)
        return bool(found) and _plain(found[-1]) == _plain(answer)
    if match == "line":
        lines = text.strip().splitlines()
        return bool(lines) and lines[0].strip() == answer.strip()
    return text.strip() == answer.strip()


def _plain(number: str) -> str:
    """Return a number without thousands separators and needless zeros."""
    text = number.replace(",", "").replace("$", "").strip()
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_json(text: str) -> bool:
    """Say whether a text is one JSON value, white space around it apart."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def check_generation(
    model: Model, items: Sequence[Generate], progress: Callable[[int], None], threads: int = 0
) -> list[Generated]:
    """Generate greedily for each item from an empty session, several items at a time.

    The texts do not depend on how many sessions share the threads (0: one per CPU).
    Raises: InvalidArgumentError naming the item whose prompt leaves no room, before any is run.
    """
    prompts = [_prompt(model, item) for item in items]
    if not prompts:
        return []
    longest = max(len(p) + item.max_tokens for p, item in zip(prompts, items, strict=True))
    context = min(model.info.context, longest)

    def run(session: Session, pair: tuple[Generate, list[int]]) -> Generated:
        session.reset()
        return _generate(session, *pair)

    found = []
    count = session_count(len(items), threads)
    with open_sessions(model, count, threads, context, 1, "auto") as opened:
        for one in spread(opened, run, list(zip(items, prompts, strict=True))):
            found.append(one)
            progress(len(found))
    return found


def _prompt(model: Model, item: Generate) -> list[int]:
    """Return the token ids of an item's prompt."""
    if item.chat:
        text = render(model.chat, [{"role": "user", "content": item.prompt}])
        ids = model.tokenizer.encode(text, begin=False)
    else:
        ids = model.tokenizer.encode(item.prompt)
    if not 0 < len(ids) < model.info.context:
        raise InvalidArgumentError(
            f"{item.task}, line {item.line}: a prompt of {len(ids)} tokens, expected 1 to"
            f" {model.info.context - 1} with the file's context"
        )
    return ids


def _generate(session: Session, item: Generate, prompt: list[int]) -> Generated:
    made = session.generate(prompt, max_tokens=item.max_tokens, stop=item.stop)
    return Generated(
        item.task,
        item.line,
        made.text,
        len(made.token_ids),
        made.finish_reason,
        has_loop(made.token_ids),
        None if item.answer is None else matches(made.text, item.answer, item.match),
        is_json(made.text) if item.json else None,
    )


def summarize_generation(found: Sequence[Generated]) -> GenerationQuality | None:
    """Return the shares over all items, None for none."""
    if not found:
        return None
    return GenerationQuality(
        items=len(found),
        stop_rate=float(np.mean([one.stopped for one in found])),
        loop_rate=float(np.mean([one.looped for one in found])),
        exact_match=_share([one.exact for one in found]),
        json_validity=_share([one.valid_json for one in found]),
        mean_tokens=float(np.mean([one.tokens for one in found])),
    )


def _share(flags: Sequence[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return float(np.mean(known)) if known else None
