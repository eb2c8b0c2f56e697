# SPDX-License-Identifier: Apache-2.0
"""The files of a store by their digest, and where each piece of them can be read again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ingot.errors import FormatError, InvalidArgumentError, StorageError
from ingot.store.durable import is_temporary, move, remove, storage_errors
from ingot.store.manifest import Manifest
from ingot.store.signing import SignedManifest

__all__ = ["Objects", "Place"]

# Where the bytes of a piece are: file, offset, size.
Place = tuple[Path, int, int]
_DATA, _MANIFEST = ".ingot", ".manifest"


class Objects:
    """The folder `objects`: VERSION.ingot, a file as it is mapped, and VERSION.manifest.

    A version is there if its .ingot is; its manifest comes first and goes last.
    """

    def __init__(self, folder: Path) -> None:
        """Look at a folder that exists."""
        self.folder = folder

    def data(self, version: str) -> Path:
        """Return the path of a version's file."""
        return self.folder / f"{version}{_DATA}"

    def manifest_path(self, version: str) -> Path:
        """Return the path of a version's manifest."""
        return self.folder / f"{version}{_MANIFEST}"

    def has(self, version: str) -> bool:
        """Tell whether a version is there."""
        return self.data(version).is_file()

    def versions(self) -> list[str]:
        """Return all versions that are there."""
        with storage_errors(self.folder, "list it"):
            names = sorted(os.listdir(self.folder))
        return [name.removesuffix(_DATA) for name in names if name.endswith(_DATA)]

    def manifest(self, version: str) -> Manifest:
        """Return a version's manifest.

        Raises: FormatError; StorageError.
        """
        path = self.manifest_path(version)
        with storage_errors(path, "read it"):
            data = path.read_bytes()
        try:
            return SignedManifest.from_bytes(data).manifest
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None

    def find(self, prefix: str) -> str:
        """Return the version that begins so.

        Raises: InvalidArgumentError if none or several do.
        """
        found = [version for version in self.versions() if version.startswith(prefix)]
        if len(found) != 1 or not prefix:
            known = ", ".join(version[:12] for version in self.versions()) or "none"
            what = "several versions begin" if len(found) > 1 else "no version begins"
            raise InvalidArgumentError(f"{what} with '{prefix}'; the store has {known}")
        return found[0]

    def places(self) -> Mapping[str, Place]:
        """Return where the bytes of each known piece are. A damaged manifest counts for nothing."""
        found: dict[str, Place] = {}
        for version in self.versions():
            try:
                pieces = self.manifest(version).pieces
            except (FormatError, StorageError):
                continue
            path = self.data(version)
            for piece in pieces:
                found[piece.digest] = (path, piece.offset, piece.size)
        return found

    def adopt(self, data: Path, manifest: Path, version: str) -> None:
        """Take over a finished file and its manifest by renames.

        Raises: StorageError.
        """
        move(manifest, self.manifest_path(version))
        move(data, self.data(version))

    def remove(self, version: str) -> int:
        """Remove a version; return the bytes that this freed. Whoever has it open keeps it.

        Raises: StorageError.
        """
        return remove(self.data(version)) + remove(self.manifest_path(version))

    def debris(self) -> list[Path]:
        """Return what a kill left here: half-made files, and manifests whose file is gone."""
        there = set(self.versions())
        with storage_errors(self.folder, "list it"):
            names = sorted(os.listdir(self.folder))
        return [
            self.folder / name
            for name in names
            if is_temporary(name)
            or (name.endswith(_MANIFEST) and name.removesuffix(_MANIFEST) not in there)
        ]
