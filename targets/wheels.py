# SPDX-License-Identifier: Apache-2.0
"""Build the wheels that devices install: one file each, with every kernel level in it.

The Vulkan and CUDA backends are packages of their own.

Each is compiled by zig, so that one machine makes them all, and then has to pass auditwheel and the
limit of two megabytes. auditwheel was chosen because it holds the policies behind pip's tags.

Example:
    python -m targets.wheels                       # or: make wheels
    python -m targets.wheels --only musllinux_1_2_aarch64 --out dist
    python -m targets.wheels --package ingot-vulkan    # a backend: a wheel of its own
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from targets.cross.build import tool
from targets.cross.triples import GLIBC, parse_triple
from targets.cross.zig import REPOSITORY, zig_environment, zig_settings
from targets.lab.process import LabError, run
from targets.lab.younger import matrix_setting, prepare_younger_root

__all__ = ["LIMIT_BYTES", "PACKAGES", "WHEELS", "Wheel", "audit", "build_wheel"]

LIMIT_BYTES = 2_000_000
CACHE = REPOSITORY / "build" / "lab"
# By the platform tag, what each is compiled for.
WHEELS: Mapping[str, str] = {
    "manylinux_2_28_x86_64": "x86_64-linux-gnu",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}


# Each package's folder; a backend has a wheel of its own, so that nobody carries it who has no use.
PACKAGES: Mapping[str, Path] = {
    "ingot": REPOSITORY,
    "ingot-vulkan": REPOSITORY / "native" / "vulkan",
    "ingot-cuda": REPOSITORY / "native" / "cuda",
}


@dataclass(frozen=True, slots=True)
class Wheel:
    """One finished wheel; `verdict` is the oldest platform tag that auditwheel finds it fit for."""

    path: Path
    bytes: int
    library_bytes: int
    verdict: str


def build_wheel(tag: str, out: Path, package: str = "ingot") -> Wheel:
    """Compile and pack one wheel, and check it.

    Raises: LabError if it does not build, is too large, or auditwheel refuses the tag.
    Cost: about two minutes on one core; zig's 410 MB once.
    """
    triple = parse_triple(WHEELS[tag])
    settings = zig_settings(CACHE, triple, GLIBC)
    settings.append("-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-s")
    settings += ["-DINGOT_VULKAN=OFF", "-DINGOT_CUDA=OFF"] if package == "ingot" else []
    settings += _shader_settings() if package == "ingot-vulkan" else []
    if triple.libc == "musl":
        settings.append(f"-DINGOT_PATCHELF={tool('patchelf')}")
        settings.append(f"-DINGOT_MUSL_LIBC=libc.musl-{triple.architecture.processor}.so.1")
    # The tag of a wheel is that of sysconfig's platform, which this names for a cross build.
    environment = {**zig_environment(CACHE), "_PYTHON_HOST_PLATFORM": tag}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(out), "-C", f"build-dir={_build_folder(package, tag)}"]
    command += ["-C", "install.strip=false"]
    for setting in settings:
        command += ["-C", f"cmake.define.{setting.removeprefix('-D')}"]
    run([*command, str(PACKAGES[package])], cwd=REPOSITORY, environment=environment)
    name = package.replace("-", "_")
    found = sorted(out.glob(f"{name}-*-py3-none-{tag}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise LabError(f"no wheel with the tag {tag} is in {out}")
    return check(found[-1], tag, package)


def _shader_settings() -> list[str]:
    """Return what adds shaders of cooperative matrices; nothing, with a word, where it cannot."""
    try:
        return [matrix_setting(prepare_younger_root(CACHE / "younger"))]
    except LabError as error:
        print(f"wheels: without cooperative matrices: {error}", file=sys.stderr)
        return []


def _build_folder(package: str, tag: str) -> Path:
    return REPOSITORY / "build" / "wheels" / (tag if package == "ingot" else f"{package}-{tag}")


def check(path: Path, tag: str, package: str = "ingot") -> Wheel:
    """Measure a wheel and have it audited. Raises: LabError if a bar is missed."""
    size = path.stat().st_size
    if size >= LIMIT_BYTES and package == "ingot":
        raise LabError(f"{path.name} has {size} bytes, at most {LIMIT_BYTES} were promised")
    with zipfile.ZipFile(path) as archive:
        stem = package.replace("-", "_")
        library = archive.getinfo(f"ingot/lib{stem}.so").file_size
    return Wheel(path, size, library, audit(path, tag))


def audit(path: Path, tag: str) -> str:
    """Return the oldest platform tag that auditwheel allows. Raises: LabError if it is not ours.

    glibc's tags are ordered by version: what runs with 2.17 runs with 2.28.
    """
    if importlib.util.find_spec("auditwheel") is None:
        raise LabError("auditwheel is not installed: pip install auditwheel")
    # Libraries of this machine are none of the device's: nothing is to be found but what is inside.
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-m", "auditwheel", "show", "--ldpaths", empty, str(path)]
        said = " ".join(run(command).split())
    found = re.search(r'platform tag: "(\w+)"', said)
    verdict = found.group(1) if found else "none"
    if not _covers(verdict, tag):
        raise LabError(f"{path.name}: auditwheel finds it fit for {verdict}, not {tag}\n{said}")
    return verdict


def _covers(verdict: str, tag: str) -> bool:
    """Tell whether a wheel of the verdict runs wherever the tag promises."""
    pattern = re.compile(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)")
    have, want = pattern.fullmatch(verdict), pattern.fullmatch(tag)
    if have is None or want is None or have.group(1, 4) != want.group(1, 4):
        return False
    versions = [tuple(int(part) for part in match.group(2, 3)) for match in (have, want)]
    return versions[0] <= versions[1]


def main(argv: list[str] | None = None) -> int:
    """Build the wheels asked for; exits with 1 at the first that fails."""
    parser = argparse.ArgumentParser(prog="python -m targets.wheels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=list(WHEELS), default=list(WHEELS))
    parser.add_argument("--package", choices=list(PACKAGES), default="ingot")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", metavar="DIR")
    arguments = parser.parse_args(argv)
    for tag in arguments.only:
        start = time.monotonic()
        print(f"building {tag}", file=sys.stderr, flush=True)
        try:
            wheel = build_wheel(tag, arguments.out, arguments.package)
        except LabError as error:
            print(f"wheels: {error}", file=sys.stderr)
            return 1
        seconds = time.monotonic() - start
        sizes = f"{wheel.bytes / 1e3:.0f} kB, library {wheel.library_bytes / 1e3:.0f} kB"
        print(f"{wheel.path.name}  {sizes}, auditwheel: {wheel.verdict}, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
