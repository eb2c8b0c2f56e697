# SPDX-License-Identifier: Apache-2.0
"""`ingot plan`: what a model takes on a device, before it is compressed."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.cli.arguments import Subparsers, add_command
from ingot.cli.table import print_table
from ingot.errors import StorageError
from ingot.targets import BACKENDS

if TYPE_CHECKING:
    from ingot.published import StatedError
    from ingot_compressor.planning import PlanRow, PlanTable

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot plan ./Llama-3.2-1B --target rpi5
  ingot plan ./Llama-3.2-1B --target rpi5 --context 8192 --prompt 1024 --plot plan.svg
  ingot plan ./config.json --target jetson-orin-nano --backend cuda --json
  ingot plan smol.ingot --target zero2w

Only config.json is read: no weight needs to be there. One row for each preset, then one for each
other format of the linear layers (--format of `ingot compress`).
  file       bytes of the file
  RAM        weights, keys and values in float16, and buffers of a session with that context
  decode     tokens per second of an answer: at its beginning, and behind a full context
  prefill    tokens per second of a prompt
  first      seconds from a prompt of --prompt tokens to the first token of the answer
  fits       whether the longest context fits in what the target gives a model, or which one does

What to do next. Nothing fits: a smaller format, a shorter --context, or a smaller model. Too slow:
fewer bits, as decode reads every weight for each token (`ingot compress --min-decode`).
First token too late: a shorter prompt, or one that is kept (`ingot run --help`).

The errors below the table say how far the same predictions were off for published results, each
predicted from the others. `host` is measured, not predicted from a profile."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "plan", "predict size, memory and speed on a device", _EPILOG)
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="a Hugging Face folder, config.json, or .ingot"
    )
    parser.add_argument(
        "--target", default="host", metavar="NAME", help="device profile (default host)"
    )
    parser.add_argument(
        "--backend", default="cpu", choices=BACKENDS, help="what executes there (default cpu)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="most positions (default: the target's)"
    )
    parser.add_argument(
        "--prompt", type=int, default=128, metavar="N", help="tokens of a prompt (default 128)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="draw memory and speed as SVG (default MODEL-TARGET.svg)",
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="on host: every CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # imported here: it takes seconds, and may not be installed
    from ingot_compressor.cli.bars import Bars
    from ingot_compressor.planning import PlanOptions, make_plan

    options = PlanOptions(
        source=args.source,
        target=args.target,
        backend=args.backend,
        context=args.context,
        prompt=args.prompt,
        threads=args.threads if args.threads > 0 else len(os.sched_getaffinity(0)),
    )
    with Bars(quiet=args.quiet) as bars:
        table = make_plan(options, bars)
    plot = None if args.plot is None else _draw(table, args.plot)
    if args.json:
        print(json.dumps({**table.to_json(), "plot": plot}, ensure_ascii=False))
    else:
        _show(table)
        print(*([f"plot: {plot}"] if plot else []), sep="\n", end="\n" if plot else "")
    return 0


def _draw(table: PlanTable, given: Path) -> str:
    from ingot_compressor.planning import plan_chart

    path = given if given != Path() else Path(f"{table.model}-{table.target}.svg")
    try:
        path.write_text(plan_chart(table), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return str(path)


def _show(table: PlanTable) -> None:
    """Print the table for people."""
    print(f"{table.model} on {table.target}, {table.backend}: {table.description}")
    print(f"context {table.context}, memory for a model {_megabytes(table.usable_bytes)}")
    # the shortest and the longest context
    ends = sorted({table.rows[0].ram[0][0], table.rows[0].ram[-1][0]})
    header = (
        *("formats", "preset", "bits", "file", *(f"RAM at {one}" for one in ends)),
        *("decode", f"at {table.context}", "prefill", f"first ({table.prompt})", "fits"),
    )
    print_table(header, [_cells(row, ends) for row in table.rows])
    for quantity, error in table.errors.items():
        print(f"{quantity}: {_stated(error)}")
    print("first token: as prefill; RAM: planned, and the runtime keeps to its plan")
    for note in table.notes:
        print(f"note: {note}")


def _cells(row: PlanRow, ends: list[int]) -> tuple[str, ...]:
    ram = dict(row.ram)
    return (
        f"{row.body}/{row.head}",
        ", ".join(row.presets) or "-",
        f"{row.bits_per_weight:.2f}",
        _megabytes(row.file_bytes),
        *(_megabytes(ram[one]) for one in ends),
        f"{row.decode:.3g}",
        f"{row.decode_at_context:.3g}",
        "?" if row.prefill is None else f"{row.prefill:.3g}",
        "?" if row.first_token_seconds is None else f"{row.first_token_seconds:.2f} s",
        "yes" if row.fits else f"to {row.largest_context}" if row.largest_context else "no",
    )


def _stated(error: StatedError) -> str:
    where = "of this device" if error.own else "of other devices, none of this one"
    return (
        f"median error {error.median:.0%}, largest {error.largest:.0%},"
        f" over {error.rows} published results {where}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e10 else f"{size / 1e9:.1f} GB"
