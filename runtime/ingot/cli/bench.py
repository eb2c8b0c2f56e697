# SPDX-License-Identifier: Apache-2.0
"""`ingot bench`: prefill and decode speed, and how near decode comes to the memory's speed."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot._native import Native
from ingot._numpy_start import np
from ingot.cli.arguments import (
    DRAFTED,
    Subparsers,
    UsageError,
    add_backend,
    add_command,
    add_file,
    add_threads,
    tell_choice,
)
from ingot.cli.memory import peak_rss_bytes
from ingot.cli.profile import Recorded, print_profile, profile_json, record, write_trace
from ingot.cli.replay import read_transcript, replay
from ingot.errors import InvalidArgumentError
from ingot.model import Model
from ingot.session import Session
from ingot.session_config import SessionConfig

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot bench smol.ingot
  ingot bench smol.ingot --threads 1 --json
  ingot bench smol.ingot --profile --trace smol.trace.json
  ingot bench smol.ingot --replay transcript.json

Decoding reads every weight once per token, so the ceiling is the speed at which this machine
reads the file's own weights. It moves on a shared machine, so it is measured between stretches of
decoding: the best of plain, prefetched and non-temporal reads. A fraction above 1.02 means that
the two did not see the same machine: the run is void and the exit status 1."""
PREFILL_TOKENS, DECODE_TOKENS = 512, 128
ALTERNATIONS, MOST_FRACTION = 12, 1.02
LEAST_STREAM_BYTES = 1 << 20  # less than the library's block of one read
PATTERNS = ("plain", "prefetched", "non-temporal")


@dataclass(slots=True)
class Samples:
    """Rates of one run: tokens per second, gigabytes per second by read pattern."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    reads: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATTERNS})


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "bench", "measure speed against the memory's own", _EPILOG)
    add_file(parser)
    add_backend(parser)
    add_threads(parser)
    parser.add_argument(
        "--prefill",
        type=int,
        default=PREFILL_TOKENS,
        metavar="N",
        help=f"prompt length in tokens (default {PREFILL_TOKENS}); shortened where the context is",
    )
    parser.add_argument(
        "--decode",
        type=int,
        default=DECODE_TOKENS,
        metavar="N",
        help=f"tokens to decode per round (default {DECODE_TOKENS})",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="rounds of prefill (default 3)"
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        type=Path,
        help="instead: what drafting by lookup brings on a recorded prompt and answer",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--profile", action="store_true", help="then say where the time goes, op by op"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a Chrome trace; implies --profile"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if min(args.prefill, args.decode, args.repeat) < 1:
        raise UsageError("--prefill, --decode and --repeat must be at least 1")
    if args.backend != "cpu" and (args.profile or args.trace):
        raise UsageError("--profile and --trace record the CPU's instructions: leave --backend out")
    if args.replay is not None:
        return _replay(args)
    with _model(args) as model, _open(model, args) as session:
        tell_choice(model)
        prefill, decode = _lengths(session, args.prefill, args.decode)
        samples = measure(session, prefill, decode, args.repeat)
        report = _report(model, session, samples, prefill, decode)
        passes = _profile(model, args, prefill) if args.profile or args.trace else None
    if passes is not None:
        report["profile"] = profile_json(passes)
    print(json.dumps(report) if args.json else _text(report))
    if passes is not None and not args.json:
        print_profile(passes)
    return _judge(report["decode_fraction_of_stream"]) if report["backend"] == "cpu" else 0


def _model(args: argparse.Namespace) -> Model:
    return Model(args.file, backend=args.backend, device=args.device)


def _open(model: Model, args: argparse.Namespace) -> Session:
    return model.session(threads=args.threads, prefill_threads=args.prefill_threads)


def _profile(model: Model, args: argparse.Namespace, prefill: int) -> Recorded:
    """Record passes of a session of their own, so that the figures above are undisturbed."""
    config = SessionConfig(threads=args.threads, prefill_threads=args.prefill_threads)
    passes = record(model, config, prefill)
    if args.trace:
        write_trace(passes, args.trace)
    return passes


def _replay(args: argparse.Namespace) -> int:
    """Run --replay."""
    transcript = read_transcript(args.replay)
    with _model(args) as model:
        tell_choice(model)
        report = replay(model, transcript, args.threads, DRAFTED, args.repeat)
    text = (
        f"{report['transcript']}: plain {report['plain_tokens_per_second']:.1f} tok/s, by lookup "
        f"{report['speculated_tokens_per_second']:.1f} tok/s, {report['ratio']:.2f} times "
        f"({report['ratio_range'][0]:.2f} to {report['ratio_range'][1]:.2f})\n"
        f"{report['accepted']} of {report['drafted']} drafts right, "
        f"{report['passes']} passes for {report['tokens']} tokens"
    )
    print(json.dumps(report) if args.json else text)
    return 0


def _judge(fraction: float | None) -> int:
    """Return the exit status; say what is wrong with the run."""
    if fraction is None:
        print("no ceiling: the weights are too small to time their reading", file=sys.stderr)
    elif fraction > MOST_FRACTION:
        print(
            f"ingot: error: void: decode at {fraction:.3f} of the streaming ceiling, above "
            f"{MOST_FRACTION}: the machine changed speed, run it again",
            file=sys.stderr,
        )
        return 1
    return 0


def _lengths(session: Session, prefill: int, decode: int) -> tuple[int, int]:
    """Shorten both to the context, and say so. Raises: InvalidArgumentError if nothing is left."""
    if session.context < 4:
        raise InvalidArgumentError(f"a context of {session.context} is too short to measure")
    fits_prefill = min(prefill, session.context)
    fits_decode = min(decode, session.context - 1)
    for name, wanted, fits in (
        ("prefill", prefill, fits_prefill),
        ("decode", decode, fits_decode),
    ):
        if fits < wanted:
            print(
                f"{name} shortened from {wanted} to {fits} tokens: context {session.context}",
                file=sys.stderr,
            )
    return fits_prefill, fits_decode


def measure(session: Session, prefill: int, decode: int, repeat: int) -> Samples:
    """Alternate decoding with reading, after each prefill, on random token ids."""
    samples = Samples()
    generator = np.random.default_rng(0)
    ids = generator.integers(0, session.model.info.vocabulary, prefill + decode).tolist()
    session.feed(ids[: min(prefill, 8)])  # the first pass brings the weights into memory
    rounds = -(-ALTERNATIONS // repeat)
    for _ in range(repeat):
        session.reset()
        samples.prefill.append(_rate(session, ids[:prefill]))
        # Where both do not fit one after the other, decoding goes over the prompt's end.
        session.truncate(min(prefill, session.context - decode))
        for index in range(rounds):
            _read_once(session, samples, index)
            samples.decode.append(_decode_rate(session, ids[prefill:], index, rounds))
        _read_once(session, samples, rounds)
    return samples


def _rate(session: Session, tokens: list[int]) -> float:
    """Return tokens per second of one prefill."""
    begin = time.perf_counter()
    session.feed(tokens)
    return len(tokens) / (time.perf_counter() - begin)


def _decode_rate(session: Session, tokens: list[int], index: int, rounds: int) -> float:
    """Decode one stretch of the tokens; with few of them, the same positions once more."""
    size = max(len(tokens) // rounds, 1)
    stretch = tokens[index * size : (index + 1) * size] or tokens[:size]
    if session.token_count + len(stretch) > session.context:
        session.truncate(session.context - len(stretch))
    begin = time.perf_counter()
    for token in stretch:
        session.feed([token])
    return len(stretch) / (time.perf_counter() - begin)


def _read_once(session: Session, samples: Samples, index: int) -> None:
    """Read all weights with each pattern; small files are in a cache, so read them often."""
    if session.model.info.weights_size < LEAST_STREAM_BYTES or session.model.backend != "cpu":
        return
    repeats = max(1, round(2e7 / session.model.info.weights_size))
    for offset in range(len(PATTERNS)):
        pattern = (index + offset) % len(PATTERNS)
        rates = [session.stream_bandwidth(pattern) for _ in range(repeats)]
        samples.reads[PATTERNS[pattern]].append(statistics.median(rates))


def _report(
    model: Model, session: Session, samples: Samples, prefill: int, decode: int
) -> dict[str, Any]:
    """Return the figures: medians, with least and most beside them."""
    bytes_per_token = model.info.weight_bytes_per_token
    medians = {name: statistics.median(rates) for name, rates in samples.reads.items() if rates}
    best = max(medians, key=lambda name: medians[name]) if medians else None
    decode_rate = statistics.median(samples.decode)
    ceiling = medians[best] if best else None
    decode_gigabytes = decode_rate * bytes_per_token / 1e9
    return {
        "prefill_tokens_per_second": statistics.median(samples.prefill),
        "decode_tokens_per_second": decode_rate,
        "weight_bytes_per_token": bytes_per_token,
        "stream_gigabytes_per_second": ceiling,
        "decode_fraction_of_stream": decode_gigabytes / ceiling if ceiling else None,
        "threads": session.memory().threads,
        "isa": isa_name(model.native),
        "backend": model.backend,
        "peak_rss_bytes": peak_rss_bytes(),
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "alternations": len(samples.decode),
        "stream_pattern": best,
        "prefill_range": _range(samples.prefill),
        "decode_range": _range(samples.decode),
        "stream_range": _range(samples.reads[best]) if best else None,
    }


def isa_name(native: Native) -> str:
    """Return the strongest instruction set that dispatch has selected for linear kernels."""
    names = {value: name for value, name in native.ffi.typeof("ingot_isa").elements.items()}
    best = 1
    for index in range(native.lib.ingot_kernel_count()):
        info = native.struct("ingot_kernel_info")
        native.check(native.lib.ingot_kernel_info_get(index, info))
        if info.selected:
            best = max(best, int(info.isa))
    return str(names[best]).removeprefix("INGOT_ISA_").lower()


def _range(rates: list[float]) -> dict[str, float]:
    return {"min": min(rates), "median": statistics.median(rates), "max": max(rates)}


def _text(report: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [
        f"prefill {report['prefill_tokens']:4} tokens  "
        f"{report['prefill_tokens_per_second']:9.1f} tok/s  {_span(report['prefill_range'])}",
        f"decode  {report['decode_tokens']:4} tokens  "
        f"{report['decode_tokens_per_second']:9.1f} tok/s  {_span(report['decode_range'])}",
        f"weights per token {report['weight_bytes_per_token'] / 1e6:.2f} MB",
    ]
    if report["stream_pattern"]:
        lines += [
            f"streaming ceiling {report['stream_gigabytes_per_second']:.1f} GB/s "
            f"({report['stream_pattern']})  {_span(report['stream_range'])}",
            f"decode reaches {report['decode_fraction_of_stream'] * 100:.1f} % of the ceiling",
        ]
    lines.append(f"{_executor(report)}, peak resident {report['peak_rss_bytes'] / 1e6:.1f} MB")
    return "\n".join(lines)


def _executor(report: dict[str, Any]) -> str:
    if report["backend"] != "cpu":
        return str(report["backend"])
    return f"{report['threads']} threads, {report['isa']}"


def _span(values: dict[str, float]) -> str:
    return f"({values['min']:.1f} to {values['max']:.1f})"
