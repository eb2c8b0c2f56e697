# SPDX-License-Identifier: Apache-2.0
"""Environment variables and the folder of caches; neither in a process with another's rights.

A set-uid or set-gid program, or one with file capabilities, runs with more rights than whoever
started it, and the environment is that user's: the library to load and the files to write must not
come from there. The same rule as secure_getenv() of the C library.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
import sys
import zlib

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

__all__ = ["cache_path", "environment", "is_privileged", "read_cache", "write_cache"]

FOLDER = "INGOT_CACHE_DIR"
_AT_SECURE = 23  # of <elf.h>
_VECTOR = "/proc/self/auxv"


def environment(name: str) -> str | None:
    """Return a variable; None if it is not set, or must not be read."""
    return None if _privileged() else os.environ.get(name)


@functools.cache
def _privileged() -> bool:
    return is_privileged()


def is_privileged(vector: str = _VECTOR) -> bool:
    """Say whether this process has rights that its starter has not, from ids and the kernel's word.

    A vector that exists and may not be read belongs to a process with more rights.
    """
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return True
    if not sys.platform.startswith("linux"):
        return False
    try:
        with open(vector, "rb") as file:
            data = file.read(4096)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    pair = struct.Struct("@NN")
    whole = data[: len(data) // pair.size * pair.size]
    return any(kind == _AT_SECURE and value for kind, value in pair.iter_unpack(whole))


def cache_path(kind: str, key: str) -> str | None:
    """Return where the entry of a key lies; None in a process that must not read the environment.

    It is in $INGOT_CACHE_DIR, $XDG_CACHE_HOME/ingot or ~/.cache/ingot.
    """
    if _privileged():
        return None
    folder = os.environ.get(FOLDER) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ingot"
    )
    digest = zlib.crc32(key.encode("utf-8", errors="replace"))
    return os.path.join(folder, f"{kind}-{digest:08x}.json")


def read_cache(kind: str, key: str) -> dict[str, Any] | None:
    """Return the entry of a key without the key; None if it is not there, not whole, or another's.

    What it says is not believed: whoever reads it checks every value.
    """
    path = cache_path(kind, key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.pop("key", None) != key:
        return None
    return values


def write_cache(kind: str, key: str, values: dict[str, Any]) -> bool:
    """Write an entry; it appears whole or not at all. Returns False where it cannot be written."""
    path = cache_path(kind, key)
    if path is None:
        return False
    partial = f"{path}.{os.getpid()}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({"key": key, **values}, file)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        return False
    return True
