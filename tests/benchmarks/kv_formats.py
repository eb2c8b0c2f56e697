# SPDX-License-Identifier: Apache-2.0
"""What the formats of keys and values cost: divergence, and speed at a long context.

python tests/benchmarks/kv_formats.py quality FILE TEXT [--windows N]
python tests/benchmarks/kv_formats.py speed FILE [--context N] [--threads N]

quality: KL(f16 || format) over windows of the file's full context, through the runtime. kv8 is the
default format because this is below 0.001 for the bundled model (tests/compressor holds it).
speed: decode after 128 tokens and after N, interleaved in one process, and prefill; ratios count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot import Model, Session
from ingot_compressor.evaluate import compare_logits

FORMATS = ("f16", "kv8", "k8v4")
SHORT, ROUNDS, TOKENS = 128, 5, 8


def text_windows(model: Model, text: str, count: int) -> list[list[int]]:
    """Return the first windows of a text, each as long as the file's context."""
    ids, size = model.tokenizer.encode(text, begin=True), model.info.context
    return [ids[at : at + size] for at in range(0, min(count, len(ids) // size) * size, size)]


def divergence(model: Model, windows: Sequence[list[int]], kv: str) -> NDArray[np.float64]:
    """Return KL(f16 || kv) of every position. Shapes: (windows, context). Units: nats."""
    rows = min(model.info.chunk, model.info.context)
    found = []
    with (
        model.session(kv="f16", logits_rows=rows) as exact,
        model.session(kv=kv, logits_rows=rows) as session,
    ):
        for tokens in windows:
            exact.reset()
            session.reset()
            targets = np.array([*tokens[1:], 0])
            scores = compare_logits(exact.logits(tokens), session.logits(tokens), targets)
            found.append(scores.kl)
    return np.stack(found)


def print_quality(path: Path, text: Path, count: int) -> None:
    """Print mean, 99th percentile and the mean of the last quarter for each format."""
    with Model(path) as model:
        windows = text_windows(model, text.read_text(encoding="utf-8"), count)
        print(f"{len(windows)} windows of {model.info.context} tokens")
        for kv in FORMATS[1:]:
            kl = divergence(model, windows, kv)
            late = kl[:, -(model.info.context // 4) :].mean()
            print(
                f"{kv:5} mean KL {kl.mean():.2e}, p99 {np.quantile(kl, 0.99):.2e}, "
                f"last quarter {late:.2e}"
            )


def _decode(session: Session, seconds: list[float]) -> None:
    count = session.token_count
    for _ in range(TOKENS):
        begin = time.perf_counter()
        session.feed([7])
        seconds.append(time.perf_counter() - begin)
    session.truncate(count)


def print_speed(path: Path, context: int, threads: int) -> None:
    """Print prefill, then decode at both lengths and their ratio, for each format."""
    with Model(path) as model:
        ids = np.random.default_rng(0).integers(0, model.info.vocabulary, context).tolist()
        short = model.session(threads=threads)
        short.feed(ids[:SHORT])
        for kv in FORMATS:
            with model.session(threads=threads, kv=kv) as session:
                begin = time.perf_counter()
                session.feed(ids[: context - 4 * TOKENS])
                prefill = time.perf_counter() - begin
                near: list[float] = []
                far: list[float] = []
                for _ in range(ROUNDS):
                    _decode(short, near)
                    _decode(session, far)
                ratio = float(np.median(near) / np.median(far))
                speeds = (context / prefill, 1 / np.median(far), 1 / np.median(near))
                print(
                    f"{kv:5} prefill {speeds[0]:7.1f} tok/s, decode {speeds[1]:6.1f} tok/s, "
                    f"{ratio:.3f} of the {speeds[2]:.1f} tok/s after {SHORT}"
                )
        short.close()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    quality = commands.add_parser("quality")
    quality.add_argument("file", type=Path)
    quality.add_argument("text", type=Path)
    quality.add_argument("--windows", type=int, default=24)
    speed = commands.add_parser("speed")
    speed.add_argument("file", type=Path)
    speed.add_argument("--context", type=int, default=4096)
    speed.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.command == "quality":
        print_quality(args.file, args.text, args.windows)
    else:
        print_speed(args.file, args.context, args.threads)


if __name__ == "__main__":
    main()
