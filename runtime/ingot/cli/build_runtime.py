# SPDX-License-Identifier: Apache-2.0
"""`ingot build-runtime`: libingot for another device."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from ingot.cli.arguments import Subparsers, add_command
from ingot.cli.source_tree import add_source, load_module
from ingot.errors import IngotError
from ingot.targets import list_targets, load_target

__all__ = ["add_parser", "run", "triple_of"]

_EPILOG = """examples:
  ingot build-runtime --target rpi5                     # zig, runs with glibc 2.28 and later
  ingot build-runtime --target rpi5 --libc musl         # for Alpine and other musl systems
  ingot build-runtime --target armv7-linux-gnueabihf    # 32-bit boards; riscv64-linux-gnu too
  ingot build-runtime --target rpi4 --compiler gcc      # the system's aarch64-linux-gnu-gcc
  ingot build-runtime --target jetson-orin-nano --backend cuda --backend vulkan
  ANDROID_NDK_HOME=~/ndk ingot build-runtime --target android-arm64 --backend vulkan

The folder holds libingot.so, its Python binding and the C headers. On the device, set
INGOT_NATIVE_DIR to it, or link a C program with it. zig comes by pip (410 MB, once); nothing
else is installed, and the device never needs a compiler. Without an NDK an Android target is only
checked: clang reads every source for its triple, and the exit status is 1."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "build-runtime", "build libingot for a device", _EPILOG)
    parser.add_argument(
        "--target", required=True, metavar="T", help="a profile, the path of one, or a triple"
    )
    parser.add_argument("--libc", choices=("gnu", "musl"), help="default: as the triple says")
    parser.add_argument(
        "--glibc", default="2.28", metavar="V", help="oldest glibc to run with, by zig (2.28)"
    )
    parser.add_argument(
        "--compiler",
        choices=("auto", "zig", "gcc", "ndk"),
        default="auto",
        help="auto: the NDK for Android, else zig",
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=("vulkan", "cuda"),
        default=[],
        help="build this backend as well; what its build needs is said where it is missing",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: build/runtime/TRIPLE")
    add_source(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    build, triples, process = (
        load_module(name, args.source)
        for name in ("targets.cross.build", "targets.cross.triples", "targets.lab.process")
    )
    try:
        triple = triples.parse_triple(triple_of(args.target, args.libc, triples.known_triples()))
        if triple.libc == "android":
            _require_ndk(args)
        cache: Path = build.REPOSITORY / "build" / "lab"
        out = args.out or build.REPOSITORY / "build" / "runtime" / triple.name
        start = time.monotonic()
        built = build.build_runtime(
            triple, out, cache, args.compiler, args.glibc, _progress, args.backend
        )
    except process.LabError as error:
        raise IngotError(str(error)) from error
    _report(built, time.monotonic() - start, args.json)
    return 0


def triple_of(target: str, libc: str | None, known: tuple[str, ...]) -> str:
    """Return the triple that a profile or a triple names, with the C library asked for.

    Raises: InvalidArgumentError for what is neither.
    """
    is_triple = target not in list_targets() and "-linux-" in target
    triple = target if is_triple else load_target(target).triple
    if libc is None or triple.endswith("android"):
        return triple
    start = triple.split("-linux-")[0] + f"-linux-{libc}"
    return next((name for name in known if name.startswith(start)), triple)


def _require_ndk(args: argparse.Namespace) -> None:
    """Check the sources where there is no NDK. Raises: IngotError with what is missing."""
    android = load_module("targets.cross.android", args.source)
    if android.find_ndk() is None:
        checked = android.check_syntax()
        raise IngotError(
            f"no library was built: {android.NDK_VARIABLE} is not set. Install the Android NDK"
            f" (r26 or newer) and set it to its folder. Checked meanwhile: {checked} sources pass"
            f" clang's syntax check for aarch64-linux-android{android.API}"
        )


def _progress(line: str) -> None:
    print(f"building {line}", file=sys.stderr, flush=True)


def _report(built: Any, seconds: float, as_json: bool) -> None:
    if as_json:
        record = dataclasses.asdict(built)
        print(json.dumps({**record, "seconds": round(seconds, 1)}, indent=2, default=str))
        return
    print(f"{built.library}  {built.bytes / 1e3:.0f} kB, {built.compiler}, {seconds:.1f} s")
    print(f"  kernels: {', '.join(built.levels)}")
    if built.glibc:
        print(f"  runs with glibc {built.glibc} and later")
    if built.note:
        print(f"  note: {built.note}")
