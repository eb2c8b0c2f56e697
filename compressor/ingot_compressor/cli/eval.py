# SPDX-License-Identifier: Apache-2.0
"""`ingot eval`: a packed file, or a recipe without one, against the checkpoint it came from."""

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
  ingot eval smol.ingot --against ./SmolLM2-135M
  ingot eval smol.ingot --against ./SmolLM2-135M --text prose.txt --stride 256 --json
  ingot eval smol.ingot --against ./SmolLM2-135M --kv k8v4 --window 2048
  ingot eval smol.ingot --against ./SmolLM2-135M --tasks blimp=blimp.jsonl mine.jsonl --layers
  ingot eval smol.ingot --against ./SmolLM2-135M --tasks arc=arc_easy.jsonl --gate my_recipe.toml
  ingot eval w8a8_static.toml --against ./SmolLM2-135M --calibration my_domain.txt

The text is tokenized whole and its first tokens are cut into windows that do not overlap, or that
begin --stride tokens apart and score what none before scored; the first 32 positions of a window
are not scored. Logarithms are natural. KL is from the checkpoint to the file. Top-5 agreement:
the checkpoint's likeliest token is among the file's five likeliest.

Task files are JSON lines. TASK=FILE reads a published data set:
  blimp    good, bad
  lambada  context, continuation
  arc      query, choices, gold        (the prompt ends with "Answer:")
  gsm8k    question, answer            (generated; the last number counts)
In FILE alone each line names its kind; texts are joined as they stand, spaces are yours:
  {"kind": "pair", "good": "...", "bad": "..."}
  {"kind": "last_word", "context": "...", "continuation": " ..."}
  {"kind": "choice", "query": "...", "choices": [" ...", " ..."], "gold": 0}
  {"kind": "generate", "prompt": "..."} and, as needed, "answer": "...", "match": "text", "line" or
    "number", "json": true, "chat": true, "max_tokens": 256, "stop": ["..."]
A choice is right where its log-likelihood per character is highest. Recovery is the file's accuracy
over the checkpoint's, with a 95 % interval from a paired bootstrap over items. Generation is greedy
and of the file alone; a loop is up to 64 tokens, four times in a row, over at least 16 tokens.

A recipe.toml in place of FILE is measured in PyTorch, and nothing is written: its weights with
inputs of linear operations in float32, rounded as the runtime does (dynamic: int8, a scale for 32),
and as its activations.scales say (static, token). So are grids that are not packed (formats.grid:
int8_symmetric_row, int8_symmetric_tensor, nf4_double, fp8_e4m3_row, nvfp4 and others).

--gate gives the verdict of a recipe's limits, its `recovery` among them; a file that fails gives
exit status 1."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "eval", "measure an ingot against its checkpoint", _EPILOG)
    parser.add_argument("file", metavar="FILE", type=Path, help="an .ingot file, or a recipe.toml")
    parser.add_argument(
        "--against", metavar="SRC", type=Path, required=True, help="the Hugging Face folder"
    )
    parser.add_argument(
        "--text", metavar="FILE", type=Path, help="what to score (default: the bundled text)"
    )
    parser.add_argument(
        "--calibration",
        metavar="TEXT",
        type=Path,
        help="text to calibrate a recipe.toml on (default: the bundled one, where needed)",
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="default: the whole text")
    parser.add_argument(
        "--window", type=int, metavar="W", help="tokens (default: the context, at most 512)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="begin windows N tokens apart (default: no overlap)"
    )
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="[TASK=]FILE", help="items to solve, see below"
    )
    parser.add_argument(
        "--max-items", type=int, metavar="N", help="of each task file, spread evenly (default: all)"
    )
    parser.add_argument(
        "--layers", action="store_true", help="signal to noise and cosine of every layer"
    )
    parser.add_argument(
        "--kv",
        choices=("f16", "kv8", "k8v4"),
        default="f16",
        help="keys and values while the text is scored (default f16)",
    )
    parser.add_argument("--gate", metavar="RECIPE", help="a preset or .toml file to judge by")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # on a busy machine threads of torch that spin while they wait slow each other down many times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return_large_blocks()
    # imported here: torch takes seconds, and may not be installed
    from ingot_compressor.cli.bars import Bars
    from ingot_compressor.cli.eval_tables import print_evaluation, print_simulation
    from ingot_compressor.evaluation.comparison import (
        EvalOptions,
        Evaluation,
        compare_with_checkpoint,
    )
    from ingot_compressor.evaluation.simulation import Simulation, simulate_recipe
    from ingot_compressor.evaluation.verdict import Verdict

    for name in ("max_tokens", "max_items"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise InvalidArgumentError(f"--{option} is {value}, expected at least 1")
    options = EvalOptions(
        args.file,
        args.against,
        args.text,
        args.max_tokens,
        args.window,
        args.stride,
        tuple(args.tasks),
        args.max_items,
        args.layers,
        args.gate,
        args.calibration,
        args.kv,
    )
    recipe = args.file.suffix == ".toml"
    if args.calibration is not None and not recipe:
        raise InvalidArgumentError("--calibration is for a recipe.toml, not for a finished file")
    with Bars(quiet=args.quiet) as bars:
        found: Evaluation | Simulation
        if recipe:
            found = simulate_recipe(options, bars, len(os.sched_getaffinity(0)))
        else:
            found = compare_with_checkpoint(options, bars)
    if args.json:
        print(json.dumps(found.to_json()))
    elif isinstance(found, Simulation):
        print_simulation(found)
    else:
        print_evaluation(found)
    failed = found.judgement is not None and found.judgement.verdict is Verdict.FAIL
    return 1 if failed else 0
