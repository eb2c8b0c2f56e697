# SPDX-License-Identifier: Apache-2.0
"""Typed exceptions, one class per cause, with the native library's status where there is one."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from ingot.format import Rule

__all__ = [
    "CanaryError",
    "CancelledError",
    "ContextFullError",
    "FileLostError",
    "FormatError",
    "HardwareError",
    "IngotError",
    "InternalError",
    "InvalidArgumentError",
    "MemoryLimitError",
    "MissingExtraError",
    "OutOfMemoryError",
    "SignatureError",
    "StateError",
    "StorageError",
    "TransferError",
    "UntrustedFileError",
    "error_from_status",
]


class IngotError(Exception):
    """Anything that Ingot refuses. `status` is the native status, 0 where Python found it."""

    status: int = 0

    def __init__(self, message: str, status: int | None = None) -> None:
        """Make one; `status` only where the library gave it."""
        super().__init__(message)
        if status is not None:
            self.status = status


class InvalidArgumentError(IngotError, ValueError):
    """An argument outside what the call takes."""


class StateError(IngotError, RuntimeError):
    """A call at the wrong time: closed, busy in another thread, or in a forked child."""


class CancelledError(IngotError, RuntimeError):
    """The call was cancelled from another thread; the session's state is valid."""


class ContextFullError(IngotError, RuntimeError):
    """The session cannot hold that many positions."""


class FormatError(IngotError, ValueError):
    """The file breaks a rule of the format; `rule` names it, None where there is no number."""

    def __init__(self, message: str, rule: Rule | None = None, status: int | None = None) -> None:
        """Make one; `rule` where a numbered rule is broken."""
        super().__init__(message, status)
        self.rule = rule


class OutOfMemoryError(IngotError, MemoryError):
    """The system gave no memory."""


class MemoryLimitError(OutOfMemoryError):
    """The session does not fit the memory limit; the message says which context does.

    needed_bytes, limit_bytes, largest_context (0: none): the figures, 0 where they are not known.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        needed_bytes: int = 0,
        limit_bytes: int = 0,
        largest_context: int = 0,
    ) -> None:
        """Make one, with the figures if they are known."""
        super().__init__(message, status)
        self.needed_bytes = needed_bytes
        self.limit_bytes = limit_bytes
        self.largest_context = largest_context


class StorageError(IngotError, OSError):
    """A file could not be read or written."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Make one; not OSError's way, which reads two arguments as number and text."""
        IngotError.__init__(self, message, status)


class UntrustedFileError(StorageError):
    """The file may be changed by others, and was opened with `strict`."""


class FileLostError(StorageError):
    """The file was cut short, or its storage failed, while it was open with `guard`."""


class HardwareError(IngotError, RuntimeError):
    """The CPU or a backend lacks what was asked for."""


class CanaryError(IngotError, RuntimeError):
    """No kernel gives the logits that the file says: file or library is damaged, or unfit for here.

    Of an update: the version before it stays.
    """


class InternalError(IngotError, RuntimeError):
    """A fault of ours: please report it."""


class MissingExtraError(IngotError, ImportError):
    """A part of Ingot is not installed; the message has the command."""


class SignatureError(IngotError, ValueError):
    """A manifest is not signed by a key that the store trusts, or is older than what it had."""


class TransferError(IngotError, ConnectionError):
    """The connection to a device broke, or the far side spoke otherwise than agreed."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Make one; not OSError's way, which reads two arguments as number and text."""
        IngotError.__init__(self, message, status)


_CLASSES: dict[int, type[IngotError]] = {
    1: InvalidArgumentError,
    2: StateError,
    3: CancelledError,
    4: ContextFullError,
    5: StateError,
    6: StateError,
    20: FormatError,
    21: FormatError,
    22: FormatError,
    23: FormatError,
    40: OutOfMemoryError,
    41: MemoryLimitError,
    42: StorageError,
    43: OutOfMemoryError,
    44: UntrustedFileError,
    45: FileLostError,
    60: HardwareError,
    61: MissingExtraError,
    90: InternalError,
}


def error_from_status(status: int, message: str, rule: int = 0) -> IngotError:
    """Return the exception for a native status; a status without a class is InternalError."""
    kind = _CLASSES.get(status, InternalError)
    if issubclass(kind, FormatError):
        from ingot.format import Rule  # only here: most processes never see a broken file

        known = rule in Rule._value2member_map_
        return kind(message, Rule(rule) if known else None, status)
    return kind(message, status)
