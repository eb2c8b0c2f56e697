# SPDX-License-Identifier: Apache-2.0
"""`ingot bundle`: runtime, model and service as one folder or tar for a device without network."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from ingot.bundle import Bundle, collect_wheels, make_bundle
from ingot.cli.arguments import Subparsers, UsageError, add_command, add_file
from ingot.cli.signing import add_signing, signed_manifest
from ingot.targets import load_target

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot bundle smol.ingot --out chat.tar --wheel dist/ingot-0.1.0-...-aarch64.whl
  ingot bundle smol.ingot --out chat --wheel WHEEL --target rpi5 --python 3.11 --wheels ./wheels

On the device: unpack, then `sh install.sh --prefix DIR`. It needs no network, no compiler and no
pip there: all wheels come along, pip's own too. It checks every file's digest, installs the runtime
beside an earlier one, tries the model on the device, and leaves a start script and systemd units
that answer on a socket. Without --wheels, pip downloads the device's wheels now."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    summary = "make a folder or tar that installs a model without network"
    parser = add_command(subparsers, "bundle", summary, _EPILOG)
    add_file(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a folder, or a .tar"
    )
    parser.add_argument(
        "--wheel", type=Path, required=True, metavar="FILE", help="ingot's wheel for the device"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="the other wheels; default: pip downloads them"
    )
    parser.add_argument(
        "--constraint", type=Path, metavar="FILE", help="versions for pip, as its own option"
    )
    parser.add_argument("--target", metavar="NAME", help="a profile; default: that of the file")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    parser.add_argument(
        "--python", default=here, metavar="3.N", help=f"the device's Python (default {here})"
    )
    add_signing(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not args.file.is_file():
        raise UsageError(f"{args.file}: no such file")
    signed = signed_manifest(args)
    target = load_target(args.target or signed.manifest.requirements.target or "host")
    machine = target.triple.split("-")[0]

    def add_wheels(folder: Path) -> list[Path]:
        print(f"wheels for {machine}, Python {args.python} ...", file=sys.stderr)
        signing = bool(signed.signature)
        where = (args.wheel, machine, args.python, args.wheels, signing, args.constraint)
        return collect_wheels(folder, *where)

    done = make_bundle(args.file, signed, args.out, machine, args.python, add_wheels)
    if args.json:
        print(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}))
    else:
        _show(done)
    return 0


def _show(done: Bundle) -> None:
    """Print what was written, for people."""
    print(f"{done.path}: {done.name} for {done.machine}, Python {done.python}")
    print(f"  {done.size_bytes / 1e6:.1f} MB, {len(done.wheels)} wheels")
    unpack = f"tar xf {done.path.name} && " if done.path.suffix == ".tar" else ""
    folder = done.path.name.removesuffix(".tar")
    print(f"  on the device: {unpack}sh {folder}/install.sh --prefix DIR")
