# SPDX-License-Identifier: Apache-2.0
"""What a session is opened with, what it takes, and which token ids it accepts."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence

from ingot._native import Native
from ingot.errors import InvalidArgumentError
from ingot.record import Record
from ingot.sampling import Sampling

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from ingot.governor import Governor

    TokenIds: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]

MOST_DRAFTED = 15  # with the token before them, as many rows as the head keeps the best of

KV_FORMATS = {"auto": 0, "f16": 1, "kv8": 2, "k8v4": 3}
KV_NAMES = {number: name for name, number in KV_FORMATS.items()}
ON_FULL = ("error", "shift")
_FIELDS = (
    *("context", "chunk", "logits_rows", "threads", "prefill_threads"),
    *("sinks", "memory_limit"),
)

__all__ = [
    "KV_FORMATS",
    "KV_NAMES",
    "MemoryInfo",
    "SessionConfig",
    "checked_ids",
    "create",
    "native_config",
    "open_native",
    "sampling_struct",
]


class SessionConfig(Record):
    """What a session reserves; 0 takes the plan's figure, every CPU, or no limit.

    context positions; chunk tokens per pass; logits_rows positions per pass whose logits are kept;
    threads 1 to 64 for passes of up to 8 tokens, prefill_threads for longer ones (0: as threads);
    memory_limit bytes for model and session together.
    speculate: most tokens guessed ahead for one pass, 0 for none.
    kv: how keys and values are kept: f16, kv8 (int8), k8v4 (values of 4 bits), or auto (kv8).
    on_full: what happens at the end of the context: error, or shift: after the first `sinks` tokens
    the older half is forgotten and the rest evaluated again.
    governor: what lowers threads and speculation when the device is hot; None for nothing.
    """

    context: int = 0
    chunk: int = 0
    logits_rows: int = 1
    threads: int = 0
    prefill_threads: int = 0
    memory_limit: int = 0
    speculate: int = 0
    kv: str = "auto"
    on_full: str = "error"
    sinks: int = 0
    governor: Governor | None = None

    @property
    def rows(self) -> int:
        """Logits rows that the session must keep."""
        return max(self.logits_rows, self.speculate + 1) if self.speculate else self.logits_rows


class MemoryInfo(Record):
    """Bytes that a session takes."""

    threads: int
    weights_bytes: int
    arena_bytes: int
    scratch_bytes: int
    state_bytes: int
    device_bytes: int
    total_bytes: int


def create(native: Native, model: Any, config: SessionConfig, backend: str = "cpu") -> Any:
    """Open a native session as open_native() does, tuned to this CPU if threads are 0.

    Raises: as open_native().
    """
    session = open_native(native, model, config)
    if backend == "cpu" and config.threads == 0 and config.prefill_threads == 0:
        from ingot.tuning import tune_session  # late: it is no part of a fast import

        tune_session(native, model, session)
    return session


def open_native(native: Native, model: Any, config: SessionConfig) -> Any:
    """Open a native session that frees itself.

    Raises: MemoryLimitError naming the largest context that fits; InvalidArgumentError.
    """
    handle = native.ffi.new("ingot_session **")
    native.check(native.lib.ingot_session_create(model, native_config(native, config), handle))
    return native.ffi.gc(handle[0], native.lib.ingot_session_destroy)


def native_config(native: Native, config: SessionConfig) -> Any:
    """Return the settings as the library reads them.

    Raises: InvalidArgumentError naming the field that is out of its range.
    """
    settings = native.struct("ingot_session_config")
    if not isinstance(config.speculate, int) or not 0 <= config.speculate <= MOST_DRAFTED:
        raise InvalidArgumentError(
            f"speculate is {config.speculate!r}, expected 0 (off) to {MOST_DRAFTED} tokens"
        )
    for name in _FIELDS:
        value = getattr(config, "rows" if name == "logits_rows" else name)
        limit = 1 << (64 if name == "memory_limit" else 32)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise InvalidArgumentError(f"{name} is {value!r}, expected an integer of at least 0")
        if name != "sinks":
            setattr(settings, name, value)
    if config.on_full not in ON_FULL:
        raise InvalidArgumentError(f"on_full is {config.on_full!r}, expected error or shift")
    if config.kv not in KV_FORMATS:
        raise InvalidArgumentError(f"kv is {config.kv!r}, expected one of {', '.join(KV_FORMATS)}")
    settings.kv_format = KV_FORMATS[config.kv]
    return settings


def sampling_struct(native: Native, sampling: Sampling) -> Any:
    """Return the settings as the library reads them; no seed is 0."""
    config = native.struct("ingot_sampling")
    config.temperature = sampling.temperature
    config.top_k = sampling.top_k
    config.top_p = sampling.top_p
    config.min_p = sampling.min_p
    config.repetition_penalty = sampling.repetition_penalty
    config.seed = sampling.seed or 0
    return config


def checked_ids(prompt: TokenIds, limit: int) -> list[int]:
    """Return token ids as a list. Raises: InvalidArgumentError naming the first bad one."""
    if isinstance(prompt, (bytes, bytearray)) or not (
        isinstance(prompt, Sequence) or _is_array(prompt)
    ):
        raise InvalidArgumentError(
            f"the prompt is {type(prompt).__name__}: give text or a list of token ids"
        )
    tokens = []
    for index, token in enumerate(prompt):
        whole = -1 if isinstance(token, bool) else _whole(token)
        if not 0 <= whole < limit:
            raise InvalidArgumentError(
                f"token {index} of the prompt is {token!r}, expected an id from 0 to {limit - 1}"
            )
        tokens.append(whole)
    return tokens


def _is_array(value: object) -> bool:
    """Say whether it is a NumPy array, without loading NumPy for the question."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _whole(value: object) -> int:
    """Return an integer of any kind as int, -1 for anything else."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return -1
