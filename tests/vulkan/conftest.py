# SPDX-License-Identifier: Apache-2.0
"""The Vulkan backend on whatever driver is there, under the validation layer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import tool
from tests.vulkan.backend_driver import Backend

KIND_SOFTWARE = 3


@pytest.fixture(scope="session")
def vulkan_library(native_build: Path, skip_or_fail: Callable[[str, str], NoReturn]) -> Path:
    library = native_build / "libingot_vulkan.so"
    if not library.exists():
        skip_or_fail("vulkan", "not built: glslangValidator or Vulkan's headers are missing")
    return library


@pytest.fixture(scope="session")
def vulkan(vulkan_library: Path, skip_or_fail: Callable[[str, str], NoReturn]) -> Iterator[Backend]:
    """Return the backend; any message of the validation layer makes the calls of a test fail."""
    before = os.environ.get("INGOT_VULKAN_VALIDATE")
    os.environ["INGOT_VULKAN_VALIDATE"] = "1"
    try:
        backend = Backend(vulkan_library)
        devices = backend.devices()
        if not devices:
            skip_or_fail("vulkan", backend.last_error())
        # A driver on the CPU computes the same everywhere; others are for the canary.
        if devices[0]["kind"] != KIND_SOFTWARE:
            skip_or_fail("vulkan", f"{devices[0]['name']} is not a driver on the CPU")
        yield backend
        backend.devices()  # closing is watched too
    finally:
        if before is None:
            del os.environ["INGOT_VULKAN_VALIDATE"]
        else:
            os.environ["INGOT_VULKAN_VALIDATE"] = before


@pytest.fixture(scope="session")
def broken(
    vulkan: Backend, native_build: Path, skip_or_fail: Callable[[str, str], NoReturn]
) -> Backend:
    """Return the backend whose shaders have the faults that INGOT_VULKAN_PLANT chooses."""
    cmake = tool("cmake")
    if cmake is None:
        skip_or_fail("vulkan", "cmake is not installed")
    command = [cmake, "--build", str(native_build), "--target", "ingot_vulkan_broken"]
    subprocess.run(command, check=True, capture_output=True)
    return Backend(native_build / "libingot_vulkan_broken.so")
