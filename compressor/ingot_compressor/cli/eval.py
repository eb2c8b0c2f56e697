# SPDX-License-Identifier: Apache-2.0
"""`ingot eval`: a packed file against the checkpoint it came from."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from ingot.cli.arguments import Subparsers, add_command
from ingot.errors import InvalidArgumentError

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot eval smol.ingot --against ./SmolLM2-135M --text prose.txt
  ingot eval smol.ingot --against ./SmolLM2-135M --text prose.txt --max-tokens 65536 --json

The text is tokenized whole and its first tokens are cut into windows that do not overlap; the
first 32 positions of each are not scored. Logarithms are natural. KL is from the checkpoint to the
file."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "eval", "measure an ingot against its checkpoint", _EPILOG)
    parser.add_argument("file", metavar="FILE", type=Path, help="an .ingot file")
    parser.add_argument(
        "--against", metavar="SRC", type=Path, required=True, help="the Hugging Face folder"
    )
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="what to score")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="default: the whole text")
    parser.add_argument(
        "--window", type=int, metavar="W", help="tokens (default: the context, at most 512)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # on a busy machine threads of torch that spin while they wait slow each other down many times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # imported here: torch takes seconds, and may not be installed
    from ingot_compressor.cli.bars import Bars
    from ingot_compressor.measure import compare_with_checkpoint

    if args.max_tokens is not None and args.max_tokens < 1:
        raise InvalidArgumentError(f"--max-tokens is {args.max_tokens}, expected at least 1")
    with Bars(quiet=args.quiet) as bars:
        quality = compare_with_checkpoint(
            args.file, args.against, args.text, args.max_tokens, args.window, bars
        )
    if args.json:
        print(json.dumps(asdict(quality)))
        return 0
    print(f"mean KL              {quality.mean_kl:.6f}")
    print(f"99 % KL              {quality.p99_kl:.6f}")
    print(f"top-1 agreement      {quality.top1_agreement:.4f}")
    print(f"perplexity           {quality.perplexity:.4f}")
    print(f"reference perplexity {quality.reference_perplexity:.4f}")
    print(f"scored               {quality.tokens} tokens in {quality.windows} windows")
    return 0
