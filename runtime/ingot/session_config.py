# SPDX-License-Identifier: Apache-2.0
"""What a session is opened with, what it takes, and which token ids it accepts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot._native import Native
from ingot.errors import InvalidArgumentError

__all__ = ["MemoryInfo", "SessionConfig", "TokenIds", "checked_ids", "create", "open_native"]

_FIELDS = ("context", "chunk", "logits_rows", "threads", "prefill_threads", "memory_limit")
MOST_DRAFTED = 32
TokenIds = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a session reserves; 0 takes the plan's figure, every CPU, or no limit.

    context positions; chunk tokens per pass; logits_rows positions per pass whose logits are kept;
    threads 1 to 64 for passes of up to 8 tokens, prefill_threads for longer ones (0: as threads);
    memory_limit bytes for model and session together.
    speculate: most tokens drafted for one pass, 0 for none; it needs as many logits rows and one.
    """

    context: int = 0
    chunk: int = 0
    logits_rows: int = 1
    threads: int = 0
    prefill_threads: int = 0
    memory_limit: int = 0
    speculate: int = 0

    @property
    def rows(self) -> int:
        """Logits rows that the session must keep."""
        return max(self.logits_rows, self.speculate + 1) if self.speculate else self.logits_rows


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Bytes that a session takes."""

    threads: int
    weights_bytes: int
    arena_bytes: int
    scratch_bytes: int
    state_bytes: int
    total_bytes: int


def create(native: Native, model: Any, config: SessionConfig) -> Any:
    """Open a native session as open_native() does, tuned to this device if threads are 0.

    Raises: as open_native().
    """
    session = open_native(native, model, config)
    if config.threads == 0 and config.prefill_threads == 0:
        from ingot.tuning import tune_session  # late: it is no part of a fast import

        tune_session(native, model, session)
    return session


def open_native(native: Native, model: Any, config: SessionConfig) -> Any:
    """Open a native session that frees itself.

    Raises: MemoryLimitError naming the largest context that fits; InvalidArgumentError.
    """
    settings = native.struct("ingot_session_config")
    if not isinstance(config.speculate, int) or not 0 <= config.speculate <= MOST_DRAFTED:
        raise InvalidArgumentError(
            f"speculate is {config.speculate!r}, expected 0 (off) to {MOST_DRAFTED} tokens"
        )
    values = {**dataclasses.asdict(config), "logits_rows": config.rows}
    for name in _FIELDS:
        value = values[name]
        limit = 1 << (64 if name == "memory_limit" else 32)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise InvalidArgumentError(f"{name} is {value!r}, expected an integer of at least 0")
        setattr(settings, name, value)
    handle = native.ffi.new("ingot_session **")
    native.check(native.lib.ingot_session_create(model, settings, handle))
    return native.ffi.gc(handle[0], native.lib.ingot_session_destroy)


def checked_ids(prompt: TokenIds, limit: int) -> list[int]:
    """Return token ids as a list. Raises: InvalidArgumentError naming the first bad one."""
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, (Sequence, np.ndarray)):
        raise InvalidArgumentError(
            f"the prompt is {type(prompt).__name__}: give text or a list of token ids"
        )
    for index, token in enumerate(prompt):
        whole = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
        if not whole or not 0 <= token < limit:
            raise InvalidArgumentError(
                f"token {index} of the prompt is {token!r}, expected an id from 0 to {limit - 1}"
            )
    return [int(token) for token in prompt]
