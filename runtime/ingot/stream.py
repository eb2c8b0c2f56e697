# SPDX-License-Identifier: Apache-2.0
"""A running generation: prefill, then pass by pass, its pieces of text and its figures."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence

from ingot.errors import CancelledError, StateError
from ingot.generation import Generation, Options, Stats
from ingot.stopping import StopStrings
from ingot.tokenizer import NoText

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from ingot.session import Session

__all__ = ["Stream"]


class Stream(Iterator[str]):
    """The pieces of text of a running generation, whole characters each."""

    def __init__(self, session: Session, prompt: Sequence[int], options: Options) -> None:
        """Made by Session.stream and Session.begin."""
        sampling = options.sampling
        if sampling.temperature > 0.0 and sampling.seed is None:
            sampling = sampling.replace(seed=int.from_bytes(os.urandom(8), "little"))
        self.sampling = sampling
        self.prompt_token_ids = tuple(prompt)
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._session = session
        self._options = options
        self._dropped = False
        self._figures = _Figures(len(prompt), session.model.info.weight_bytes_per_token)
        self._stops = StopStrings(options.stop)
        self._stop_ids = frozenset((*session.model.chat.eos_token_ids, *options.stop_ids))
        self._speculator = session.speculator(options, sampling)
        self._ready: deque[int] = deque()
        self._pieces = self._run()

    def __next__(self) -> str:
        """Return the next piece; never "".

        Raises: StateError if another thread has the session, or if it was used for something else
            while this stream was not at its end.
        """
        if self._dropped:
            raise StateError("this stream is over: its session was used for something else")
        with self._session.exclusive():
            piece = next(self._pieces, None)
        if piece is None:
            raise StopIteration
        return piece

    @property
    def stats(self) -> Stats:
        """Figures until now."""
        return self._figures.stats()

    def close(self) -> None:
        """End the generation here; the session stays usable."""
        self._finish("cancelled")
        self._pieces.close()
        self._session.end(self)

    def drop(self) -> None:
        """Close it on behalf of the session, which goes on with something else."""
        self._dropped = self.finish_reason is None
        self.close()

    def result(self) -> Generation:
        """Run to the end and return the text that was not yet taken, with all figures."""
        text = "".join(self)
        reason = self.finish_reason or "cancelled"
        seed = self.sampling.seed
        ids = tuple(self.token_ids)
        return Generation(text, self.prompt_token_ids, ids, reason, seed, self.stats)

    def _run(self) -> Generator[str, None, None]:
        """Prefill, then one token after another; every way out sets the reason."""
        session = self._session
        detokenizer = session.model.detokenizer() if self._options.text else NoText()
        try:
            self._prefill()
            while self._take():
                piece = self._stops.push(detokenizer.push(self.token_ids[-1]))
                if piece:
                    yield piece
                if self._ended():
                    break
                if not self._ready:
                    self._decode()
            if self._stops.matched is None:
                tail = self._stops.push(detokenizer.flush())
                tail += self._stops.flush() if self._stops.matched is None else ""
                if tail:
                    yield tail
        except CancelledError:
            self._finish("cancelled")
            tail = self._stops.push(detokenizer.flush()) + self._stops.flush()
            if tail:
                yield tail
        finally:
            session.end(self)

    def _prefill(self) -> None:
        """Feed the prompt and choose the first token."""
        begin = time.perf_counter()
        fed, chosen = self._session.step(self.prompt_token_ids, (), self.sampling)
        self._figures.prefilled(fed, begin)
        self._ready.extend(chosen)

    def _decode(self) -> None:
        """Feed the token just taken, and guesses, and choose the next ones."""
        begin = time.perf_counter()
        guesses = self._guesses()
        _, chosen = self._session.step((), guesses, self.sampling)
        seconds = time.perf_counter() - begin
        self._figures.decoded(seconds, len(guesses), len(chosen))
        if self._speculator is not None:
            self._speculator.record(len(guesses), len(chosen) - 1, seconds)
        self._ready.extend(chosen)

    def _guesses(self) -> list[int]:
        """Return what to try in the next pass: never beyond the context or what is asked for."""
        session = self._session
        governor = session.config.governor
        if self._speculator is None or (governor is not None and not governor.speculates):
            return []
        room = session.context - session.token_count
        if self._options.max_tokens is not None:
            room = min(room, self._options.max_tokens - len(self.token_ids) - 1)
        return self._speculator.draft(session.token_ids, max(room, 0))

    def _take(self) -> bool:
        """Take the next token; False if it is a stop id."""
        token = self._ready.popleft()
        self._figures.taken()
        if token in self._stop_ids:
            self._finish("stop_id")
            return False
        self._session.keep(token)
        self.token_ids.append(token)
        return True

    def _ended(self) -> bool:
        """Say whether the generation is over after the token just taken."""
        if self._stops.matched is not None:
            self._finish("stop_string")
        elif len(self.token_ids) == self._options.max_tokens:
            self._finish("length")
        elif self._session.full:
            self._finish("context")
        elif self._session.cancelled:
            self._finish("cancelled")
        return self.finish_reason is not None

    def _finish(self, reason: str) -> None:
        if self.finish_reason is None:
            self.finish_reason = reason


class _Figures:
    """What a stream counts while it runs."""

    def __init__(self, prompt_tokens: int, bytes_per_pass: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._bytes_per_pass = bytes_per_pass
        self._started = time.perf_counter()
        self._prefill_tokens = 0
        self._prefill_seconds = self._first_seconds = self._decode_seconds = 0.0
        self._taken = self._passes = self._drafted = self._accepted = 0
        self._latencies: list[float] = []

    def prefilled(self, tokens: int, begin: float) -> None:
        """Note the prompt's passes, which began at a time."""
        self._prefill_tokens = tokens
        self._prefill_seconds = time.perf_counter() - begin

    def decoded(self, seconds: float, drafted: int, tokens: int) -> None:
        """Note a pass that took so long for so many guesses and chose so many tokens."""
        self._passes += 1
        self._drafted += drafted
        self._accepted += tokens - 1
        self._decode_seconds += seconds
        self._latencies.extend([seconds / tokens] * tokens)

    def taken(self) -> None:
        """Note that a token was taken."""
        if self._taken == 0:
            self._first_seconds = time.perf_counter() - self._started
        self._taken += 1

    def stats(self) -> Stats:
        """Return all figures."""
        latencies = sorted(self._latencies)
        return Stats(
            prompt_tokens=self._prompt_tokens,
            prefill_tokens=self._prefill_tokens,
            prefill_seconds=self._prefill_seconds,
            decode_tokens=max(self._taken - 1, 0),
            decode_seconds=self._decode_seconds,
            first_token_seconds=self._first_seconds,
            weight_bytes_read=self._passes * self._bytes_per_pass,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            decode_passes=self._passes,
            token_seconds_p50=_percentile(latencies, 0.5),
            token_seconds_p99=_percentile(latencies, 0.99),
        )


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed, 0 without any."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
