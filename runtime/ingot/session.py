# SPDX-License-Identifier: Apache-2.0
"""A session: the positions fed so far, their state, and everything that generates from it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingot._native import BACKENDS
from ingot.draft import DraftModelDrafter
from ingot.errors import CancelledError, ContextFullError, InvalidArgumentError, StateError
from ingot.generation import Generation, Options, Stats, Stream
from ingot.sampling import Sampling
from ingot.session_config import MemoryInfo, SessionConfig, TokenIds, checked_ids, create
from ingot.speculation import LookupDrafter, Speculator

if TYPE_CHECKING:
    from ingot.model import Model

__all__ = ["Session"]


class Session:
    """Made by Model.session(). Belongs to one thread at a time; only cancel() is for any thread."""

    def __init__(self, model: Model, config: SessionConfig) -> None:
        """Raises: MemoryLimitError naming the largest context that fits; InvalidArgumentError."""
        self.model = model
        self._native = model.native
        self._handle = create(model.native, model.handle, config)
        self.chunk = config.chunk or model.info.chunk
        self.context = config.context or model.info.context
        self._logits_rows = max(config.rows, 1)
        self.most_drafted = min(config.speculate, self.chunk - 1)
        self._draft = self._open_draft(config)
        self._tokens: list[int] = []
        self._pending: list[int] = []
        self._unverified = 0  # of _tokens the last: drafts that are fed and not yet drawn
        self._lock = threading.Lock()
        self._handle_lock = threading.Lock()
        self._stream: Stream | None = None
        self._thread = 0
        self._running = False
        self._cancelled = False
        self._stats = Stats()
        self._rows = 0

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
        with self.exclusive(), self._handle_lock:
            self._drop_stream()
            if self._handle is not None:
                self._native.ffi.release(self._handle)
                self._handle = None
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
    ) -> Stream:
        """Feed a prompt after what the session holds and yield the answer in whole characters.

        temperature 0 is greedy. See Sampling and Options for the other arguments.
        Raises: InvalidArgumentError for a prompt without tokens, of a wrong type, or with an id
            that the model does not have; ContextFullError if it does not fit (nothing is fed then).
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        return self.begin(prompt, Options(max_tokens, sampling, _stops(stop), tuple(stop_ids)))

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
    ) -> Generation:
        """As stream(), but returns when all is done."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        return self.begin(
            prompt, Options(max_tokens, sampling, _stops(stop), tuple(stop_ids))
        ).result()

    def begin(self, prompt: str | TokenIds, options: Options) -> Stream:
        """Start a generation; an unfinished one of this thread ends here. Raises: as stream()."""
        with self.exclusive():
            self._drop_stream()
            tokens = self._prompt(prompt)
            self._require_room(len(tokens))
            self._thread = threading.get_ident()
            self._stream = Stream(self, tokens, options)
            self._running, self._cancelled = True, False
            return self._stream

    def cancel(self) -> None:
        """From any thread: end the running generation soon, in prefill after the present pass.

        Does nothing if none runs.
        """
        with self._handle_lock:
            if self._running and self._handle is not None:
                self._cancelled = True
                self._native.lib.ingot_session_cancel(self._handle)

    @property
    def cancelled(self) -> bool:
        """Whether the running generation was cancelled."""
        return self._cancelled

    @property
    def stats(self) -> Stats:
        """Figures of the running generation or of the last one."""
        return self._stats if self._stream is None else self._stream.stats

    # Positions

    @property
    def token_ids(self) -> list[int]:
        """All token ids of the session, prompts and answers, as a new list."""
        return self._tokens[: len(self._tokens) - self._unverified] + self._pending

    @property
    def token_count(self) -> int:
        """How many token ids the session holds."""
        return len(self._tokens) - self._unverified + len(self._pending)

    def reset(self) -> None:
        """Forget everything."""
        self.truncate(0)

    def truncate(self, count: int) -> None:
        """Keep the first `count` tokens. Raises: InvalidArgumentError if there are fewer."""
        with self.exclusive():
            self._drop_stream()
            if not isinstance(count, int) or not 0 <= count <= self.token_count:
                raise InvalidArgumentError(
                    f"truncate to {count!r}: the session holds {self.token_count} tokens"
                )
            if count < len(self._tokens):
                self._native.check(self._native.lib.ingot_session_truncate(self._open(), count))
            self._pending = self._pending[: max(count - len(self._tokens), 0)]
            self._tokens = self._tokens[:count]

    # Direct access, for evaluation and tests

    def feed(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Feed tokens after what the session holds and return a copy of the last one's logits.

        Shapes: token_ids (m,), result (v,) float32. Raises: as stream(); CancelledError.
        """
        with self._working():
            tokens = self._prompt(token_ids)
            self._require_room(len(tokens))
            logits = self.feed_pending(tokens)[1]
            return np.empty(0, np.float32) if logits is None else logits.copy()

    def logits(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Feed tokens after what the session holds and return the logits after each of them.

        Shapes: token_ids (m,), result (m, v) float32 with v = model.info.vocabulary.
        Raises: as stream(). Cost: one pass per `logits_rows` tokens of the session's config.
        """
        with self._working():
            tokens = self._prompt(token_ids)
            self._require_room(len(tokens))
            self.feed_pending(())
            rows = min(self._logits_rows, self.chunk)
            blocks = [tokens[i : i + rows] for i in range(0, len(tokens), rows)]
            return np.concatenate([np.stack(self._feed(block, len(block))) for block in blocks])

    def trace(self, token_ids: TokenIds, instructions: int) -> None:
        """Run the first instructions on at most one chunk of tokens, without keeping them.

        Raises: InvalidArgumentError for more tokens than a chunk or instructions than there are.
        """
        with self.exclusive():
            self._drop_stream()
            tokens = self._native.ffi.new("int32_t[]", self._prompt(token_ids))
            lib, handle = self._native.lib, self._open()
            status = lib.ingot_session_trace(handle, tokens, len(tokens), 1, instructions)
            self._native.check(status)

    def read(self, tensor: int, rows: int) -> NDArray[np.float32]:
        """Return an activation of the last pass. Shapes: (rows, width) float32.

        Raises: InvalidArgumentError if the tensor is no activation of that pass.
        """
        with self.exclusive():
            out = np.zeros((rows, self.model.tensor_width(tensor)), np.float32)
            pointer = self._native.ffi.cast("float *", out.ctypes.data)
            status = self._native.lib.ingot_session_read(self._open(), tensor, pointer, out.size)
            self._native.check(status)
            return out

    def executed(self, backend: str = "cpu") -> int:
        """Return how many instructions a backend has executed in this session."""
        if backend not in BACKENDS:
            raise InvalidArgumentError(f"backend '{backend}': built are {', '.join(BACKENDS)}")
        return int(self._native.lib.ingot_session_executed(self._open(), BACKENDS[backend]))

    def memory(self) -> MemoryInfo:
        """Return what the session takes, in bytes."""
        info = self._native.struct("ingot_memory_info")
        self._native.check(self._native.lib.ingot_session_memory(self._open(), info))
        return MemoryInfo(*(int(getattr(info, name)) for name in MemoryInfo.__slots__))

    def stream_bandwidth(self, pattern: int) -> float:
        """Return the gigabytes per second of reading all weights once with the session's threads.

        pattern 0 is plain, 1 prefetched, 2 non-temporal.
        """
        with self.exclusive():
            result = self._native.ffi.new("double *")
            lib = self._native.lib
            self._native.check(lib.ingot_session_stream(self._open(), pattern, result))
            return float(result[0])

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
            self._running, self._cancelled = True, False
            try:
                yield
            finally:
                self._running = False

    def feed_pending(
        self, prompt: Sequence[int], drafts: Sequence[int] = ()
    ) -> tuple[int, NDArray[np.float32] | None]:
        """Feed the tokens not yet fed, then a prompt; returns their number and the last logits.

        Drafts, at most `most_drafted`, are fed in the same pass; keep() says which were right.
        Raises: CancelledError; what was fed until then stays.
        """
        tokens, self._pending = [*self._pending, *prompt], []
        if not tokens:
            return 0, None
        logits = self._feed([*tokens, *drafts], 1 + len(drafts))[0]
        self._unverified = len(drafts)
        return len(tokens), logits

    def keep(self, token: int) -> bool:
        """Add a chosen token; returns whether it is fed already, because a draft was right.

        If not, it is fed when the one after it is wanted, and what was drafted is forgotten.
        """
        if self._unverified and self._tokens[-self._unverified] == token:
            self._unverified -= 1
            return True
        self._forget_drafts()
        self._pending.append(token)
        return False

    def kept_logits(self) -> NDArray[np.float32]:
        """Return the logits after a token that keep() found fed already, a view."""
        return self._logits_row(self._rows - 1 - self._unverified)

    def speculator(self) -> Speculator | None:
        """Return what drafts for one generation; None if the session was opened without."""
        if self.most_drafted <= 0:
            return None
        drafter = LookupDrafter() if self._draft is None else DraftModelDrafter(self._draft)
        return Speculator(drafter, self.most_drafted)

    def _open_draft(self, config: SessionConfig) -> Session | None:
        """Open a session of the draft model with our threads, if there is one and it is wanted."""
        draft = self.model.draft
        if draft is None or self.most_drafted <= 0:
            return None
        context = min(self.context, draft.info.context)
        return Session(draft, SessionConfig(context, threads=config.threads))

    def _forget_drafts(self) -> None:
        """Cut off what was drafted and not drawn."""
        if self._unverified:
            del self._tokens[-self._unverified :]
            self._unverified = 0
            lib = self._native.lib
            self._native.check(lib.ingot_session_truncate(self._open(), len(self._tokens)))

    def end(self, stream: Stream) -> None:
        """Let go of a stream that has come to its end."""
        if self._stream is stream:
            self._forget_drafts()
            self._stats, self._stream, self._running = stream.stats, None, False

    def _taken_elsewhere(self) -> bool:
        """Say whether an unfinished stream belongs to another thread that still lives."""
        if self._stream is None or self._thread == threading.get_ident():
            return False
        return any(thread.ident == self._thread for thread in threading.enumerate())

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.drop()

    def _open(self) -> Any:
        """Return the native handle. Raises: StateError once closed."""
        if self._handle is None:
            raise StateError("the session is closed: open another with model.session()")
        return self._handle

    def _prompt(self, prompt: str | TokenIds) -> list[int]:
        """Return the token ids of a prompt, checked."""
        self._open()
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
        """Raises: ContextFullError if so many more tokens do not fit."""
        if self.token_count + count > self.context:
            raise ContextFullError(
                f"{count} tokens do not fit: the session has {len(self._tokens)} "
                f"of {self.context}. Shorten the prompt, reset() or truncate() the session, "
                "or open one with a larger "
                f"context (this file allows {self.model.info.context})"
            )

    def _feed(self, tokens: Sequence[int], wanted: int) -> list[NDArray[np.float32]]:
        """Feed tokens chunk by chunk, so that Python can act on signals in between.

        Shapes: result `wanted` times (v,), views that the next call overwrites.
        """
        for start in range(0, len(tokens), self.chunk):
            if self._cancelled:
                raise CancelledError("cancelled: the session keeps what was fed until then")
            block = tokens[start : start + self.chunk]
            self._eval(block, wanted if start + self.chunk >= len(tokens) else 0)
        return self._logits(wanted)

    def _eval(self, block: Sequence[int], wanted: int) -> None:
        """Feed at most one chunk and note what the library took of it."""
        handle, lib = self._open(), self._native.lib
        before = len(self._tokens)
        try:
            status = lib.ingot_session_eval(handle, list(block), len(block), wanted)
        finally:
            fed = int(lib.ingot_session_position(handle)) - before
            self._tokens.extend(block[:fed])
        if status == lib.INGOT_ERROR_CANCELLED and not self._cancelled:
            # A cancel that came after the end of an earlier generation: not meant for this one.
            self._eval(block[fed:], wanted)
        else:
            self._native.check(status)

    def _logits(self, wanted: int) -> list[NDArray[np.float32]]:
        """Return views of the last logits, surplus columns cut off."""
        self._rows = wanted
        return [self._logits_row(row) for row in range(wanted)]

    def _logits_row(self, row: int) -> NDArray[np.float32]:
        """Return a view of one row; rows are padded in the arena, each has its own address."""
        pointer = self._native.lib.ingot_session_logits(self._open(), row)
        if pointer == self._native.ffi.NULL:
            raise StateError("the last pass kept no logits")
        size = 4 * self.model.info.vocabulary
        return np.frombuffer(self._native.ffi.buffer(pointer, size), np.float32)


def _stops(stop: Sequence[str]) -> tuple[str, ...]:
    """Return stop strings; one string alone is one of them."""
    return (stop,) if isinstance(stop, str) else tuple(stop)
