# SPDX-License-Identifier: Apache-2.0
"""`ingot tune`: what this device is, and the threads, kernels and grain that suit a file on it."""

from __future__ import annotations

import argparse
import json

from ingot.cli.arguments import Subparsers, UsageError, add_command, add_file
from ingot.cli.table import print_table
from ingot.model import Model
from ingot.session_config import SessionConfig, open_native
from ingot.topology import read_topology
from ingot.tuning import (
    BUDGET_SECONDS,
    Candidate,
    Tuned,
    cache_file,
    cache_key,
    keep,
    load,
    measure,
)

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot tune smol.ingot
  ingot tune smol.ingot --force --seconds 1
  ingot tune smol.ingot --json

A session opened without --threads uses the result; the first one on a device measures it itself.
It is kept in $INGOT_CACHE_DIR, $XDG_CACHE_HOME/ingot or ~/.cache/ingot. INGOT_TUNE=0 turns it off.
All candidates give the same bits."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "tune", "choose threads and kernels by measurement", _EPILOG)
    add_file(parser)
    parser.add_argument("--force", action="store_true", help="measure even if it is known")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        metavar="S",
        help=f"to measure (default 0.5; a session's own takes {BUDGET_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not 0.0 < args.seconds < 60.0:
        raise UsageError(f"--seconds is {args.seconds:g}, expected more than 0 and less than 60")
    with Model(args.file) as model:
        native = model.native
        topology = read_topology(native)
        key = cache_key(native, model.handle)
        path = cache_file(key)
        known = None if args.force else load(key)
        tuned = Tuned(known) if known is not None else None
        stored = tuned is not None
        if tuned is None:
            session = open_native(native, model.handle, SessionConfig())
            tuned = measure(native, session, args.seconds)
            native.ffi.release(session)
            stored = keep(key, tuned)
    if args.json:
        report = {
            "topology": topology.to_json(),
            "cache": path,
            "stored": stored,
            "disturbed": tuned.disturbed,
            "measured": bool(tuned.candidates),
            "tuning": tuned.values,
            "candidates": [_to_json(candidate) for candidate in tuned.candidates],
        }
        print(json.dumps(report))
        return 0
    print(topology.describe())
    _print(tuned)
    if tuned.disturbed:
        print("not kept: other processes took the CPUs; run it again on a quiet machine")
    else:
        print(f"kept in {path}" if stored else f"not kept: {path} cannot be written")
    return 0


def _to_json(candidate: Candidate) -> dict[str, object]:
    return {name: getattr(candidate, name) for name in Candidate.names}


def _print(tuned: Tuned) -> None:
    """Print the rivals and the choice."""
    rows = [
        (
            candidate.phase,
            candidate.what,
            f"{candidate.seconds * 1e3:.3f}",
            f"{candidate.gigabytes_per_second:.1f}",
            f"{candidate.giga_operations_per_second:.0f}",
            "<-" if candidate.chosen else "",
        )
        for candidate in tuned.candidates
    ]
    if rows:
        print_table(("phase", "candidate", "ms", "GB/s", "GOPS", "chosen"), rows)
    else:
        print("known already; --force measures again")
    values = tuned.values
    print(
        f"decode on {values['threads'] or 'the default'} threads, "
        f"prefill on {values['prefill_threads'] or 'the default'}, grain {values['grain'] or 1}"
    )
