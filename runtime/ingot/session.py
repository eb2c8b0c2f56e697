# SPDX-License-Identifier: Apache-2.0
"""A session: the positions fed so far, their state, and everything that generates from it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from ingot import inspection
from ingot.errors import InvalidArgumentError, StateError
from ingot.generation import Generation, Options, Stats
from ingot.passes import Passes
from ingot.sampling import Sampling
from ingot.session_config import KV_NAMES, MemoryInfo, SessionConfig, checked_ids
from ingot.stream import Stream

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ingot.model import Model
    from ingot.session_config import TokenIds
    from ingot.speculation import Speculator

__all__ = ["Session"]


class Session:
    """Made by Model.session(). Belongs to one thread at a time; only cancel() is for any thread."""

    def __init__(self, model: Model, config: SessionConfig, passes: Passes | None = None) -> None:
        """Raises: MemoryLimitError naming the largest context that fits; InvalidArgumentError."""
        self.model = model
        self.config = config
        self._native = model.native
        self._passes = Passes(model, config) if passes is None else passes
        self.chunk = self._passes.chunk
        self.context = config.context or model.info.context
        self._logits_rows = max(config.rows, 1)
        self.most_drafted = min(config.speculate, self.chunk - 1)
        draft = model.draft if self.most_drafted > 0 else None
        self._draft = (
            draft.session(min(self.context, draft.info.context), config.threads) if draft else None
        )
        self._pending: list[int] = []  # chosen, fed when the one after them is wanted
        self._ahead: list[int] = []  # fed and chosen, not yet taken by the stream
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._thread = 0
        self._stats = Stats()

    def __enter__(self) -> Session:
        """Return the session; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        with self.exclusive():
            self._drop_stream()
            self._passes.close()
            if self._draft is not None:
                self._draft.close()

    # Generating

    def stream(
        self,
        prompt: str | TokenIds,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        speculate: str = "auto",
    ) -> Stream:
        """Feed a prompt after what the session holds and yield the answer in whole characters.

        temperature 0 is greedy. See Sampling and Options for the other arguments.
        Raises: InvalidArgumentError for a prompt without tokens, of a wrong type, or with an id
            that the model does not have; ContextFullError if it does not fit (nothing is fed then).
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ends = (_stops(stop), tuple(stop_ids))
        return self.begin(prompt, Options(max_tokens, sampling, *ends, speculate=speculate))

    def generate(
        self,
        prompt: str | TokenIds,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        speculate: str = "auto",
    ) -> Generation:
        """As stream(), but returns when all is done."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ends = (_stops(stop), tuple(stop_ids))
        options = Options(max_tokens, sampling, *ends, speculate=speculate)
        return self.begin(prompt, options).result()

    def begin(self, prompt: str | TokenIds, options: Options) -> Stream:
        """Start a generation; an unfinished one of this thread ends here. Raises: as stream()."""
        with self.exclusive():
            self._drop_stream()
            tokens = self._prompt(prompt)
            self._require_room(len(tokens))
            self._thread = threading.get_ident()
            self._stream = Stream(self, tokens, options)
            self._passes.begin()
            return self._stream

    def cancel(self) -> None:
        """From any thread: end the running generation soon, in prefill after the present pass.

        Does nothing if none runs.
        """
        self._passes.cancel()

    @property
    def full(self) -> bool:
        """Whether the next token has no room and the session does not shift."""
        return self.token_count > self.context and self.config.on_full != "shift"

    @property
    def cancelled(self) -> bool:
        """Whether the running generation was cancelled."""
        return self._passes.cancelled

    @property
    def stats(self) -> Stats:
        """Figures of the running generation or of the last one."""
        return self._stats if self._stream is None else self._stream.stats

    # Positions

    @property
    def token_ids(self) -> list[int]:
        """All token ids of the session, prompts and answers, as a new list."""
        return self._passes.tokens + self._pending

    @property
    def token_count(self) -> int:
        """How many token ids the session holds."""
        return len(self._passes.tokens) + len(self._pending)

    @property
    def kv(self) -> str:
        """How keys and values are kept: f16, kv8 or k8v4."""
        return KV_NAMES[int(self._native.lib.ingot_session_kv_format(self._passes.handle))]

    def fork(self, position: int | None = None) -> Session:
        """Return a session, for any thread, that shares the first `position` tokens (all).

        Raises: InvalidArgumentError; OutOfMemoryError.
        """
        with self.exclusive():
            self._drop_stream()
            from ingot.session_state import fork

            return fork(self, position)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file for Model.restore(), all or nothing. Raises: StorageError."""
        with self.exclusive():
            self._drop_stream()
            from ingot.session_state import save

            save(self, path)

    def reset(self) -> None:
        """Forget everything."""
        self.truncate(0)

    def trim(self, *, keys_and_values: bool = False) -> int:
        """Give buffers and free blocks back to the system; they are taken again when needed.

        keys_and_values: these too; the next call computes them again from the tokens, which stay.
        Returns: bytes given back at most. Raises: StateError if another thread is at work here.
        """
        with self.exclusive():
            self._drop_stream()
            from ingot.session_state import trim

            return trim(self, keys_and_values)

    def truncate(self, count: int) -> None:
        """Keep the first `count` tokens. Raises: InvalidArgumentError if there are fewer."""
        with self.exclusive():
            self._drop_stream()
            if not isinstance(count, int) or not 0 <= count <= self.token_count:
                raise InvalidArgumentError(
                    f"truncate to {count!r}: the session holds {self.token_count} tokens"
                )
            fed = len(self._passes.tokens)
            self._pending = self._pending[: max(count - fed, 0)]
            if count < fed:
                self._passes.cut(count)

    # Direct access, for evaluation and tests

    def feed(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Feed tokens after what the session holds and return a copy of the last one's logits.

        Shapes: token_ids (m,), result (v,) float32. Raises: as stream(); CancelledError.
        """
        with self._working():
            tokens = self._prompt(token_ids)
            self._require_room(len(tokens))
            logits = self._passes.evaluate([*self._take_pending(), *tokens], 1)
            return logits.reshape(-1).copy()

    def logits(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Feed tokens after what the session holds and return the logits after each of them.

        Shapes: token_ids (m,), result (m, v) float32 with v = model.info.vocabulary.
        Raises: as stream(). Cost: one pass per `logits_rows` tokens of the session's config.
        """
        with self._working():
            tokens = self._prompt(token_ids)
            self._require_room(len(tokens))
            pending = self._take_pending()
            if pending:
                self._passes.evaluate(pending, 1)
            rows = min(self._logits_rows, self.chunk)
            blocks = [tokens[i : i + rows] for i in range(0, len(tokens), rows)]
            found = [self._passes.evaluate(block, len(block)).copy() for block in blocks]
            from ingot._numpy_start import np

            return np.concatenate(found)

    def trace(self, token_ids: TokenIds, instructions: int) -> None:
        """Run the first instructions on at most one chunk of tokens, without keeping them.

        Raises: InvalidArgumentError for more tokens than a chunk or instructions than there are.
        """
        with self.exclusive():
            self._drop_stream()
            tokens = self._native.ffi.new("int32_t[]", self._prompt(token_ids))
            lib, handle = self._native.lib, self._passes.handle
            status = lib.ingot_session_trace(handle, tokens, len(tokens), 1, instructions)
            self._native.check(status)

    def read(self, tensor: int, rows: int) -> NDArray[np.float32]:
        """Return an activation of the last pass. Shapes: (rows, width) float32.

        Raises: InvalidArgumentError if the tensor is no activation of that pass.
        """
        with self.exclusive():
            width = self.model.tensor_width(tensor)
            return inspection.read_activation(self._passes, tensor, rows, width)

    def executed(self, backend: str = "cpu") -> int:
        """Return how many instructions a backend has executed here."""
        return inspection.executed(self._passes, backend)

    def memory(self) -> MemoryInfo:
        """Return what the session takes, in bytes."""
        return inspection.memory(self._passes)

    def stream_bandwidth(self, pattern: int) -> float:
        """Return the gigabytes per second of reading all weights once with the session's threads.

        pattern 0 is plain, 1 prefetched, 2 non-temporal.
        """
        with self.exclusive():
            return inspection.stream_bandwidth(self._passes, pattern)

    # For Stream

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the session for one call. Raises: StateError if another thread has it."""
        if self._taken_elsewhere() or not self._lock.acquire(blocking=False):
            raise StateError(
                "the session is in use by another thread: it belongs to one thread at a time. "
                "Open a session per thread with model.session(), or close() the other's stream"
            )
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Hold the session for a call that cancel() may end."""
        with self.exclusive():
            self._drop_stream()
            self._passes.begin()
            try:
                yield
            finally:
                self._passes.running = False

    def step(
        self, prompt: Sequence[int], guesses: Sequence[int], sampling: Sampling
    ) -> tuple[int, list[int]]:
        """Feed the tokens not yet fed, a prompt and guesses; choose what follows.

        Returns how many were fed besides guesses, and the chosen ids: the guesses that are what
        would have been chosen, then one more. keep() takes them one by one.
        Raises: CancelledError; what was fed until then stays.
        """
        self._require_room(len(prompt) + len(guesses))
        tokens = [*self._take_pending(), *prompt]
        chosen = self._passes.choose(tokens, guesses, sampling)
        self._ahead = chosen[:-1]
        return len(tokens), chosen

    def keep(self, token: int) -> None:
        """Take a chosen token; if it is not fed yet, it is when the one after it is wanted."""
        if self._ahead:
            self._passes.tokens.append(self._ahead.pop(0))
        else:
            self._pending.append(token)

    def end(self, stream: Stream) -> None:
        """Let go of a stream that has come to its end."""
        if self._stream is stream:
            self._stats, self._stream, self._passes.running = stream.stats, None, False
            if self._ahead:
                self._ahead = []
                self._passes.cut(len(self._passes.tokens))

    def speculator(self, options: Options, sampling: Sampling) -> Speculator | None:
        """Return what guesses for one generation, or None. Raises: as make_speculator()."""
        if self.most_drafted <= 0 and options.speculate != "lookup":
            return None
        from ingot.draft import make_speculator

        return make_speculator(self._draft, self.most_drafted, options, sampling)

    def _take_pending(self) -> list[int]:
        tokens, self._pending = self._pending, []
        return tokens

    def _taken_elsewhere(self) -> bool:
        """Say whether an unfinished stream belongs to another thread that still lives."""
        if self._stream is None or self._thread == threading.get_ident():
            return False
        return any(thread.ident == self._thread for thread in threading.enumerate())

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.drop()

    def _prompt(self, prompt: str | TokenIds) -> list[int]:
        """Return the token ids of a prompt, checked."""
        _ = self._passes.handle  # open
        if isinstance(prompt, str):
            tokens = self.model.tokenizer.encode(prompt, begin=self.token_count == 0)
        else:
            tokens = checked_ids(prompt, self.model.info.embedding_rows)
        if not tokens:
            raise InvalidArgumentError(
                "the prompt has no tokens and this file puts none before a text: give at least one"
            )
        return tokens

    def _require_room(self, count: int) -> None:
        """Make room where the session shifts. Raises: ContextFullError if the tokens do not fit."""
        if self.token_count + count > self.context:
            from ingot.session_state import make_room

            self._pending = make_room(self, count)


def _stops(stop: Sequence[str]) -> tuple[str, ...]:
    """Return stop strings; one string alone is one of them."""
    return (stop,) if isinstance(stop, str) else tuple(stop)
