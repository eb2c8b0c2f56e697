# SPDX-License-Identifier: Apache-2.0
"""What a program does when the device runs short of memory, and afterwards.

The device tells in its own way: Android calls onTrimMemory, systemd and the kernel have pressure
files, a board may have a GPIO. Whoever hears of it calls `trim`, and `resume` when it is over.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from ingot.errors import InvalidArgumentError, StateError
from ingot.record import Record

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from ingot.model import Model
    from ingot.session import Session

__all__ = ["LEVELS", "LowMemory", "Trimmed"]

LEVELS = ("moderate", "critical")


class Trimmed(Record):
    """What a trim gave back at most, in bytes, and how many sessions were at work and kept all."""

    level: str
    bytes: int
    busy: int


class LowMemory:
    """The sessions of one model, and hooks for what else the program can let go.

    "moderate" gives back buffers and free blocks; "critical" also keys and values, which the next
    call computes again from the tokens, and the weights, which are read again from the file.
    """

    def __init__(self, model: Model) -> None:
        """For one model; its sessions are told with add()."""
        self._model = model
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._trims: list[Callable[[str], None]] = []
        self._resumes: list[Callable[[], None]] = []

    def add(self, session: Session) -> Session:
        """Include a session until it is gone; returns it."""
        self._sessions.add(session)
        return session

    def on_trim(self, hook: Callable[[str], None]) -> None:
        """Call this too, with the level."""
        self._trims.append(hook)

    def on_resume(self, hook: Callable[[], None]) -> None:
        """Call this too when memory is there again."""
        self._resumes.append(hook)

    def trim(self, level: str = "moderate") -> Trimmed:
        """Give memory back now. From any thread; a session at work in another one is left alone.

        Raises: InvalidArgumentError for an unknown level.
        """
        if level not in LEVELS:
            raise InvalidArgumentError(f"level is {level!r}, expected {' or '.join(LEVELS)}")
        given, busy = 0, 0
        for session in list(self._sessions):
            try:
                given += session.trim(keys_and_values=level == "critical")
            except StateError:  # at work, or closed
                busy += 1
        if level == "critical":
            given += self._model.release()
        for hook in self._trims:
            hook(level)
        return Trimmed(level, given, busy)

    def resume(self) -> None:
        """Bring the weights back before somebody waits for them, and call the hooks."""
        self._model.resume()
        for hook in self._resumes:
            hook()
