# SPDX-License-Identifier: Apache-2.0
"""The native session and the tokens it was fed: evaluate, choose, cut back, cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ingot.errors import CancelledError, StateError
from ingot.session_config import SessionConfig, create, sampling_struct

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from ingot.model import Model
    from ingot.sampling import Sampling

__all__ = ["Passes"]


class Passes:
    """Owned by a Session. `tokens` are fed; `running` and `cancelled` are of the present call."""

    def __init__(self, model: Model, config: SessionConfig, handle: Any = None) -> None:
        """Raises: MemoryLimitError naming the largest context that fits; InvalidArgumentError."""
        self.chunk = config.chunk or model.info.chunk
        self.tokens: list[int] = []
        self.running = self.cancelled = False
        self._model, self._config = model, config
        self.native, self.backend = model.native, model.backend
        self._vocabulary = model.info.vocabulary
        self._handle = handle or create(model.native, model.handle, config, model.backend)
        self._handle_lock = threading.Lock()

    @property
    def handle(self) -> Any:
        """The native handle. Raises: StateError once closed."""
        if self._handle is None:
            raise StateError("the session is closed: open another with model.session()")
        return self._handle

    @property
    def threads(self) -> int:
        """Threads that the session was opened with."""
        info = self.native.struct("ingot_memory_info")
        self.native.check(self.native.lib.ingot_session_memory(self.handle, info))
        return int(info.threads)

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        with self._handle_lock:
            if self._handle is not None:
                self.native.ffi.release(self._handle)
                self._handle = None

    def begin(self) -> None:
        """Start a call that cancel() may end."""
        self.running, self.cancelled = True, False

    def cancel(self) -> None:
        """From any thread: end the running call after the present pass."""
        with self._handle_lock:
            if self.running and self._handle is not None:
                self.cancelled = True
                self.native.lib.ingot_session_cancel(self._handle)

    def fork(self, count: int) -> Passes:
        """Return passes of the same settings that share the keys and values of the first tokens."""
        lib, handle = self.native.lib, self.native.ffi.new("ingot_session **")
        self.native.check(lib.ingot_session_fork(self.handle, count, handle))
        owned = self.native.ffi.gc(handle[0], lib.ingot_session_destroy)
        child = Passes(self._model, self._config, owned)
        child.tokens = self.tokens[:count]
        return child

    def cut(self, count: int) -> None:
        """Forget all but the first tokens, and whatever was fed after them."""
        self.native.check(self.native.lib.ingot_session_truncate(self.handle, count))
        del self.tokens[count:]

    def evaluate(self, tokens: Sequence[int], wanted: int) -> NDArray[np.float32]:
        """Feed tokens and return the last logits.

        Shapes: result (wanted, v), a view that the next call overwrites.
        """
        self._eval(self._feed_all_but_last(tokens), wanted)
        return self._logits(wanted)

    def choose(
        self, tokens: Sequence[int], guesses: Sequence[int], sampling: Sampling
    ) -> list[int]:
        """Feed tokens and guesses; return the ids chosen after them.

        These are the guesses that are what would have been chosen, and are fed beyond `tokens`;
        then one more.
        """
        return self._choose(self._feed_all_but_last(tokens), guesses, sampling)

    def _feed_all_but_last(self, tokens: Sequence[int]) -> Sequence[int]:
        """Feed chunk by chunk, so that Python can act on signals; returns the last chunk."""
        last = (len(tokens) - 1) // self.chunk * self.chunk
        for start in range(0, last, self.chunk):
            self._eval(tokens[start : start + self.chunk], 0)
        if self.cancelled:
            raise CancelledError("cancelled: the session keeps what was fed until then")
        return tokens[last:]

    def _eval(self, block: Sequence[int], wanted: int) -> None:
        """Feed at most one chunk."""
        if self.cancelled:
            raise CancelledError("cancelled: the session keeps what was fed until then")
        lib, handle = self.native.lib, self.handle
        status, left = self._call(
            block, lambda: lib.ingot_session_eval(handle, list(block), len(block), wanted)
        )
        if left:
            self._eval(left, wanted)
        else:
            self.native.check(status)

    def _choose(
        self, block: Sequence[int], guesses: Sequence[int], sampling: Sampling
    ) -> list[int]:
        """Feed at most one chunk, and guesses."""
        lib, ffi, handle = self.native.lib, self.native.ffi, self.handle
        config = sampling_struct(self.native, sampling)
        seen = list(self.tokens) if sampling.repetition_penalty != 1.0 else []
        tokens, drafted, history = [*block, *guesses], len(guesses), seen or ffi.NULL
        chosen, count = ffi.new("int32_t[]", drafted + 1), ffi.new("uint32_t *")

        def call() -> int:
            step, size = lib.ingot_session_step, len(tokens)
            arguments = (tokens, size, drafted, config, history, len(seen), chosen, count)
            return int(step(handle, *arguments))

        status, left = self._call(block, call)
        if left:
            return self._choose(left, guesses, sampling)
        self.native.check(status)
        return list(chosen[0 : count[0]])

    def _call(self, block: Sequence[int], call: Callable[[], int]) -> tuple[int, Sequence[int]]:
        """Make a call that feeds a block; returns its status and what must be fed again.

        That is after a cancel which came at the end of an earlier generation, not meant for this.
        """
        lib, handle = self.native.lib, self.handle
        if self._config.governor is not None:
            limit = self._config.governor.thread_limit(self.threads)
            self.native.check(lib.ingot_session_limit_threads(handle, limit))
        before = len(self.tokens)
        try:
            status = call()
        finally:
            fed = int(lib.ingot_session_position(handle)) - before
            self.tokens.extend(block[:fed])
        late = status == lib.INGOT_ERROR_CANCELLED and not self.cancelled
        return status, block[fed:] if late else ()

    def _logits(self, wanted: int) -> NDArray[np.float32]:
        """Return a view of the last logits, surplus columns cut off."""
        from ingot._numpy_start import np

        handle, ffi, size = self.handle, self.native.ffi, 4 * self._vocabulary
        pointers = [self.native.lib.ingot_session_logits(handle, row) for row in range(wanted)]
        if ffi.NULL in pointers:
            raise StateError("the last pass kept no logits")
        # Rows are padded in the arena, so that each has its own address.
        rows = [np.frombuffer(ffi.buffer(row, size), np.float32) for row in pointers]
        return rows[0][np.newaxis] if wanted == 1 else np.stack(rows)
