# SPDX-License-Identifier: Apache-2.0
"""The emulated boards and the storage that goes wrong, as boards.toml has them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from targets.lab.process import LabError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BoardProfile", "Storage", "boards", "load_board", "load_storage", "storages"]

BOARDS = Path(__file__).with_name("boards.toml")
ARCHITECTURES = ("aarch64", "armv7")


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """One emulated board: the core that qemu takes, and the memory that programs see."""

    name: str
    description: str
    architecture: str
    cpu: str
    levels: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """What is slow or fails below one folder; None where a figure does not apply.

    Units: bytes, bytes per second, microseconds.
    """

    name: str = "custom"
    description: str = ""
    bytes_per_s: int | None = None
    delay_us: int | None = None
    read_fails_at: int | None = None
    write_fails_after: int | None = None

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the settings of storage.c for the files below folder."""
        values = {
            "INGOT_LAB_BYTES_PER_S": self.bytes_per_s,
            "INGOT_LAB_DELAY_US": self.delay_us,
            "INGOT_LAB_READ_FAILS_AT": self.read_fails_at,
            "INGOT_LAB_WRITE_FAILS_AFTER": self.write_fails_after,
        }
        found = {key: str(value) for key, value in values.items() if value is not None}
        return {**found, "INGOT_LAB_PATH": str(folder.resolve())}


def boards(path: Path = BOARDS) -> dict[str, BoardProfile]:
    """Return the boards by name. Raises: LabError naming what is wrong in the file."""
    return {name: _board(path, name, table) for name, table in _read(path)["boards"].items()}


def storages(path: Path = BOARDS) -> dict[str, Storage]:
    """Return the kinds of storage by name. Raises: LabError naming what is wrong in the file."""
    known = {field.name for field in fields(Storage)} - {"name"}
    found = {}
    for name, table in _read(path)["storage"].items():
        _refuse_unknown(path, f"storage.{name}", set(table), known, {"description"})
        found[name] = Storage(name, **table)
    return found


def load_board(name: str) -> BoardProfile:
    """Return one board. Raises: LabError with the names that there are."""
    found = boards()
    if name not in found:
        raise LabError(f"unknown board '{name}', expected one of {', '.join(found)}")
    return found[name]


def load_storage(name: str) -> Storage:
    """Return one kind of storage. Raises: LabError with the names that there are."""
    found = storages()
    if name not in found:
        raise LabError(f"unknown storage '{name}', expected one of {', '.join(found)}")
    return found[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path}: {error}") from error


def _board(path: Path, name: str, table: dict[str, Any]) -> BoardProfile:
    known = {field.name for field in fields(BoardProfile)} - {"name"}
    _refuse_unknown(path, f"boards.{name}", set(table), known, known)
    if table["architecture"] not in ARCHITECTURES:
        expected = " or ".join(ARCHITECTURES)
        raise LabError(f"{path}: boards.{name}.architecture: expected {expected}")
    return BoardProfile(name, **{**table, "levels": tuple(table["levels"])})


def _refuse_unknown(
    path: Path, where: str, keys: set[str], known: set[str], needed: set[str]
) -> None:
    wrong = sorted(keys - known) + sorted(f"{key} (missing)" for key in needed - keys)
    if wrong:
        raise LabError(f"{path}: {where}: {', '.join(wrong)}; expected {', '.join(sorted(known))}")
