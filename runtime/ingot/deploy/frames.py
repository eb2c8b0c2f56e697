# SPDX-License-Identifier: Apache-2.0
"""What the two sides of a deployment say to each other, over any pair of byte streams.

```
near side                                far side: ingot store receive DIR
                                    <──  BANNER, one line; a login shell may print before it
MANIFEST  and its signature         ──>
                                    <──  NEED  piece numbers as ranges, figures, remarks
DATA number, bytes   (many)         ──>
DONE                                ──>
                                    <──  INSTALLED  what was done
                                    <──  REFUSED    at any time instead: why
```
A frame is its kind, a number and a size, each four bytes little-endian, then its bytes.
"""

from __future__ import annotations

import json
import os
import select
import struct
from enum import IntEnum
from typing import Any, Protocol

from ingot.errors import TransferError

__all__ = [
    "BANNER",
    "Counted",
    "Kind",
    "PatientInput",
    "read_frame",
    "read_values",
    "wait_for_banner",
    "write_frame",
    "write_values",
]

BANNER = b"ingot store receive 1\n"
_HEADER = struct.Struct("<III")
_MOST_NOISE = 1 << 16
_MOST_BYTES = 1 << 28
_BLOCK = 1 << 18


class Source(Protocol):
    """What is read from: a binary file, or PatientInput."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, fewer at the end."""
        ...

    def readline(self, size: int = -1, /) -> bytes:
        """Return bytes up to the end of a line."""
        ...


class Sink(Protocol):
    """What is written to: a binary file."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all bytes."""
        ...

    def flush(self) -> None:
        """Send them."""
        ...


class Kind(IntEnum):
    """What a frame is."""

    MANIFEST = 1
    NEED = 2
    DATA = 3
    DONE = 4
    INSTALLED = 5
    REFUSED = 6


class Counted:
    """A pair of streams that counts what passes. Units: bytes."""

    def __init__(self, source: Source, sink: Sink) -> None:
        """Take the streams; closing them stays with who made them."""
        self._source = source
        self._sink = sink
        self.received = 0
        self.sent = 0

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes. Raises: TransferError if the stream ends before."""
        try:
            data = self._source.read(size)
        except OSError as error:
            raise TransferError(f"the connection broke: {error}") from error
        self.received += len(data)
        if len(data) != size:
            raise TransferError("the connection ended in the middle")
        return data

    def read_line(self, most: int) -> bytes:
        """Read up to the end of a line, b"" at the end of the stream."""
        line = self._source.readline(most)
        self.received += len(line)
        return line

    def write(self, data: bytes | memoryview) -> None:
        """Write all. Raises: TransferError if nobody takes it."""
        try:
            self._sink.write(data)
        except (OSError, ValueError) as error:
            raise TransferError(f"the connection broke: {error}") from error
        self.sent += len(data)

    def flush(self) -> None:
        """Send what was written. Raises: TransferError if nobody takes it."""
        try:
            self._sink.flush()
        except (OSError, ValueError) as error:
            raise TransferError(f"the connection broke: {error}") from error


class PatientInput:
    """Reads a descriptor, and gives up when nothing comes for a while.

    A link that is cut in the middle may never be reported to the far side, which holds its store's
    lock meanwhile.
    """

    def __init__(self, descriptor: int, idle_s: float = 60.0) -> None:
        """Read a descriptor that stays somebody else's."""
        self._descriptor = descriptor
        self._idle_s = idle_s
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end of the stream. Raises: TransferError."""
        blocks = [self._left]
        found = len(self._left)
        while found < size:
            block = self._next()
            if not block:
                break
            blocks.append(block)
            found += len(block)
        data = b"".join(blocks)
        self._left = data[size:]
        return data[:size]

    def readline(self, size: int = -1) -> bytes:
        """Return bytes up to the end of a line. Raises: TransferError."""
        while b"\n" not in self._left and len(self._left) < size:
            block = self._next()
            if not block:
                break
            self._left += block
        end = min(self._left.find(b"\n") + 1 or len(self._left), size)
        line, self._left = self._left[:end], self._left[end:]
        return line

    def _next(self) -> bytes:
        if not select.select([self._descriptor], [], [], self._idle_s)[0]:
            raise TransferError(f"nothing came for {self._idle_s:g} s")
        return os.read(self._descriptor, _BLOCK)


def wait_for_banner(streams: Counted) -> None:
    """Skip what a login shell prints. Raises: TransferError if no banner comes."""
    noise = 0
    while noise < _MOST_NOISE:
        line = streams.read_line(_MOST_NOISE)
        if not line:
            break
        if line == BANNER:
            return
        noise += len(line)
    raise TransferError("the far side did not answer as `ingot store receive` does")


def write_frame(
    streams: Counted, kind: Kind, data: bytes | memoryview = b"", number: int = 0
) -> None:
    """Write a frame; only what waits for an answer wants a flush. Raises: TransferError."""
    streams.write(_HEADER.pack(kind, number, len(data)))
    streams.write(data)


def write_values(streams: Counted, kind: Kind, values: dict[str, Any]) -> None:
    """Write a frame of JSON and send it. Raises: TransferError."""
    write_frame(streams, kind, json.dumps(values).encode())
    streams.flush()


def read_frame(streams: Counted) -> tuple[Kind, int, bytes]:
    """Return kind, number and bytes of the next frame. Raises: TransferError."""
    kind, number, size = _HEADER.unpack(streams.read(_HEADER.size))
    if kind not in Kind._value2member_map_ or size > _MOST_BYTES:
        raise TransferError(f"the far side sent a frame of kind {kind} with {size} bytes")
    return Kind(kind), number, streams.read(size)


def read_values(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a frame. Raises: TransferError."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise TransferError("the far side sent no JSON object where one was due")
    return values
