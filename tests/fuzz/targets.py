# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets: how each is built and run, and which sources its coverage is counted over."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.checks.command import ROOT, StepError, build_native, run

__all__ = ["TARGETS", "Place", "Target", "Tools", "build", "find_tools", "prepare"]

INPUTS = ROOT / "tests" / "must_fail" / "inputs"
SEEDS = ROOT / "tests" / "fuzz" / "seeds"
PACKAGES = [ROOT, ROOT / "runtime", ROOT / "compressor"]


@dataclass(frozen=True)
class Target:
    """One target; `sources` are the stems of the C files whose branches are counted."""

    name: str
    most_bytes: int
    sources: tuple[str, ...] = ()

    @property
    def native(self) -> bool:
        """Whether it is a C program; the others run under atheris."""
        return bool(self.sources)


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("file", 131072, ("file", "validate*")),
        Target("plan", 1024, ("file", "validate*", "program", "session", "dequantize")),
        Target(
            "session",
            1024,
            ("session*", "evaluate", "step", "sample", "pick", "kv_*", "model", "section", "tune"),
        ),
        Target("checkpoint", 16384),
        Target("texts", 16384),
    )
}


@dataclass(frozen=True)
class Tools:
    """The compiler and the two programs that read its profiles, all of one version."""

    clang: str
    profdata: str
    cov: str


def find_tools() -> Tools:
    """Return clang and its companions.

    Raises: StepError if there is none of version 16 or later.
    """
    for suffix in ("-19", "-20", "-18", "-17", "-16", ""):
        found = [shutil.which(f"{name}{suffix}") for name in ("clang", "llvm-profdata", "llvm-cov")]
        if all(found):
            return Tools(*(str(path) for path in found))
    raise StepError("needed: clang with llvm-profdata and llvm-cov, version 16 or later")


@dataclass(frozen=True)
class Place:
    """Where a target keeps its files; `cache` outlives the build folder where it is set."""

    folder: Path
    cache: Path
    target: Target

    @property
    def corpus(self) -> Path:
        """What the target found so far, kept from run to run."""
        return self.cache / self.target.name

    @property
    def seeds(self) -> list[Path]:
        """Folders of inputs to start from: generated, committed, and earlier findings."""
        fixed = [SEEDS / self.target.name, INPUTS / self.target.name]
        return [self.folder / "bases" / self.target.name, *(p for p in fixed if p.is_dir())]

    @property
    def work(self) -> Path:
        """Log, profile and findings of this run."""
        return self.folder / self.target.name

    def command(self, options: Sequence[str | Path]) -> list[str]:
        """Return the command of the target with libFuzzer's options."""
        return [str(self.program), f"-max_len={self.target.most_bytes}", *map(str, options)]

    @property
    def program(self) -> Path:
        """The program; for a Python target a script, because libFuzzer merges by starting it."""
        folder = self.folder / "native" if self.target.native else self.work
        return folder / f"fuzz_{self.target.name}"

    def environment(self, profile: Path | None = None) -> dict[str, str]:
        """Return what the target reads from the environment."""
        paths = os.pathsep.join(map(str, PACKAGES))
        return {
            "INGOT_FUZZ_FOLDER": str(self.folder / "bases"),
            "INGOT_FUZZ_PROGRAM": str(self.program),
            "LLVM_PROFILE_FILE": str(profile or os.devnull),
            "PYTHONPATH": paths,
        }


def prepare(place: Place) -> None:
    """Make the folders of a target, and the script that starts it."""
    for path in (place.corpus, place.work / "findings"):
        path.mkdir(parents=True, exist_ok=True)
    if not place.target.native:
        start = f'"{sys.executable}" -m tests.fuzz.fuzz_importer {place.target.name} "$@"'
        place.program.write_text(f"#!/bin/sh\nexec {start}\n", encoding="utf-8")
        place.program.chmod(0o755)


def build(folder: Path, tools: Tools, names: Sequence[str]) -> None:
    """Build the C targets with reference kernels only, and write the files that inputs refer to.

    Raises: StepError if something does not build.
    """
    paths = {"PYTHONPATH": os.pathsep.join(map(str, PACKAGES))}
    run([sys.executable, "-m", "tests.fuzz.base_files", folder / "bases"], paths)
    programs = [f"fuzz_{name}" for name in names if TARGETS[name].native]
    if programs:
        settings = [f"-DCMAKE_C_COMPILER={tools.clang}", "-DCMAKE_BUILD_TYPE=Debug"]
        settings += ["-DINGOT_BUILD_TESTS=ON", "-DINGOT_REF_ONLY=ON"]
        settings.append("-DCMAKE_C_FLAGS=-O1 -fprofile-instr-generate -fcoverage-mapping")
        build_native(str((folder / "native").relative_to(ROOT / "build")), settings, programs)
