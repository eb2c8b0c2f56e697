# SPDX-License-Identifier: Apache-2.0
"""The systems that libingot is built for: architecture and C library, by the compiler triple."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from targets.lab.process import LabError

__all__ = ["ARCHITECTURES", "GLIBC", "Architecture", "Triple", "known_triples", "parse_triple"]

GLIBC = "2.28"  # Debian 10, Ubuntu 18.10, RHEL 8: what manylinux_2_28 promises
_ABIS = ("gnu", "musl", "android")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What compilers call one architecture; `note` says what its build leaves out."""

    name: str
    processor: str  # uname -m
    zig: str
    zig_flags: tuple[str, ...]
    gcc: str
    gcc_flags: tuple[str, ...]
    suffix: str = ""  # of the ABI: eabihf
    note: str = ""


ARCHITECTURES: Mapping[str, Architecture] = {
    "x86_64": Architecture("x86_64", "x86_64", "x86_64", (), "x86_64-linux-gnu", ()),
    "aarch64": Architecture("aarch64", "aarch64", "aarch64", (), "aarch64-linux-gnu", ()),
    "armv7": Architecture(
        "armv7",
        "armv7l",
        "arm",
        ("-mcpu=cortex_a7",),
        "arm-linux-gnueabihf",
        ("-mcpu=cortex-a7", "-mfpu=neon-vfpv4", "-mfloat-abi=hard"),
        "eabihf",
        "scalar kernels only: the NEON kernels need A64 (exact division, rounding, subnormals)",
    ),
    "riscv64": Architecture(
        "riscv64",
        "riscv64",
        "riscv64",
        (),
        "riscv64-linux-gnu",
        (),
        note="scalar kernels only: there are none for the vector extension",
    ),
}


@dataclass(frozen=True, slots=True)
class Triple:
    """One system: an architecture with its C library, `gnu`, `musl` or `android`."""

    architecture: Architecture
    libc: str

    @property
    def name(self) -> str:
        """The triple as profiles and the command line write it."""
        suffix = "" if self.libc == "android" else self.architecture.suffix
        return f"{self.architecture.name}-linux-{self.libc}{suffix}"

    def zig_target(self, glibc: str) -> str:
        """Return the target as zig takes it, with the oldest glibc that it shall run with."""
        version = f".{glibc}" if self.libc == "gnu" else ""
        return f"{self.architecture.zig}-linux-{self.libc}{self.architecture.suffix}{version}"


def known_triples() -> tuple[str, ...]:
    """Return every triple that can be built; Android is 64-bit ARM only."""
    names = [Triple(a, libc).name for libc in ("gnu", "musl") for a in ARCHITECTURES.values()]
    return (*names, "aarch64-linux-android")


def parse_triple(text: str) -> Triple:
    """Return the system that a triple names. Raises: LabError with the triples that there are."""
    for architecture in ARCHITECTURES.values():
        for libc in _ABIS:
            triple = Triple(architecture, libc)
            if triple.name == text and text in known_triples():
                return triple
    raise LabError(f"unknown triple '{text}', expected one of {', '.join(known_triples())}")
