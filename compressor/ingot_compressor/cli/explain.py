# SPDX-License-Identifier: Apache-2.0
"""`ingot explain`: where the error of a packed file comes from."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ingot.cli.arguments import Subparsers, add_command
from ingot.errors import InvalidArgumentError
from ingot_compressor.heap import return_large_blocks

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot explain smol.ingot --against ./SmolLM2-135M
  ingot explain smol.ingot --against ./SmolLM2-135M --text my_domain.txt --worst 30
  ingot explain smol.ingot --against ./SmolLM2-135M --window 64 --max-tokens 8192 --json

How to read it. KL is the divergence of the file's next-token distribution from the checkpoint's, in
nats, mean over tokens; lower is better.
  layers       only that layer has the file's weights, all others the checkpoint's
  roles        only that matrix of every layer (q, k, v, o, gate_up, down) has the file's
  weights      each matrix of the worst layer alone
  sum          the parts added up. Near "all weights": the errors are independent, and a part's
               share is what you gain by giving it more bits. Far below: errors meet and grow. Far
               above: one part alone does most of the damage, the others add little to it.
  file         as the native runtime has it; what it has beyond "all weights" is lost by int8
               activations and float16 keys and values, not by the weights
  worst        the tokens and windows that differ most: look there for what calibration never saw
A file whose recipe took parts of layers out, or transformed weights, has no parts to show: only the
file as a whole and the worst places.

What to do next. One layer or role far above the rest: keep it in more bits, as --bpw, --max-bytes
or --max-kl of `ingot compress` do by themselves. All alike: more bits for all, or a trained preset
(--preset quality). Worst tokens of one kind (names, code, another language): calibrate on such
text with --calibration.

The text is cut into windows of --window tokens; the first 32 positions of each are not scored."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "explain", "find where an ingot's error comes from", _EPILOG)
    parser.add_argument("file", metavar="FILE", type=Path, help="an .ingot file")
    parser.add_argument(
        "--against", metavar="SRC", type=Path, required=True, help="the Hugging Face folder"
    )
    parser.add_argument(
        "--text", metavar="FILE", type=Path, help="what to look at (default: the bundled text)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=2048,
        metavar="N",
        help="spread over the text (default 2048); the time grows with it",
    )
    parser.add_argument(
        "--window", type=int, metavar="W", help="tokens (default: the context, at most 256)"
    )
    parser.add_argument(
        "--worst", type=int, default=10, metavar="N", help="tokens and windows to show (default 10)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of the file's runtime (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # on a busy machine threads of torch that spin while they wait slow each other down many times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return_large_blocks()
    # imported here: torch takes seconds, and may not be installed
    from ingot_compressor.cli.bars import Bars
    from ingot_compressor.cli.explain_tables import print_explanation
    from ingot_compressor.evaluation.explanation import ExplainOptions, explain

    for name in ("max_tokens", "worst"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            raise InvalidArgumentError(f"--{option} is {getattr(args, name)}, expected at least 1")
    options = ExplainOptions(
        file=args.file,
        source=args.against,
        text=args.text,
        max_tokens=args.max_tokens,
        window=args.window,
        worst=args.worst,
        threads=max(args.threads, 0),
    )
    with Bars(quiet=args.quiet) as bars:
        found = explain(options, bars)
    if args.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        print_explanation(found)
    return 0
