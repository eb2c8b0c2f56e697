# SPDX-License-Identifier: Apache-2.0
"""The build backend: scikit-build-core, and one clear sentence where there is no C compiler.

Without this, an install from source without a compiler ends in a page of CMake's search.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import scikit_build_core.build as backend

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "missing_compiler",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any]
COMPILERS = ("cc", "gcc", "clang")
SENTENCE = (
    "ingot: a C compiler is needed to install from source and none was found: install a ready wheel"
    " (pip install --only-binary=ingot ingot), which needs none, or a compiler"
    " (Debian: apt install gcc; or set CC)."
)

build_sdist = backend.build_sdist
get_requires_for_build_sdist = backend.get_requires_for_build_sdist
prepare_metadata_for_build_editable = backend.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = backend.prepare_metadata_for_build_wheel


def missing_compiler(environment: Mapping[str, str], settings: Mapping[str, Any]) -> bool:
    """Tell whether CMake would find no C compiler: not named, and none of the usual on PATH."""
    named = (environment.get("CMAKE_TOOLCHAIN_FILE"), environment.get("CMAKE_ARGS"))
    if any(named) or any("TOOLCHAIN_FILE" in f"{k}{v}" for k, v in settings.items()):
        return False
    path = environment.get("PATH", "")
    names = (environment["CC"].split()[0],) if environment.get("CC", "").strip() else COMPILERS
    return not any(shutil.which(name, path=path) for name in names)


def _require_compiler(settings: Settings | None) -> None:
    if missing_compiler(os.environ, settings or {}):
        print(SENTENCE, file=sys.stderr)
        raise SystemExit(1)


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    """Return what the build needs; the first thing that pip asks, so the check comes here."""
    _require_compiler(config_settings)
    return backend.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: Settings | None = None) -> list[str]:
    """Return what an editable build needs, after the check."""
    _require_compiler(config_settings)
    return backend.get_requires_for_build_editable(config_settings)


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the wheel; checked again, since a build without isolation asks for nothing before."""
    _require_compiler(config_settings)
    return backend.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the editable wheel, after the check."""
    _require_compiler(config_settings)
    return backend.build_editable(wheel_directory, config_settings, metadata_directory)
