# SPDX-License-Identifier: Apache-2.0
"""What the two sides of a deployment say to each other, over any pair of byte streams.

```
near side                                far side: ingot store receive DIR
                                    <──  BANNER, one line; a login shell may print before it
MANIFEST  options, then manifest    ──>
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
import struct
from enum import IntEnum
from typing import Any, BinaryIO

from ingot.errors import TransferError

__all__ = [
    "BANNER",
    "Counted",
    "Kind",
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

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
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
