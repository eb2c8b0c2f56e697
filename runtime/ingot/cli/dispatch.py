# SPDX-License-Identifier: Apache-2.0
"""Finds the subcommand, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ingot.cli.arguments import UsageError
from ingot.errors import IngotError, MissingExtraError

__all__ = ["COMMANDS", "main"]

INSTALL_COMMAND = 'pip install "ingot[compress]"'
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPT = 1, 2, 130


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its module has add_parser(subparsers) and run(args) -> exit status."""

    module: str
    summary: str


COMMANDS = {
    "plan": Command("ingot_compressor.cli.plan", "predict size, memory and speed on a device"),
    "compress": Command("ingot_compressor.cli.compress", "make an ingot from a checkpoint"),
    "eval": Command("ingot_compressor.cli.eval", "measure an ingot against its checkpoint"),
    "explain": Command("ingot_compressor.cli.explain", "find where an ingot's error comes from"),
    "run": Command("ingot.cli.run", "continue a prompt"),
    "chat": Command("ingot.cli.chat", "talk to a model"),
    "inspect": Command("ingot.cli.inspect", "show what is in a file"),
    "verify": Command("ingot.cli.verify", "check a file and this machine's arithmetic on it"),
    "bench": Command("ingot.cli.bench", "measure speed against the memory's own"),
    "tune": Command("ingot.cli.tune", "choose threads and kernels by measurement"),
    "store": Command("ingot.cli.store", "keep models and their versions on a device"),
    "deploy": Command("ingot.cli.deploy", "bring a file onto a device over ssh"),
    "bundle": Command("ingot.cli.bundle", "make a folder that installs a model without network"),
    "doctor": Command("ingot.cli.doctor", "show what this device has and lacks"),
    "targets": Command("ingot.cli.targets", "list and show device profiles"),
    "build-runtime": Command("ingot.cli.build_runtime", "build libingot for a device"),
    "lab": Command("ingot.cli.lab", "run scripts on an emulated board"),
}

_EPILOG = """examples:
  ingot compress ./SmolLM2-135M --out smol.ingot
  ingot run smol.ingot --prompt "Turn on the light in" --max-tokens 32
  ingot chat smol.ingot

exit status: 0 done, 1 error, 2 usage or a method that is not built, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPT)
    except UsageError as error:
        return _fail(str(error), EXIT_USAGE)
    except BrokenPipeError:
        # The reader has gone; without this the interpreter complains while flushing at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except (IngotError, OSError) as error:
        return _fail(str(error), EXIT_ERROR)
    except MemoryError:
        return _fail("out of memory", EXIT_ERROR)


def _run(arguments: list[str]) -> int:
    """Parse and run; argparse's own exit becomes a status."""
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else None
    parser = _parser()
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    handler: Callable[[argparse.Namespace], int] | None = None
    for name, command in COMMANDS.items():
        if name == chosen:
            handler = _load(command, subparsers)
        else:
            subparsers.add_parser(name, help=command.summary, add_help=False)
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    if handler is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    return _handled(handler, parsed)


def _parser() -> argparse.ArgumentParser:
    from ingot import __version__

    parser = argparse.ArgumentParser(
        prog="ingot",
        description="Small language models from one file, on the device.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ingot {__version__}")
    return parser


def _load(
    command: Command, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]
) -> Callable[[argparse.Namespace], int]:
    """Import a subcommand's module and let it add its parser; returns its run()."""
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    module.add_parser(subparsers)
    run: Callable[[argparse.Namespace], int] = module.run
    return run


def _handled(handler: Callable[[argparse.Namespace], int], parsed: argparse.Namespace) -> int:
    """Run a subcommand; a package of an extra that is not there becomes our own advice."""
    try:
        return handler(parsed)
    except ModuleNotFoundError as error:
        if isinstance(error, IngotError) or (error.name or "").split(".")[0] == "ingot":
            raise
        raise _missing(error) from error


def _missing(error: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError(f"this needs {error.name}, which is not installed: {INSTALL_COMMAND}")


def _fail(message: str, status: int) -> int:
    """Print one line and return the status."""
    print(f"ingot: error: {' '.join(message.split())}", file=sys.stderr)
    return status
