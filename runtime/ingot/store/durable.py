# SPDX-License-Identifier: Apache-2.0
"""Changes to a folder that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ingot.errors import StorageError

__all__ = [
    "is_temporary",
    "move",
    "remove",
    "storage_errors",
    "switch_link",
    "sync_folder",
    "write_atomic",
]

# What a kill may leave behind has a name of this form; `ingot store gc` removes it.
_PREFIX, _SUFFIX = ".", ".tmp"


@contextlib.contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError into one that says what was tried on which path and what helps.

    Raises: StorageError.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; `ingot store gc` frees what no version needs" if full else ""
        reason = error.strerror or str(error)
        raise StorageError(f"{path}: cannot {action}: {reason}{advice}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Some file systems cannot, which is no error."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Give a path new content; a kill at any moment leaves the old or the new.

    Raises: StorageError.
    """
    temporary = _temporary(path)
    with storage_errors(path, "write it"):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def switch_link(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere by one rename.

    Raises: StorageError.
    """
    temporary = _temporary(link)
    with storage_errors(link, "switch it"):
        try:
            os.symlink(target, temporary)
            os.replace(temporary, link)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(link.parent)


def move(source: Path, destination: Path) -> None:
    """Rename a file whose bytes are on disk already, and make both folders last.

    Raises: StorageError.
    """
    with storage_errors(destination, "move a file there"):
        os.replace(source, destination)
        sync_folder(destination.parent)
        sync_folder(source.parent)


def remove(path: Path) -> int:
    """Remove a file if it is there; return the bytes of the disk that it took.

    Raises: StorageError.
    """
    with storage_errors(path, "remove it"):
        try:
            taken = os.lstat(path).st_blocks * 512
            os.unlink(path)
        except FileNotFoundError:
            return 0
    return taken


def is_temporary(name: str) -> bool:
    """Tell whether a name is one that only a kill leaves behind."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
