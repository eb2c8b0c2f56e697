# SPDX-License-Identifier: Apache-2.0
"""What the wheel holds: two packages apart, the library, its binding, and the profiles."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path

import pytest

from tests.project.tree import files


def packaged(folder: str) -> set[Path]:
    """Return the files that a source folder brings into the wheel: all but its own README."""
    found = {path.relative_to(folder) for path in files() if path.parts[0] == folder}
    return found - {Path("README.md")}


def installed_files() -> list[str]:
    try:
        found = importlib.metadata.files("ingot")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if not found:
        pytest.skip("ingot is used from the source tree")
    return [str(path) for path in found]


def test_no_file_is_in_both_packages() -> None:
    runtime, compressor = packaged("runtime"), packaged("compressor")
    assert runtime
    assert compressor
    assert not runtime & compressor


def test_each_folder_holds_one_package() -> None:
    assert {path.parts[0] for path in packaged("runtime")} == {"ingot"}
    assert {path.parts[0] for path in packaged("compressor")} == {"ingot_compressor"}


def test_installed_files_are_there_once() -> None:
    counts = Counter(installed_files())
    assert not [name for name, count in counts.items() if count > 1]


def test_installed_wheel_has_library_binding_and_profiles() -> None:
    names = set(installed_files())
    assert {"ingot/libingot.so", "ingot/_ingot_ffi.py"} <= names
    profiles = {name for name in names if name.startswith("ingot/target_profiles/")}
    expected = {
        f"ingot/target_profiles/{p.name}"
        for suffix in (".toml", ".csv")
        for p in files(suffix)
        if p.parts[:-1] == ("targets",)
    }
    assert {name for name in profiles if "__pycache__" not in name} == expected
