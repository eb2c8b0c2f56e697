# SPDX-License-Identifier: Apache-2.0
"""Install the system packages that the suite uses, or say what is missing and what that costs.

Example:
    python targets/system_packages.py            # install by apt where that needs no password
    python targets/system_packages.py --check    # only tell
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PACKAGES", "Package", "install_missing", "missing_packages"]


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package, the program that shows that it is there, and what its lack costs."""

    name: str
    program: str
    cost: str


PACKAGES = (
    Package("gcc", "gcc", "the build itself"),
    Package("g++", "g++", "the tests of the CUDA kernels on emulated threads (tests/cuda)"),
    Package("qemu-user", "qemu-aarch64", "every test of the emulated ARM board (tests/targets)"),
    Package("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "the board's gcc build and harness"),
    Package("clang-19", "clang-19", "fuzzing of the native reader (tests/fuzz)"),
    Package("openssh-server", "sshd", "the test of `ingot deploy` against a server on loopback"),
    Package("openssh-client", "ssh", "the same test, and `ingot deploy` itself"),
    Package("llvm-19", "llvm-cov-19", "the coverage report of fuzzing"),
    Package("glslang-tools", "glslangValidator", "the Vulkan backend and its tests (tests/vulkan)"),
    Package("spirv-tools", "spirv-val", "the check of the Vulkan shaders"),
)
# Comes with no program of its own; installed along with clang.
COMPANIONS = {
    "clang-19": ["libclang-rt-19-dev"],
    "gcc-aarch64-linux-gnu": ["libc6-dev-arm64-cross"],
    # A Vulkan driver that runs on the CPU, and the layer that watches how it is called.
    "glslang-tools": ["libvulkan-dev", "mesa-vulkan-drivers", "vulkan-validationlayers"],
}


def missing_packages() -> list[Package]:
    """Return the packages whose program is not found."""
    # Servers are in sbin, which is on few users' path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    return [package for package in PACKAGES if shutil.which(package.program, path=path) is None]


def _apt_prefix() -> list[str] | None:
    """Return what to put before apt-get, or None where apt is not ours to use."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return ["sudo", "-n"] if asked.returncode == 0 else None


def _run_apt(prefix: Sequence[str], arguments: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = [*prefix, "apt-get", "--quiet", "--quiet", "--yes", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def install_missing() -> list[Package]:
    """Install what is missing where apt may be used; return what is missing after that.

    Each package is tried by itself if all together fail, since an old release lacks some.
    """
    missing = missing_packages()
    prefix = _apt_prefix() if missing else None
    if prefix is None:
        return missing
    _run_apt(prefix, ["update"])
    groups = [[package.name, *COMPANIONS.get(package.name, [])] for package in missing]
    install = ["install", "--no-install-recommends"]
    if not _run_apt(prefix, [*install, *(name for group in groups for name in group)]):
        for group in groups:
            _run_apt(prefix, [*install, *group])
    return missing_packages()


def main(argv: list[str] | None = None) -> int:
    """Install or check; exits with 1 if a package is missing at the end."""
    parser = argparse.ArgumentParser(description="System packages of the suite")
    parser.add_argument("--check", action="store_true", help="install nothing")
    arguments = parser.parse_args(argv)
    missing = missing_packages() if arguments.check else install_missing()
    for package in missing:
        print(f"missing: {package.name}; without it: {package.cost}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
