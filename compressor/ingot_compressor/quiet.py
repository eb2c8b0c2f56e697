# SPDX-License-Identifier: Apache-2.0
"""Keeps what a foreign library prints out of our standard output, which may be one JSON object."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

__all__ = ["without_output"]


@contextlib.contextmanager
def without_output() -> Iterator[None]:
    """Send what C code prints meanwhile to nowhere; of the whole process, so keep it short.

    The C library holds printed text back where standard output is no terminal: it is written
    before and after, or it would appear later. Without a standard output there is nothing to do.
    """
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    library = ctypes.CDLL(None)
    library.fflush(None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
