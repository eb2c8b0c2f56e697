# SPDX-License-Identifier: Apache-2.0
"""`ingot compress`: a checkpoint becomes an ingot."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.cli.arguments import Subparsers, UsageError, add_command
from ingot.errors import InvalidArgumentError
from ingot_compressor.heap import return_large_blocks

if TYPE_CHECKING:
    from ingot_compressor.compress import CompressReport
    from ingot_compressor.job import CompressOptions

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot compress ./SmolLM2-135M --out smol.ingot
  ingot compress ./SmolLM2-135M --out smol.ingot --target rpi5 --calibration my_domain.txt
  ingot compress ./SmolLM2-135M --out smol.ingot --bpw 5 --head-format q8 --json
  ingot compress ./SmolLM2-135M --out smol.ingot --target rpi5 --max-ram 150MB --min-decode 60
  ingot compress ./SmolLM2-135M --out quick.ingot --preset draft
  ingot compress ./SmolLM2-135M --out best.ingot --preset quality --work best.work
  ingot compress ./SmolLM2-135M --out small.ingot --trim-vocabulary my_domain.txt
  ingot compress ./SmolLM2-135M --out smol.ingot --bpw 4.5 --report smol.html

The result is measured against the checkpoint before it is written; one that fails the recipe's
limits is refused. Texts are UTF-8 .txt, or .jsonl with "text" in each line; to calibrate, or to
declare a vocabulary, also with "messages", which go through the model's chat template. Under a
budget the formats are printed weight by weight with what the next one down and up would change, and
the curve of what could be had. --json prints one object with all of it.

A recipe.toml says what is done, see compressor/README.md: method.search, method.scales ("hqq":
half-quadratic, without data), rounding.method (gptq, trained), distil, transform (rotate, smooth,
activation_aware, clip) and prune. activations.scales (W8A8 with static scales) and formats.grid
(nf4_double, nvfp4 and others) are measured by 'ingot eval recipe.toml', not packed."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "compress", "make an ingot from a checkpoint", _EPILOG)
    parser.add_argument("source", metavar="SRC", type=Path, help="a Hugging Face folder")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--target", default="host", metavar="NAME", help="device profile (default host)"
    )
    parser.add_argument(
        "--preset",
        default="balanced",
        metavar="NAME",
        help="draft (seconds), balanced (default), quality (trained), full (trained at"
        " length), tiny (trained for 3 bits), or a recipe.toml",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keep finished parts there: the same command goes on after a kill",
    )
    _add_formats(parser)
    _add_budgets(parser)
    _add_texts(parser)
    parser.add_argument("--context", type=int, metavar="N", help="positions of the plan")
    parser.add_argument("--chunk", type=int, metavar="N", help="most tokens of one prefill pass")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: every CPU")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="also write a page on what was done and what it cost, and FILE.json with the figures",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_formats(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("formats (default: the target's)")
    group.add_argument(
        "--format",
        metavar="NAME",
        help="linear layers without the head: f16, q8, q6, c5, q4, q4z, c4, c3, c2 or t2",
    )
    group.add_argument("--head-format", metavar="NAME", help="head and embedding")
    group.add_argument(
        "--group", type=int, metavar="G", help="k per scale of q4 and q4z: 32, 64 or 128"
    )
    group.add_argument(
        "--layout", metavar="NAME", help="t16, or t16_k8 for devices with i8mm (q8, q4 and c4)"
    )
    group.add_argument(
        "--sparsity",
        type=float,
        default=0.0,
        metavar="X",
        help="experimental: drop this share of the body's superblocks; with calibration text those"
        " that the others can make up for best. Dense files of its size are made and measured too:"
        " where they are better, nothing is written without --allow-failing",
    )
    group.add_argument(
        "--trim-vocabulary",
        type=Path,
        action="append",
        default=[],
        metavar="TEXT",
        help="keep only tokens of this text, bytes and special ones; may be given several times",
    )


def _add_budgets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budgets: a mix of formats, chosen by what each loses")
    group.add_argument(
        "--bpw",
        type=float,
        metavar="X",
        help="most stored bits per weight of the linear layers without the head",
    )
    group.add_argument(
        "--max-bytes", type=_size, metavar="SIZE", help="most bytes of the file, as 450MB or 1.5GiB"
    )
    group.add_argument(
        "--max-ram", type=_size, metavar="SIZE", help="most memory at --context, as planned"
    )
    group.add_argument(
        "--min-decode",
        type=float,
        metavar="X",
        help="least tokens per second, from the memory speed of the target",
    )
    group.add_argument(
        "--min-prefill",
        type=float,
        metavar="X",
        help="least tokens of a prompt per second, from the products that the target's kernels do",
    )
    group.add_argument(
        "--max-kl",
        type=float,
        metavar="X",
        help="most KL divergence on calibration text: the smallest mix within it",
    )


def _size(text: str) -> int:
    """Return the bytes of a size as people write it."""
    match = re.fullmatch(r"([0-9.]+) *([kKMG]?)(i?)B?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: expected one like 450MB or 1.5GiB")
    number, prefix, binary = match.groups()
    unit = 1024 if binary else 1000
    return int(float(number) * unit ** ("", "K", "M", "G").index(prefix.upper()))


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts and certificate")
    group.add_argument("--calibration", metavar="TEXT", type=Path, help="text to calibrate on")
    group.add_argument("--evaluate", metavar="TEXT", type=Path, help="text to measure on")
    group.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="[TASK=]FILE",
        help="items to solve as ingot eval has them: the recipe's gate.recovery is judged on them",
    )
    group.add_argument("--max-items", type=int, metavar="N", help="items of each task file")
    group.add_argument("--no-certificate", action="store_true", help="measure nothing: a draft")
    group.add_argument(
        "--allow-failing", action="store_true", help="write the file even if it fails its gate"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    # on a busy machine threads of torch that spin while they wait slow each other down many times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return_large_blocks()
    # imported here: torch takes seconds, and may not be installed
    import torch

    from ingot_compressor.cli.bars import Bars
    from ingot_compressor.cli.choice_tables import print_choice
    from ingot_compressor.compress import compress
    from ingot_compressor.job import check_options

    options = _options(args)
    try:
        check_options(options)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from error
    torch.set_num_threads(options.threads)
    with Bars(quiet=args.quiet) as bars:
        report = compress(options, bars)
    for warning in report.warnings:
        print(f"ingot: note: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(asdict(report), ensure_ascii=False))
    else:
        print(_summary(report))
        if report.choice is not None:
            print_choice(report.choice)
    return 0


def _options(args: argparse.Namespace) -> CompressOptions:
    from ingot_compressor.job import CompressOptions

    return CompressOptions(
        source=args.source,
        out=args.out,
        target=args.target,
        preset=args.preset,
        body_format=args.format,
        head_format=args.head_format,
        bpw=args.bpw,
        max_bytes=args.max_bytes,
        max_ram=args.max_ram,
        min_decode=args.min_decode,
        min_prefill=args.min_prefill,
        max_kl=args.max_kl,
        group=args.group,
        layout=args.layout,
        sparsity=args.sparsity,
        trim_vocabulary=tuple(args.trim_vocabulary),
        calibration=args.calibration,
        evaluation=args.evaluate,
        tasks=tuple(args.tasks),
        max_items=args.max_items,
        context=args.context,
        chunk=args.chunk,
        certificate=not args.no_certificate,
        allow_failing=args.allow_failing,
        report=args.report,
        work=args.work,
        threads=args.threads if args.threads > 0 else len(os.sched_getaffinity(0)),
    )


def _hybrid_line(row: dict[str, Any]) -> str:
    verdict = "better than dense files" if row["chosen"] else "dense files are better"
    sizes = f"{row['stored_bytes']} bytes of weights, {row['net_bits']:.2f} net bits"
    return f"{row['name']}: {sizes}, {verdict} ({row['reason']})"


def _summary(report: CompressReport) -> str:
    body, total = report.bits_per_weight_body, report.bits_per_weight_total
    lines = [
        f"{report.file}: {report.bytes / 1e6:.1f} MB in {report.seconds:.0f} s,"
        f" {body:.2f} bits per weight ({total:.2f} with head and embedding)"
    ]
    if report.quality is not None:
        q = report.quality
        lines.append(
            f"mean KL {q['mean_kl']:.4f}, 99 % KL {q['p99_kl']:.4f},"
            f" top-1 {q['top1_agreement']:.1%}, perplexity {q['perplexity']:.3f}"
            f" (reference {q['reference_perplexity']:.3f})"
        )
    lines += [_hybrid_line(row) for row in report.hybrid]
    if report.predicted_decode is not None:
        prompt = report.predicted_prefill
        also = "" if prompt is None else f", prompts {prompt:.0f} tokens/s"
        lines.append(f"predicted on {report.target}: {report.predicted_decode:.1f} tokens/s{also}")
    lines.append(f"verdict: {report.verdict} ({report.reason})")
    return "\n".join(lines)
