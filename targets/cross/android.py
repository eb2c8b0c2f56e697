# SPDX-License-Identifier: Apache-2.0
"""Android: built by the NDK where there is one, else at least read by clang for that triple."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from targets.cross.zig import REPOSITORY
from targets.lab.process import LabError, run

__all__ = ["NDK_VARIABLE", "android_settings", "android_sources", "check_syntax", "find_ndk"]

NDK_VARIABLE = "ANDROID_NDK_HOME"
API = 28  # Android 9
TOOLCHAIN = Path("build") / "cmake" / "android.toolchain.cmake"
# Headers to read with where there is no bionic: the same declarations for what we use.
HEADERS = Path("/usr/aarch64-linux-gnu/include")
FEATURES = {"neon_dotprod": "+dotprod", "neon_i8mm": "+dotprod+i8mm"}
X86 = ("avx2", "avxvnni", "avx512vnni")


def find_ndk(environment: Mapping[str, str] | None = None) -> Path | None:
    """Return CMake's toolchain file of the NDK; None where the variable is not set.

    Raises: LabError if it is set to a folder that is no NDK.
    """
    folder = (os.environ if environment is None else environment).get(NDK_VARIABLE)
    if not folder:
        return None
    toolchain = Path(folder) / TOOLCHAIN
    if not toolchain.is_file():
        raise LabError(f"{NDK_VARIABLE} is '{folder}', which has no {TOOLCHAIN}: not an NDK")
    return toolchain


def android_settings() -> list[str]:
    """Return CMake's settings. Raises: LabError without an NDK."""
    toolchain = find_ndk()
    if toolchain is None:
        raise LabError(f"there is no NDK: set {NDK_VARIABLE} to the folder of one (r26 or newer)")
    return [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        "-DANDROID_ABI=arm64-v8a",
        f"-DANDROID_PLATFORM=android-{API}",
    ]


def android_sources() -> list[Path]:
    """Return the C sources of an aarch64 build, but for the backend that reads generated ones."""
    found = sorted((REPOSITORY / "native").rglob("*.c"))
    return [path for path in found if _level(path) not in X86 and path.parent.name != "vulkan"]


def check_syntax() -> int:
    """Have clang read each source for Android's triple; return how many.

    Raises: LabError if clang or the headers are missing, or at the first source with an error.
    """
    clang = shutil.which("clang-19") or shutil.which("clang")
    if clang is None:
        raise LabError("clang is not installed (Debian: apt install clang-19)")
    if not HEADERS.is_dir():
        raise LabError(f"{HEADERS} is not there (Debian: apt install libc6-dev-arm64-cross)")
    includes = [f"-I{REPOSITORY / 'native'}", f"-I{REPOSITORY / 'native' / 'include'}"]
    options = [f"--target=aarch64-linux-android{API}", "-fsyntax-only", "-std=gnu11"]
    sources = android_sources()
    # One call for each level, since flags go with the level.
    for level in sorted({_level(path) for path in sources}):
        chosen = [str(path) for path in sources if _level(path) == level]
        march = [f"-march=armv8.2-a{FEATURES[level]}"] if level in FEATURES else []
        run([clang, *options, *march, "-isystem", str(HEADERS), *includes, *chosen])
    return len(sources)


def _level(path: Path) -> str:
    """Return the kernel level that a source's name ends with; "" for other sources."""
    return path.stem.rpartition("__")[2] if "__" in path.stem else ""
