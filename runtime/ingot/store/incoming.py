# SPDX-License-Identifier: Apache-2.0
"""A version on its way in: what is there of it already, and what is still to come.

Its file is made at full length at once and filled in any order. Nothing else is written down: who
goes on after a cut reads it again and keeps the pieces whose digest is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ingot.container import Container
from ingot.errors import FormatError, InvalidArgumentError, StorageError
from ingot.store.durable import remove, storage_errors, sync_folder, write_atomic
from ingot.store.manifest import Piece
from ingot.store.objects import Place
from ingot.store.signing import SignedManifest

__all__ = ["Incoming", "partial_path", "require_space"]

_BLOCK = 1 << 20
# Left free for manifests, folders and what else the device writes meanwhile.
RESERVE_BYTES = 4 << 20


def partial_path(folder: Path, version: str) -> Path:
    """Return where the file of a version grows."""
    return folder / f"{version}.ingot"


def require_space(folder: Path, signed: SignedManifest) -> None:
    """Refuse a version that the disk has no room for.

    Raises: StorageError with the figures.
    """
    manifest = signed.manifest
    with storage_errors(folder, "ask for free space"):
        state = os.statvfs(folder)
        free = state.f_bavail * state.f_frsize
        partial = partial_path(folder, manifest.version)
        taken = min(partial.stat().st_blocks * 512, manifest.size) if partial.exists() else 0
    needed = manifest.size - taken + 2 * len(signed.body) + RESERVE_BYTES
    if free < needed:
        raise StorageError(
            f"{folder.parent}: {manifest.name} needs {needed / 1e6:.1f} MB more, "
            f"{free / 1e6:.1f} MB are free: `ingot store gc` removes what no model needs"
        )


class Incoming:
    """The partial file of one version. Only who holds the store's lock may have one."""

    def __init__(
        self, folder: Path, signed: SignedManifest, places: Mapping[str, Place], present: bool
    ) -> None:
        """Begin or go on. `present`: the store has this very file, so nothing is missing.

        Raises: StorageError.
        Cost: reads the partial file and the pieces that other versions share with it.
        """
        self.signed = signed
        self.present = present
        self.resumed_bytes = 0
        self.reused_bytes = signed.manifest.size if present else 0
        self.data = partial_path(folder, signed.manifest.version)
        self.manifest_path = self.data.with_suffix(".manifest")
        self._folder = folder
        self._missing: dict[int, Piece] = {}
        if not present:
            self._begin(places)

    @property
    def missing(self) -> list[int]:
        """The numbers of the pieces that are still to come, ascending."""
        return sorted(self._missing)

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come."""
        return sum(piece.size for piece in self._missing.values())

    def put(self, number: int, data: bytes | memoryview) -> None:
        """Write one piece; one that is there already is written again.

        Raises: InvalidArgumentError for a number that the manifest does not have; FormatError if
            the bytes are others than promised; StorageError.
        """
        pieces = self.signed.manifest.pieces
        if self.present or not 0 <= number < len(pieces):
            raise InvalidArgumentError(f"piece {number} was not asked for")
        piece = pieces[number]
        if len(data) != piece.size or hashlib.sha256(data).hexdigest() != piece.digest:
            raise FormatError(f"piece {number}: the bytes that came are not those of the manifest")
        with storage_errors(self.data, "write a piece"):
            descriptor = os.open(self.data, os.O_WRONLY)
            try:
                _write_at(descriptor, data, piece.offset)
            finally:
                os.close(descriptor)
        self._missing.pop(number, None)

    def finish(self) -> None:
        """Check the whole file as it reads from the disk, and bring it there for good.

        Raises: InvalidArgumentError while pieces are missing; FormatError if the
            file is not the one that was promised (it is removed); StorageError.
        """
        if self._missing:
            raise InvalidArgumentError(f"{len(self._missing)} pieces are still to come")
        if self.present:
            return
        manifest = self.signed.manifest
        with storage_errors(self.data, "finish it"):
            found = _digest_and_sync(self.data)
        if found != manifest.version:
            remove(self.data)
            raise FormatError(f"{manifest.name}: the file has digest {found}, not the promised one")
        Container(self.data).close()
        write_atomic(self.manifest_path, self.signed.to_bytes())
        with storage_errors(self.data, "protect it"):
            self.data.chmod(0o644)

    def _begin(self, places: Mapping[str, Place]) -> None:
        manifest = self.signed.manifest
        with storage_errors(self.data, "make it"):
            descriptor = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                old = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, manifest.size)
                for number, piece in enumerate(manifest.pieces):
                    if piece.offset < old and _reads(descriptor, piece.offset, piece):
                        self.resumed_bytes += piece.size
                    elif _copied(descriptor, piece, places.get(piece.digest)):
                        self.reused_bytes += piece.size
                    else:
                        self._missing[number] = piece
            finally:
                os.close(descriptor)
            sync_folder(self._folder)


def _reads(descriptor: int, offset: int, piece: Piece) -> bool:
    """Tell whether the bytes at a place are those of a piece."""
    return hashlib.sha256(os.pread(descriptor, piece.size, offset)).hexdigest() == piece.digest


def _copied(descriptor: int, piece: Piece, place: Place | None) -> bool:
    """Copy a piece from another file if it still has it there."""
    if place is None:
        return False
    path, offset, size = place
    try:
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError:
        return False
    if hashlib.sha256(data).hexdigest() != piece.digest:
        return False
    _write_at(descriptor, data, piece.offset)
    return True


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _digest_and_sync(path: Path) -> str:
    """Bring a file to the disk, then read it; return its SHA-256 in hex."""
    digest = hashlib.sha256()
    with open(path, "rb+", buffering=0) as file:
        os.fsync(file.fileno())
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
