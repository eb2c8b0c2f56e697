# SPDX-License-Identifier: Apache-2.0
"""Where the time of a pass goes: what each thread did for each instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingot.format import Dtype, Opcode
from ingot.model import Model
from ingot.session_config import SessionConfig, create

__all__ = ["Event", "OpTotal", "Pass", "Profiler", "chrome_trace", "totals"]

NO_WEIGHT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Event:
    """One thread and instruction. Units: seconds since the pass began, bytes.

    The wait for other threads is part of the time. Bytes of weights and multiply-adds are those of
    all threads together.
    """

    instruction: int
    name: str
    begin: float
    end: float
    wait: float
    barriers: int
    weight_bytes: int
    multiply_adds: int

    @property
    def seconds(self) -> float:
        """The time from begin to end."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: how many tokens, and the events of each thread."""

    tokens: int
    threads: tuple[tuple[Event, ...], ...]

    @property
    def barriers(self) -> int:
        """How often the threads met."""
        return sum(event.barriers for event in self.threads[0])


@dataclass(frozen=True, slots=True)
class OpTotal:
    """All instructions of one kind, per pass. Units: seconds, bytes."""

    name: str
    count: float
    seconds: float
    wait: float
    weight_bytes: float
    multiply_adds: float
    share: float

    @property
    def gigabytes_per_second(self) -> float:
        """Weights read over time."""
        return self.weight_bytes / self.seconds * 1e-9 if self.seconds else 0.0

    @property
    def giga_operations_per_second(self) -> float:
        """A multiply-add is two operations."""
        return 2 * self.multiply_adds / self.seconds * 1e-9 if self.seconds else 0.0


class Profiler:
    """A session of its own whose passes are recorded."""

    def __init__(self, model: Model, config: SessionConfig) -> None:
        """Raises: as Model.session()."""
        self._native = model.native
        self._model = model
        self._handle = create(model.native, model.handle, config)
        self._native.check(self._native.lib.ingot_session_profile(self._handle, 1))
        self._entries = self._native.ffi.new("ingot_profile_entry[]", model.info.instruction_count)
        self._threads = max(config.threads, config.prefill_threads) or self._thread_count()
        self._names: dict[int, str] = {}

    def feed(self, tokens: Sequence[int]) -> Pass:
        """Run one pass. Raises: InvalidArgumentError for more than a chunk; ContextFullError."""
        lib = self._native.lib
        ids = self._native.ffi.new("int32_t[]", list(tokens))
        self._native.check(lib.ingot_session_eval(self._handle, ids, len(tokens), 1))
        events = (self._read(thread, len(tokens)) for thread in range(self._threads))
        return Pass(len(tokens), tuple(thread for thread in events if thread))

    def close(self) -> None:
        """Give the session back."""
        self._native.ffi.release(self._handle)

    def _thread_count(self) -> int:
        info = self._native.struct("ingot_memory_info")
        self._native.check(self._native.lib.ingot_session_memory(self._handle, info))
        return int(info.threads)

    def _read(self, thread: int, tokens: int) -> tuple[Event, ...]:
        """Copy one thread's events; those in which it had no part are left out."""
        count = self._native.ffi.new("uint32_t *")
        read, size = self._native.lib.ingot_session_profile_read, len(self._entries)
        self._native.check(read(self._handle, thread, self._entries, size, count))
        entries = self._entries[0 : count[0]]
        return tuple(self._event(entry, tokens) for entry in entries if entry.end > entry.begin)

    def _event(self, entry: Any, tokens: int) -> Event:
        instruction = int(entry.instruction)
        if instruction not in self._names:
            self._names[instruction] = self._name(entry, tokens)
        return Event(
            instruction,
            self._names[instruction],
            float(entry.begin),
            float(entry.end),
            float(entry.wait),
            int(entry.barriers),
            int(entry.weight_bytes),
            int(entry.multiply_adds),
        )

    def _name(self, entry: Any, tokens: int) -> str:
        """Return "linear c4 960x576" and the like: outputs of all parts by inputs."""
        name = Opcode(entry.opcode).name.lower()
        if entry.weight == NO_WEIGHT:
            return name
        info = self._native.struct("ingot_tensor_info")
        lib = self._native.lib
        self._native.check(lib.ingot_model_tensor_info(self._model.handle, entry.weight, info))
        k = int(info.shape[1])
        rows = 1 if entry.multiply_adds % (tokens * k) else tokens
        rows = 1 if info.shape[0] > entry.multiply_adds // (rows * k) else rows
        return f"{name} {Dtype(info.dtype).name.lower()} {entry.multiply_adds // (rows * k)}x{k}"


def totals(passes: Sequence[Pass]) -> list[OpTotal]:
    """Return the kinds of instructions, the longest first, as thread 0 saw them.

    Shares are of the time of all events, so that they add up to one.
    """
    groups: dict[str, list[Event]] = {}
    for one in passes:
        for event in one.threads[0]:
            groups.setdefault(event.name, []).append(event)
    everything = sum(event.seconds for events in groups.values() for event in events) or 1.0
    rows = [_total(name, events, len(passes), everything) for name, events in groups.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def _total(name: str, events: Sequence[Event], passes: int, everything: float) -> OpTotal:
    seconds = sum(event.seconds for event in events)
    return OpTotal(
        name,
        len(events) / passes,
        seconds / passes,
        sum(event.wait for event in events) / passes,
        sum(event.weight_bytes for event in events) / passes,
        sum(event.multiply_adds for event in events) / passes,
        seconds / everything,
    )


def chrome_trace(passes: Sequence[Pass]) -> dict[str, Any]:
    """Return passes one after the other in Chrome's trace event format: one lane per thread."""
    events: list[dict[str, Any]] = []
    offset = 0.0
    for one in passes:
        for thread, lane in enumerate(one.threads):
            events.extend(_trace_events(event, thread, offset) for event in lane)
        offset += max(event.end for lane in one.threads for event in lane)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _trace_events(event: Event, thread: int, offset: float) -> dict[str, Any]:
    return {
        "name": event.name,
        "ph": "X",
        "pid": 0,
        "tid": thread,
        "ts": (offset + event.begin) * 1e6,
        "dur": event.seconds * 1e6,
        "args": {
            "instruction": event.instruction,
            "wait_us": event.wait * 1e6,
            "weight_bytes": event.weight_bytes,
        },
    }
