# SPDX-License-Identifier: Apache-2.0
"""Which items a model solves, by the likelihoods it gives, and the same of two models in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ingot.chat import ChatSettings
from ingot.errors import InvalidArgumentError
from ingot.tokenizer import Tokenizer
from ingot_compressor.evaluation.items import Choice, Item, LastWord, Pair
from ingot_compressor.evaluation.likelihood import Likelihood, Request, Scorer, fit_request
from ingot_compressor.evaluation.recovery import Recovery, measure_recovery
from ingot_compressor.progress import Progress

__all__ = ["Answer", "Scored", "TextEncoder", "answer_items", "is_solved", "pool", "requests_of"]

Scored: TypeAlias = "Pair | LastWord | Choice"


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the reference and the file solve one item."""

    task: str
    kind: str
    line: int
    reference: bool
    candidate: bool


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Texts as requests that fit a context.

    `begin` stands before a text without context; `always` before every text.
    """

    tokenizer: Tokenizer
    begin: int | None
    always: bool
    context: int

    @classmethod
    def of_file(cls, tokenizer: Tokenizer, chat: ChatSettings, context: int) -> TextEncoder:
        """Return the encoder of a file: what begins a text is its BOS, else its first EOS."""
        ends = chat.eos_token_ids
        begin = chat.bos_token_id if chat.bos_token_id is not None else ends[0] if ends else None
        return cls(tokenizer, begin, chat.add_bos, context)

    def request(self, context: str, continuation: str) -> Request:
        """Return the tokens of both texts as one, parted where those of the context alone end.

        Spaces that end the context are scored with the continuation, since tokens begin with them.
        A context too long loses its beginning.
        Raises: InvalidArgumentError for a text without two tokens, or a continuation too long.
        Source: lm-evaluation-harness, TemplateLM._encode_pair.
        """
        before = context.rstrip(" ")
        encode = self.tokenizer.encode
        whole = encode(before + context[len(before) :] + continuation, begin=False)
        alone = encode(before, begin=False) if before else []
        start = 0
        while start < min(len(alone), len(whole) - 1) and alone[start] == whole[start]:
            start += 1
        if (self.always or not start) and self.begin is not None and whole[:1] != [self.begin]:
            whole, start = [self.begin, *whole], start + 1
        if len(whole) < 2:
            raise InvalidArgumentError(f"'{continuation}' has too few tokens to be scored")
        start = max(start, 1)
        return fit_request(Request(tuple(whole[:start]), tuple(whole[start:])), self.context)

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a text to go on from, at least the one that begins a text."""
        ids = self.tokenizer.encode(text, begin=False)
        if self.begin is not None and (self.always or not ids) and ids[:1] != [self.begin]:
            return [self.begin, *ids]
        return ids


def requests_of(item: Scored, encoder: TextEncoder) -> list[Request]:
    """Return what has to be scored to know whether an item is solved."""
    if isinstance(item, Pair):
        return [encoder.request("", text) for text in (item.good, item.bad)]
    if isinstance(item, LastWord):
        return [encoder.request(item.context, item.continuation)]
    return [encoder.request(item.query, choice) for choice in item.choices]


def is_solved(item: Scored, found: Sequence[Likelihood]) -> bool:
    """Say whether likelihoods, one per request of the item, solve it.

    A choice's log-likelihood is divided by its characters, spaces around it not counted: lengths in
    tokens would differ between tokenizers.
    Source: Biderman et al. 2024 (arXiv:2405.14782), acc_norm of lm-evaluation-harness; pairs as
        Warstadt et al. 2020 (arXiv:1912.00582); last words as Paperno et al. 2016
        (arXiv:1606.06031).
    """
    if isinstance(item, Pair):
        return found[0].total > found[1].total
    if isinstance(item, LastWord):
        return found[0].greedy
    lengths = [len(choice.strip()) for choice in item.choices]
    values = [one.total / max(length, 1) for one, length in zip(found, lengths, strict=True)]
    return int(np.argmax(values)) == item.gold


def answer_items(
    items: Sequence[Item],
    encoder: TextEncoder,
    reference: Scorer,
    candidate: Scorer,
    progress: Progress,
) -> list[Answer]:
    """Return the answers of both models to every item that is scored, in order."""
    scored = [item for item in items if isinstance(item, Pair | LastWord | Choice)]
    requests = [requests_of(item, encoder) for item in scored]
    flat = [request for part in requests for request in part]
    if not flat:
        return []
    with progress.stage("Tasks, reference", len(flat)) as done:
        expected = reference(flat, done)
    with progress.stage("Tasks, file", len(flat)) as done:
        found = candidate(flat, done)
    answers, at = [], 0
    for item, part in zip(scored, requests, strict=True):
        own = slice(at, at + len(part))
        right = is_solved(item, expected[own]), is_solved(item, found[own])
        answers.append(Answer(item.task, _kind(item), item.line, *right))
        at = own.stop
    return answers


def _kind(item: Scored) -> str:
    if isinstance(item, Pair):
        return "pair"
    return "last_word" if isinstance(item, LastWord) else "choice"


def pool(answers: Sequence[Answer], confidence: float) -> dict[str, Recovery]:
    """Return the recovery of each task, and under "pooled" that of all items together.

    Empty for no answers.
    """
    names = list(dict.fromkeys(answer.task for answer in answers))
    found = {}
    for name in (*names, "pooled") if names else ():
        part = [a for a in answers if name in ("pooled", a.task)]
        found[name] = measure_recovery(
            np.array([a.reference for a in part]),
            np.array([a.candidate for a in part]),
            confidence,
        )
    return found
