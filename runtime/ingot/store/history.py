# SPDX-License-Identifier: Apache-2.0
"""What a model's folder remembers: versions in the order of their use, pins, a trial."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ingot.errors import FormatError
from ingot.store.durable import storage_errors, write_atomic

__all__ = ["History"]

_FILE = "history.json"


@dataclass(frozen=True, slots=True)
class History:
    """A model's past. `current` is not here: the link is, and the link alone decides.

    `trial` is a version whose check after the switch has not ended; whoever finds it with the
    store's lock free knows that it never will, and goes back.
    """

    versions: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    trial: str = ""
    highest_sequence: int = 0

    @classmethod
    def load(cls, folder: Path) -> History:
        """Read the history of a model's folder; one that has none yet is empty.

        Raises: FormatError; StorageError.
        """
        path = folder / _FILE
        try:
            with storage_errors(path, "read it"):
                values = json.loads(path.read_bytes()) if path.exists() else {}
            return cls(
                versions=tuple(str(v) for v in values.get("versions", ())),
                pinned=tuple(str(v) for v in values.get("pinned", ())),
                failed=tuple(str(v) for v in values.get("failed", ())),
                trial=str(values.get("trial", "")),
                highest_sequence=int(values.get("highest_sequence", 0)),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{path}: not a history: {error}; the link still holds") from None

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all. Raises: StorageError."""
        write_atomic(folder / _FILE, json.dumps(asdict(self)).encode())

    def used(self, version: str, sequence: int, trial: bool) -> History:
        """Return the history with a version as the latest."""
        return replace(
            self,
            versions=(*(v for v in self.versions if v != version), version),
            failed=tuple(v for v in self.failed if v != version),
            trial=version if trial else "",
            highest_sequence=max(self.highest_sequence, sequence),
        )

    def before(self, version: str) -> list[str]:
        """Return the good versions used before one, the latest first."""
        at = self.versions.index(version) if version in self.versions else len(self.versions)
        return [v for v in reversed(self.versions[:at]) if v not in self.failed]

    def without(self, gone: set[str]) -> History:
        """Return the history without some versions."""
        return replace(
            self,
            versions=tuple(v for v in self.versions if v not in gone),
            failed=tuple(v for v in self.failed if v not in gone),
        )
