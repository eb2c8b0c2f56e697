# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle: wheels, model, manifest, installer, service, and a list of all digests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingot.bundle.texts import bundle_texts
from ingot.errors import StorageError
from ingot.store.durable import storage_errors
from ingot.store.signing import SignedManifest

__all__ = ["Bundle", "make_bundle"]

_BLOCK = 1 << 20
_SPARE_BYTES = 192 << 20  # interpreter, tokenizer and libraries beside the plan
_PROGRAMS = ("install.sh", "start.sh", "ingot")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written. Units: bytes."""

    path: Path
    name: str
    machine: str
    python: str
    wheels: tuple[str, ...]
    size_bytes: int


def make_bundle(
    file: Path,
    signed: SignedManifest,
    out: Path,
    machine: str,
    python: str,
    add_wheels: Callable[[Path], list[Path]],
) -> Bundle:
    """Write a folder, or a tar if `out` ends in .tar; it is there whole or not at all.

    `add_wheels(folder)` puts the wheels into a folder, as collect_wheels does.
    Raises: StorageError, also if `out` is there already; what add_wheels raises.
    """
    if out.exists():
        raise StorageError(f"{out} is there already: remove it or choose another --out")
    manifest = signed.manifest
    with storage_errors(out, "write the bundle"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as scratch:
            folder = Path(scratch) / out.name.removesuffix(".tar")
            wheels = add_wheels(folder / "wheels")
            (folder / "model").mkdir()
            model = folder / "model" / f"{manifest.name}.ingot"
            shutil.copyfile(file, model)
            model.with_suffix(".manifest").write_bytes(signed.to_bytes())
            _write_texts(folder, signed, machine, python)
            _write_list(folder, manifest.name, machine, python, wheels)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if out.suffix == ".tar":
                _write_tar(folder, out)
            else:
                os.rename(folder, out)
    names = tuple(wheel.name for wheel in wheels)
    return Bundle(out, manifest.name, machine, python, names, size)


def _write_texts(folder: Path, signed: SignedManifest, machine: str, python: str) -> None:
    peak = signed.manifest.requirements.peak_bytes
    values = {
        "NAME": signed.manifest.name,
        "MACHINE": machine,
        "PYTHON_VERSION": python,
        "MEMORY": str(peak + peak // 4 + _SPARE_BYTES),
    }
    for name, text in bundle_texts(values).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if path.name in _PROGRAMS else 0o644)
    source = Path(__file__).with_name("offline_install.py")
    shutil.copyfile(source, folder / "install.py")


def _write_list(folder: Path, name: str, machine: str, python: str, wheels: list[Path]) -> None:
    """Write bundle.json: for whom it is, and the digest of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): _digest(path) for path in paths}
    chosen = "".join(files[str(wheel.relative_to(folder))] for wheel in sorted(wheels))
    facts = {
        "name": name,
        "machine": machine,
        "python": python,
        "runtime": hashlib.sha256(chosen.encode()).hexdigest()[:12],
        "files": files,
    }
    (folder / "bundle.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _write_tar(folder: Path, out: Path) -> None:
    """Pack a folder; the same content gives the same bytes."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    try:
        with tarfile.open(temporary, "w") as archive:
            for path in [folder, *sorted(folder.rglob("*"))]:
                name = str(path.relative_to(folder.parent))
                archive.add(path, arcname=name, recursive=False, filter=plain)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
