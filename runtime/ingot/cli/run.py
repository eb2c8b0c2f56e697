# SPDX-License-Identifier: Apache-2.0
"""`ingot run`: prompt in, text out."""

from __future__ import annotations

import argparse
import json
import sys

from ingot.cli.arguments import (
    Subparsers,
    add_command,
    add_file,
    add_generation,
    add_session,
    add_speculation,
    generation_options,
    open_model,
    open_session,
)
from ingot.stream import Stream

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot run smol.ingot --prompt "Once upon a time" --max-tokens 64
  ingot run smol.ingot --prompt "A poem:" --temperature 0.8 --top-p 0.95 --seed 7
  echo "The capital of France is" | ingot run smol.ingot --max-tokens 8 --json

The text goes to standard output as it comes, figures to standard error. --json prints one object:
text, prompt_token_ids, token_ids, finish_reason, seed, stats."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "run", "continue a prompt", _EPILOG)
    add_file(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="text to continue; default: standard input"
    )
    add_session(parser)
    add_speculation(parser)
    add_generation(parser, temperature=0.0, max_tokens=128)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--quiet", action="store_true", help="no figures on standard error")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    options = generation_options(args)
    prompt = sys.stdin.read().rstrip("\n") if args.prompt is None else args.prompt
    with open_model(args) as model, open_session(model, args) as session:
        stream = session.begin(prompt, options)
        if args.json:
            print(json.dumps(stream.result().to_json(), ensure_ascii=False))
            return 0
        _print_pieces(stream)
        if not args.quiet:
            print(f"[{stream.finish_reason}; {stream.stats}]", file=sys.stderr)
            if session.config.governor is not None:
                print(f"[{session.config.governor.describe()}]", file=sys.stderr)
    return 0


def _print_pieces(stream: Stream) -> None:
    """Print the text as it comes."""
    for piece in stream:
        print(piece, end="", flush=True)
    print(flush=True)
