# SPDX-License-Identifier: Apache-2.0
"""Work spread over several sessions of one file, each with its share of the threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import TypeVar

from ingot import Model
from ingot.session import Session

__all__ = ["MOST_SESSIONS", "open_sessions", "processors", "session_count", "spread"]

MOST_SESSIONS = 16
# Results that wait for their turn at the same time, in bytes.
HELD_BYTES = 1 << 29

T = TypeVar("T")
R = TypeVar("R")


def processors() -> int:
    """Return the CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def session_count(parts: int, threads: int = 0, part_bytes: int = 1) -> int:
    """Return how many sessions share the threads (0: one per CPU) over so many parts of work.

    Units: part_bytes is the size of one part's result, all of which may wait for their turn.
    """
    room = max(1, HELD_BYTES // part_bytes)
    return max(1, min(threads or processors(), parts, MOST_SESSIONS, room))


@contextmanager
def open_sessions(
    model: Model, count: int, threads: int, context: int, logits_rows: int, kv: str
) -> Iterator[list[Session]]:
    """Open sessions that share the threads (0: one per CPU); what they give does not depend on it.

    Units: context in tokens, logits_rows in positions of one pass.
    """
    own = max(1, (threads or processors()) // count)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                model.session(context=context, threads=own, logits_rows=logits_rows, kv=kv)
            )
            for _ in range(count)
        ]


def spread(
    sessions: Sequence[Session],
    work: Callable[[Session, T], R],
    items: Sequence[T],
    together: bool = False,
) -> Iterator[R]:
    """Yield what `work` gives for each item, in their order; a session does one at a time.

    With `together` as many items as there are sessions are finished before the first of them is
    yielded: the sessions rest while the caller works on the results.
    """
    free: SimpleQueue[Session] = SimpleQueue()
    for session in sessions:
        free.put(session)

    def run(item: T) -> R:
        session = free.get()
        try:
            return work(session, item)
        finally:
            free.put(session)

    step = len(sessions) if together else max(1, len(items))
    with ThreadPoolExecutor(len(sessions)) as pool:
        for first in range(0, len(items), step):
            found = pool.map(run, items[first : first + step])
            yield from list(found) if together else found
