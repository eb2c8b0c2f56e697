# SPDX-License-Identifier: Apache-2.0
"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.backends import ASKED
from ingot.cli.progress import moving_line
from ingot.errors import InvalidArgumentError
from ingot.generation import Options
from ingot.model import Model
from ingot.sampling import Sampling
from ingot.session import Session
from ingot.session_config import KV_FORMATS

if TYPE_CHECKING:
    from ingot.governor import Governor

__all__ = [
    "DRAFTED",
    "Subparsers",
    "UsageError",
    "add_backend",
    "add_command",
    "add_file",
    "add_generation",
    "add_session",
    "add_speculation",
    "add_strict",
    "add_threads",
    "generation_options",
    "open_model",
    "open_session",
    "tell_choice",
]

Subparsers = argparse._SubParsersAction
DRAFTED = 7  # tokens of one draft; with the one before them they fill a panel of the kernels


class UsageError(InvalidArgumentError):
    """A bad value on the command line; exit status 2."""


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a subcommand whose help ends with examples."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add the file."""
    parser.add_argument("file", metavar="FILE", type=Path, help="an .ingot file")


def add_session(parser: argparse.ArgumentParser) -> None:
    """Add what a session is opened with."""
    add_threads(parser)
    add_backend(parser)
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="positions; default: the file's plan"
    )
    parser.add_argument(
        "--memory-limit",
        default="auto",
        metavar="LIMIT",
        help="bytes (512M), cgroup, a target's name, or none; default: the control group's, if any",
    )
    parser.add_argument(
        "--max-celsius", type=float, metavar="C", help="above it fewer threads, and no guessing"
    )
    parser.add_argument("--max-watts", type=float, metavar="W", help="the same for the power")
    add_strict(parser)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add how much the file is trusted."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a file that group or others may write; report one that is cut short in use",
    )


def open_model(args: argparse.Namespace) -> Model:
    """Open the file that the options of add_session and add_speculation describe."""
    model = Model(
        args.file,
        draft=args.draft,
        strict=args.strict,
        guard=args.strict,
        backend=args.backend,
        device=args.device,
        progress=moving_line(),
    )
    tell_choice(model)
    return model


def _governor(args: argparse.Namespace) -> Governor | None:
    if args.max_celsius is None and args.max_watts is None:
        return None
    from ingot.governor import Governor

    return Governor(args.max_celsius, args.max_watts)


def open_session(model: Model, args: argparse.Namespace) -> Session:
    """Open the session that the options of add_session and add_speculation describe."""
    return model.session(
        args.context,
        args.threads,
        prefill_threads=args.prefill_threads,
        speculate=args.speculate or (DRAFTED if args.draft else 0),
        kv=args.kv,
        memory_limit=args.memory_limit,
        governor=_governor(args),
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add how many threads decode and prefill take."""
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="1 to 64; default: the big cores"
    )
    parser.add_argument(
        "--prefill-threads", type=int, default=0, metavar="N", help="for prompts; as --threads"
    )


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Add what may guess tokens ahead."""
    parser.add_argument(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="guess up to N tokens ahead (7 is good); the same text, faster where it repeats",
    )
    parser.add_argument(
        "--draft", metavar="FILE", help="a small ingot with the same tokenizer that guesses"
    )
    parser.add_argument(
        "--kv",
        choices=tuple(KV_FORMATS),
        default="auto",
        help="how keys and values are kept (default auto: kv8)",
    )


def add_generation(parser: argparse.ArgumentParser, temperature: float, max_tokens: int) -> None:
    """Add how tokens are chosen and what ends the text."""
    group = parser.add_argument_group("generation")
    group.add_argument(
        "--max-tokens",
        type=int,
        default=max_tokens,
        metavar="N",
        help=f"most tokens of an answer (default {max_tokens})",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        metavar="T",
        help=f"0 always takes the likeliest token (default {temperature:g})",
    )
    group.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K likeliest")
    group.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest that add up to P"
    )
    group.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="drop below P times the likeliest"
    )
    group.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1 repeats less"
    )
    group.add_argument("--seed", type=int, default=None, metavar="S", help="same seed, same text")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be repeated"
    )


def generation_options(args: argparse.Namespace) -> Options:
    """Return the options of one answer. Raises: UsageError for a value out of its range."""
    try:
        return _options(args)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from error


def _options(args: argparse.Namespace) -> Options:
    sampling = Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )
    return Options(args.max_tokens, sampling, tuple(args.stop))


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the backend."""
    parser.add_argument(
        "--backend",
        type=_backend,
        default="cpu",
        metavar="B",
        help=f"what executes the program: {', '.join(ASKED)}, or the path of a library (default "
        "cpu); auto measures, and says what it took",
    )
    parser.add_argument(
        "--device", type=int, default=0, metavar="N", help="of the backend, see `ingot doctor`"
    )


def _backend(name: str) -> str:
    if name not in ASKED and "/" not in name:
        raise argparse.ArgumentTypeError(
            f"'{name}', expected one of {', '.join(ASKED)}, or a path with a slash"
        )
    return name


def tell_choice(model: Model) -> None:
    """Say on stderr what `--backend auto` took, and why."""
    if model.choice is not None:
        print(model.choice.describe(), file=sys.stderr)
