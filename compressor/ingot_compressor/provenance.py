# SPDX-License-Identifier: Apache-2.0
"""Where a file came from: the checkpoint's files and licence, and the versions that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from ingot import __version__

__all__ = ["licence_of", "source_facts", "versions"]


def source_facts(path: Path) -> dict[str, Any]:
    """Return name, sizes of the weight files, and the SHA-256 of config.json."""
    config = path / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else None
    return {
        "name": path.resolve().name,
        "config_sha256": digest,
        "files": {file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))},
    }


def licence_of(path: Path) -> str | None:
    """Return the licence that a model card names, None if it names none."""
    readme, card = path / "README.md", path / "card.json"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        named = re.search(r"^licen[sc]e:\s*(\S+)", front.group(1), re.MULTILINE) if front else None
        if named:
            return named.group(1)
    if card.is_file():
        try:
            value = json.loads(card.read_text(encoding="utf-8"))
        except ValueError:
            return None
        licence = value.get("licence", value.get("license")) if isinstance(value, dict) else None
        return licence if isinstance(licence, str) else None
    return None


def versions() -> dict[str, str]:
    """Return the versions of what takes part in the numbers."""
    found = {"ingot": __version__, "python": platform.python_version()}
    for package in ("numpy", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
