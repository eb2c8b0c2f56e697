# SPDX-License-Identifier: Apache-2.0
"""`ingot lab`: emulated boards, with little memory and bad storage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from ingot.cli.arguments import Subparsers, UsageError, add_command
from ingot.cli.source_tree import add_source, load_module
from ingot.cli.table import print_table
from ingot.errors import IngotError

__all__ = ["add_parser", "run", "size_bytes"]

_EPILOG = """examples:
  ingot lab boards
  ingot lab run --board rpi5 script.py --its-option
  ingot lab run --board zero2w --memory 200M -- -m ingot run file.ingot --prompt "It was"
  ingot lab run --board rpi4 --storage slow-card --storage-folder models script.py
  ingot lab run --board rpi5 --wheel dist/ingot-0.1.0-py3-none-manylinux_2_28_aarch64.whl script.py

The script runs in the board's own Python at the board's core (qemu-user), with the runtime of this
tree or of the wheel. It proves what runs and what does not, never how fast. What it needs is
downloaded once (some minutes). The exit status is the script's; 128 + N if signal N ended it."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "lab", "run scripts on an emulated board", _EPILOG)
    commands = parser.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)
    listed = commands.add_parser("boards", help="list the boards and kinds of storage")
    listed.add_argument("--json", action="store_true", help="print JSON")
    add_source(listed)
    command = commands.add_parser(
        "run",
        help="run a script, Python's own options, or a program of the board",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--board", required=True, metavar="B", help="see ingot lab boards")
    command.add_argument(
        "--memory", type=size_bytes, metavar="SIZE", help="200M, 1G; default: the board's"
    )
    command.add_argument("--storage", metavar="KIND", help="see ingot lab boards")
    command.add_argument(
        "--storage-folder", type=Path, metavar="DIR", help="whose files it is (default: here)"
    )
    command.add_argument("--wheel", type=Path, metavar="FILE", help="installed there by pip first")
    command.add_argument("--json", action="store_true", help="print status and outputs as JSON")
    add_source(command)
    command.add_argument("words", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGUMENTS]")


def size_bytes(text: str) -> int:
    """Return a size written as 4096, 64K, 200M or 1G. Raises: UsageError for anything else."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if found is None or int(found.group(1)) == 0:
        raise UsageError(f"'{text}' is no size: write 64K, 200M or 1G")
    return int(found.group(1)) * _UNITS[found.group(2)]


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    load_module("targets.cross", args.source)
    boards = load_module("targets.lab.boards", args.source)
    if args.lab_command == "boards":
        return _list(boards, args.json)
    process = load_module("targets.lab.process", args.source)
    try:
        return _run_script(args, boards)
    except process.LabError as error:
        raise IngotError(str(error)) from error


def _list(boards: Any, as_json: bool) -> int:
    found, storages = boards.boards(), boards.storages()
    if as_json:
        record = {"boards": found, "storage": storages}
        shown = {k: [dataclasses.asdict(item) for item in v.values()] for k, v in record.items()}
        print(json.dumps(shown, indent=2))
        return 0
    rows = [
        (b.name, b.architecture, b.cpu, f"{b.memory_bytes / 2**30:g} GiB", b.description)
        for b in found.values()
    ]
    print_table(("board", "system", "core", "memory", "what it is"), rows)
    print()
    print_table(("storage", "what it does"), [(s.name, s.description) for s in storages.values()])
    return 0


def _run_script(args: argparse.Namespace, boards: Any) -> int:
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise UsageError("give a script to run; see ingot lab run --help")
    script, conditions = (
        load_module(f"targets.lab.{name}", args.source) for name in ("script", "conditions")
    )
    profile = boards.load_board(args.board)
    storage = boards.load_storage(args.storage) if args.storage else None
    found = conditions.Conditions(args.memory, storage, args.storage_folder)
    site = _install(args, profile) if args.wheel else None
    outcome = script.run_script(profile, words, found, site=site, capture=args.json)
    if args.json:
        print(json.dumps(dataclasses.asdict(outcome), indent=2))
    status = int(outcome.status)
    return status if status >= 0 else 128 - status


def _install(args: argparse.Namespace, profile: Any) -> Path:
    if not args.wheel.is_file():
        raise UsageError(f"{args.wheel} is not there: python -m targets.wheels makes the wheels")
    install, board = (
        load_module(f"targets.lab.{name}", args.source) for name in ("install", "board")
    )
    here = board.Board(architecture=profile.architecture)
    print(f"installing {args.wheel.name} on the board", file=sys.stderr, flush=True)
    site: Path = install.install_wheel(here, args.wheel.resolve(), here.folder / "installed")
    return site
