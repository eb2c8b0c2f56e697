# SPDX-License-Identifier: Apache-2.0
"""`ingot targets`: the device profiles."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ingot.cli.arguments import Subparsers, add_command
from ingot.cli.table import print_table
from ingot.targets import Target, list_targets, load_target

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot targets
  ingot targets rpi5
  ingot targets ./my-board.toml --json

A profile says where each of its figures comes from: see "sources" of --json.
It is a TOML file; give its path wherever a target is asked for."""

_USES = {
    "default": "taken by itself",
    "ask": "only with --backend",
    "never": "never taken",
    "other": "other runtimes only, for comparison",
}


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "targets", "list and show device profiles", _EPILOG)
    parser.add_argument("name", nargs="?", help="a profile's name or path; default: list all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    names = [args.name] if args.name else list(list_targets())
    targets = [load_target(name) for name in names]
    if args.json:
        objects = [_to_json(target) for target in targets]
        print(json.dumps(objects[0] if args.name else objects, indent=2))
    elif args.name:
        _show(targets[0])
    else:
        rows = [(t.name, str(t.core_count), _gigabytes(t), t.description) for t in targets]
        print_table(("name", "cores", "memory", "what it is"), rows)
    return 0


def _to_json(target: Target) -> dict[str, object]:
    return {**dataclasses.asdict(target), "sources": dict(target.sources), "isa": target.isa}


def _gigabytes(target: Target) -> str:
    return f"{target.memory.bytes / 1e9:.1f} GB"


def _show(target: Target) -> None:
    """Print one profile for people."""
    memory, defaults = target.memory, target.defaults
    bandwidth = f", {memory.achievable_gb_s} GB/s" if memory.achievable_gb_s else ""
    print(f"{target.name}: {target.description}")
    for core in target.cores:
        clock = f" at {core.mhz} MHz" if core.mhz else ""
        print(f"  {core.count} x {core.name}{clock}: {', '.join(core.isa)}")
    print(f"  memory {_gigabytes(target)}, usable {memory.usable_bytes / 1e9:.1f} GB{bandwidth}")
    print(f"  {target.triple}, pages of {target.page_bytes} bytes")
    print(
        f"  defaults: {defaults.body_format} body, {defaults.head_format} head, {defaults.layout}, "
        f"context {defaults.context}, chunk {defaults.chunk};"
        f" recommended {', '.join(defaults.recommended)}"
    )
    for backend in target.backends:
        print(f"  backend {backend.name}: {_USES[backend.use]}")
        for trap in backend.traps:
            print(f"    {trap}")
    print(f"  heat: {target.thermals.advice}")
