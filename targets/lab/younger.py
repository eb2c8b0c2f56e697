# SPDX-License-Identifier: Apache-2.0
"""Programs of a younger Debian than this machine's, unpacked and run by their own loader.

The Vulkan backend's shaders for cooperative matrices need a compiler and a driver that the suite's
Debian does not have. Nothing is installed: packages are unpacked into a folder, where apt has
checked their signatures, and each program is started by the C library that it was built for.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from targets.lab.process import LabError, run
from targets.lab.rootfs import SOURCES, apt_options, download_packages

__all__ = [
    "COMPILER",
    "DRIVER",
    "SUITES",
    "library_folder",
    "matrix_setting",
    "mirror_of",
    "prepare_younger_root",
    "started",
]

# The second has what is younger still; apt takes from it only what is asked for by name.
SUITES = ("trixie", "trixie-backports")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMPILER = ("glslang-tools", "spirv-tools")
DRIVER = ("libvulkan1", "vulkan-validationlayers", f"mesa-vulkan-drivers/{SUITES[1]}")
# What the packages bring along and nobody runs here: documents, other drivers, interpreters.
UNUSED = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/perl5",
    "usr/share/vulkan/registry",
    "usr/share/vulkan/implicit_layer.d",
    "usr/lib/python3*",
)
KEPT_DRIVER = "libvulkan_lvp.so"


def prepare_younger_root(folder: Path) -> Path:
    """Unpack compiler, validator, driver and layer below folder, return the root; it is kept.

    Raises: LabError if this machine is no amd64 Debian, or the suites cannot be had.
    Cost: about twenty seconds, 90 MB to download and 250 MB to keep, once.
    """
    folder = folder.resolve()
    root, done = folder / "root", folder / "root.done"
    if done.exists():
        return root
    if platform.machine() != "x86_64":
        raise LabError(f"the younger Debian is unpacked for amd64, this is {platform.machine()}")
    state = folder / "apt"
    for path in (root, state):
        shutil.rmtree(path, ignore_errors=True)
    options = apt_options(state, "amd64", _sources(folder / "sources.list"))
    try:
        download_packages(options, [*COMPILER, *DRIVER])
    except LabError as error:
        raise LabError(f"Debian {' and '.join(SUITES)} cannot be had: {error}") from error
    root.mkdir(parents=True)
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(root)])
    shutil.rmtree(state)
    _drop_unused(root)
    done.touch()
    return root


def _sources(into: Path) -> Path:
    """Write a list of the suites at this machine's mirror. Raises: LabError if it names none."""
    if not KEYRING.exists():
        raise LabError(f"{KEYRING} is missing (debian-archive-keyring)")
    mirror = mirror_of([path for path in SOURCES if path.exists()])
    lines = [f"deb [signed-by={KEYRING}] {mirror} {suite} main\n" for suite in SUITES]
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text("".join(lines), encoding="utf-8")
    return into


def mirror_of(sources: list[Path]) -> str:
    """Return the first address of Debian's archive in lists of apt, of either style.

    Raises: LabError if there is none.
    """
    for path in sources:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words or words[0] not in ("URIs:", "deb"):
                continue
            for word in words[1:]:
                if "://" in word and word.rstrip("/").endswith("/debian"):
                    return word
    raise LabError("no address of Debian's archive in this machine's package sources")


def _drop_unused(root: Path) -> None:
    for pattern in UNUSED:
        for path in root.glob(pattern):
            shutil.rmtree(path)
    for driver in library_folder(root).glob("libvulkan_*.so"):
        if driver.name != KEPT_DRIVER:
            driver.unlink()


def library_folder(root: Path) -> Path:
    """Return where the libraries of the root lie."""
    return root / "usr" / "lib" / "x86_64-linux-gnu"


def started(root: Path, program: str | Path, libraries: tuple[Path, ...] = ()) -> list[str]:
    """Return the command that runs a program with the root's C library and libraries.

    Libraries that the root does not have are looked for in `libraries`.
    """
    folder = library_folder(root)
    paths = ":".join(str(path) for path in (folder, *libraries))
    return [str(folder / "ld-linux-x86-64.so.2"), "--library-path", paths, str(program)]


def matrix_setting(root: Path) -> str:
    """Return CMake's setting that has the root's compiler make the shaders of matrices."""
    return f"-DINGOT_GLSLANG_MATRIX={';'.join(started(root, root / 'usr/bin/glslang'))}"
