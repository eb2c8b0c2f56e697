# SPDX-License-Identifier: Apache-2.0
"""Likelihood of continuations from the native runtime: many sessions over one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

from ingot import Model
from ingot.session import Session
from ingot_compressor.evaluation.likelihood import (
    Likelihood,
    Progress,
    Request,
    Scorer,
    read_likelihood,
)
from ingot_compressor.evaluation.sessions import open_sessions, session_count

__all__ = ["file_scorer", "session_scorer"]

# Requests that a session takes at a time; what their prefixes share is fed once.
SESSION_REQUESTS = 32
# Logits that a session keeps of one pass, in positions.
KEPT_ROWS = 64


def file_scorer(model: Model, vocabulary: int, sessions: int = 0) -> Scorer:
    """Return a scorer over a file, with sessions of one thread each, by default one per CPU.

    They are open only while something is scored, with room for the longest request, and keep keys
    and values in float16 as the certificate's measurement does.
    """

    def score(requests: Sequence[Request], progress: Progress) -> list[Likelihood]:
        if not requests:
            return []
        longest = max(len(request.fed) for request in requests)
        rows = min(max(len(request.continuation) for request in requests), KEPT_ROWS)
        parts = -(-len(requests) // SESSION_REQUESTS)
        count = session_count(parts, sessions)
        rows = min(rows, model.info.chunk)
        with open_sessions(model, count, count, longest, rows, "f16") as opened:
            return session_scorer(opened, vocabulary)(requests, progress)

    return score


def session_scorer(sessions: Sequence[Session], vocabulary: int) -> Scorer:
    """Return a scorer that spreads requests over sessions, a thread each.

    Requests that follow each other share the beginning of their prefixes: the session goes back to
    where they part. The result does not depend on how many sessions there are.
    """

    def score(requests: Sequence[Request], progress: Progress) -> list[Likelihood]:
        free: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            free.put(session)

        def work(first: int) -> list[Likelihood]:
            session = free.get()
            try:
                session.reset()
                part = requests[first : first + SESSION_REQUESTS]
                return [_score_in_session(session, request, vocabulary) for request in part]
            finally:
                free.put(session)

        return _in_threads(work, range(0, len(requests), SESSION_REQUESTS), len(sessions), progress)

    return score


def _in_threads(
    work: Callable[[int], list[Likelihood]], firsts: Sequence[int], threads: int, progress: Progress
) -> list[Likelihood]:
    """Return what `work` gives for each first, in order; the first failure ends all."""
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, first) for first in firsts]
        try:
            done = 0
            for job in as_completed(jobs):
                done += len(job.result())
                progress(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [one for job in jobs for one in job.result()]


def _score_in_session(session: Session, request: Request, vocabulary: int) -> Likelihood:
    tokens, first = request.fed, len(request.prefix) - 1
    kept = min(_common(session.token_ids, tokens), first)
    session.truncate(kept)
    if kept < first:
        session.feed(tokens[kept:first])
    logits = session.logits(tokens[first:])[:, :vocabulary]
    return read_likelihood(logits, request.continuation)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
