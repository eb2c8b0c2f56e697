# SPDX-License-Identifier: Apache-2.0
"""One generation: its options, its loop, its result and its figures."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import CancelledError, InvalidArgumentError, StateError
from ingot.sampling import Sampling, choose
from ingot.stopping import StopStrings

if TYPE_CHECKING:
    from ingot.session import Session

__all__ = ["Generation", "Options", "Stats", "Stream"]


@dataclass(frozen=True, slots=True)
class Options:
    """What ends a generation and how its tokens are drawn.

    max_tokens None goes on until a stop or until the context is full.
    stop are strings that end the text and are not part of it; stop_ids add to the file's own.

    Raises: InvalidArgumentError for a value that makes no sense.
    """

    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        limit = self.max_tokens
        whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and (not whole or limit < 1):
            raise InvalidArgumentError(f"max_tokens is {limit!r}, expected at least 1 or None")
        StopStrings(self.stop)
        for token in self.stop_ids:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise InvalidArgumentError(f"stop id {token!r}: expected a token id")


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one generation. Units: seconds, bytes, tokens per second."""

    prompt_tokens: int = 0
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    first_token_seconds: float = 0.0
    weight_bytes_read: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    decode_passes: int = 0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second of prefill, 0 before any."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first per second of decoding and sampling, 0 before any."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def to_json(self) -> dict[str, float | int]:
        """Return all figures by name."""
        figures: dict[str, float | int] = dataclasses.asdict(self)
        figures["prefill_tokens_per_second"] = self.prefill_tokens_per_second
        figures["decode_tokens_per_second"] = self.decode_tokens_per_second
        return figures

    def __str__(self) -> str:
        """Return the figures in one line for people."""
        return (
            f"prefill {self.prefill_tokens} tokens at {self.prefill_tokens_per_second:.1f} tok/s, "
            f"first token after {self.first_token_seconds * 1e3:.0f} ms, "
            f"decode {self.decode_tokens} tokens at {self.decode_tokens_per_second:.1f} tok/s, "
            f"{self.weight_bytes_read / 1e6:.1f} MB of weights read"
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished generation. finish_reason: length, stop_id, stop_string, context or cancelled."""

    text: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str
    seed: int | None
    stats: Stats

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "text": self.text,
            "prompt_token_ids": list(self.prompt_token_ids),
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "stats": self.stats.to_json(),
        }


class Stream(Iterator[str]):
    """The pieces of text of a running generation, whole characters each."""

    def __init__(self, session: Session, prompt: Sequence[int], options: Options) -> None:
        """Made by Session.stream and Session.begin."""
        sampling = options.sampling
        if sampling.temperature > 0.0 and sampling.seed is None:
            sampling = dataclasses.replace(sampling, seed=int.from_bytes(os.urandom(8), "little"))
        self.sampling = sampling
        self.prompt_token_ids = tuple(prompt)
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.stats = Stats(prompt_tokens=len(prompt))
        self._session = session
        self._options = options
        self._dropped = False
        self._started = time.perf_counter()
        self._stops = StopStrings(options.stop)
        self._speculator = session.speculator()
        self._last_pass = (0, 0.0)  # tokens drafted for it, seconds
        self._accepted = 0  # of them, so far
        self._fed = False
        self._stop_ids = frozenset((*session.model.chat.eos_token_ids, *options.stop_ids))
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
        """Prefill, then one token at a time; every way out sets the reason."""
        session, detokenizer = self._session, self._session.model.detokenizer()
        try:
            logits = self._prefill()
            while logits is not None:
                if not self._take(logits):
                    break
                piece = self._stops.push(detokenizer.push(self.token_ids[-1]))
                if piece:
                    yield piece
                if self._ended():
                    break
                logits = self._decode()
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

    def _prefill(self) -> NDArray[np.float32] | None:
        """Feed the prompt; returns the logits after it."""
        begin = time.perf_counter()
        fed, logits = self._session.feed_pending(self.prompt_token_ids)
        seconds = time.perf_counter() - begin
        self.stats = dataclasses.replace(self.stats, prefill_tokens=fed, prefill_seconds=seconds)
        return logits

    def _take(self, logits: NDArray[np.float32]) -> bool:
        """Choose the next token and keep it; False if it is a stop id."""
        begin = time.perf_counter()
        session = self._session
        penalized = self.sampling.repetition_penalty != 1.0
        history = session.token_ids if penalized else ()
        token = choose(logits, self.sampling, history, session.token_count)
        now = time.perf_counter()
        if not self.token_ids:
            self.stats = dataclasses.replace(self.stats, first_token_seconds=now - self._started)
        else:
            seconds = self.stats.decode_seconds + now - begin
            self.stats = dataclasses.replace(self.stats, decode_seconds=seconds)
        if token in self._stop_ids:
            self._finish("stop_id")
            return False
        self._fed = session.keep(token)
        self.token_ids.append(token)
        return True

    def _ended(self) -> bool:
        """Say whether the generation is over after the token just taken."""
        if self._stops.matched is not None:
            self._finish("stop_string")
        elif len(self.token_ids) == self._options.max_tokens:
            self._finish("length")
        elif self._session.token_count > self._session.context:
            self._finish("context")
        elif self._session.cancelled:
            self._finish("cancelled")
        return self.finish_reason is not None

    def _decode(self) -> NDArray[np.float32] | None:
        """Return the logits after the token just taken; a pass feeds it unless a draft was it."""
        begin = time.perf_counter()
        if self._fed:
            logits: NDArray[np.float32] | None = self._session.kept_logits()
            self._accepted += 1
            stats = dataclasses.replace(self.stats, accepted_tokens=self.stats.accepted_tokens + 1)
        else:
            logits, stats = self._pass(begin)
        self.stats = dataclasses.replace(
            stats,
            decode_tokens=stats.decode_tokens + 1,
            decode_seconds=stats.decode_seconds + time.perf_counter() - begin,
        )
        return logits

    def _pass(self, begin: float) -> tuple[NDArray[np.float32] | None, Stats]:
        """Feed the token just taken and drafts of what follows; returns logits and new figures."""
        drafts = self._drafts()
        _, logits = self._session.feed_pending((), drafts)
        self._last_pass, self._accepted = (len(drafts), time.perf_counter() - begin), 0
        read = self._session.model.info.weight_bytes_per_token
        return logits, dataclasses.replace(
            self.stats,
            decode_passes=self.stats.decode_passes + 1,
            drafted_tokens=self.stats.drafted_tokens + len(drafts),
            weight_bytes_read=self.stats.weight_bytes_read + read,
        )

    def _drafts(self) -> list[int]:
        """Return what to try in the next pass: never beyond the context or what is asked for."""
        if self._speculator is None:
            return []
        if self.stats.decode_passes:
            self._speculator.record(self._last_pass[0], self._accepted, self._last_pass[1])
        room = self._session.context - self._session.token_count
        if self._options.max_tokens is not None:
            room = min(room, self._options.max_tokens - len(self.token_ids) - 1)
        return self._speculator.draft(self._session.token_ids, max(room, 0))

    def _finish(self, reason: str) -> None:
        if self.finish_reason is None:
            self.finish_reason = reason
