# SPDX-License-Identifier: Apache-2.0
"""What the formats of keys and values cost: divergence, and speed at a long context.

python tests/benchmarks/kv_formats.py quality CHECKPOINT TEXT [--windows N] [--long N]
python tests/benchmarks/kv_formats.py speed FILE [--context N] [--threads N]

quality: KL(f16 || format) over windows of the model's full context, through the runtime, and over
windows of `--long` tokens with its rotary positions stretched (dynamic NTK), so that keys and
values stand that far apart; the perplexity says what that costs the model itself. Writes
tests/golden/kv_formats.csv; unpacked_tables.py renews compressor/README.md. kv8 is the default
format because this is below 0.001 for the bundled model (tests/compressor holds it).
speed: decode after 128 tokens and after N, interleaved in one process, and prefill; ratios count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot import Model, Session
from ingot_compressor.compress import CompressOptions, compress
from ingot_compressor.evaluate import PositionScores, compare_logits
from tests.benchmarks.unpacked_tables import KEYS_AND_VALUES, KvRow, write_rows

FORMATS = ("f16", "kv8", "k8v4")
SHORT, ROUNDS, TOKENS = 128, 5, 8


def text_windows(model: Model, text: str, count: int) -> list[list[int]]:
    """Return the first windows of a text, each as long as the file's context."""
    ids, size = model.tokenizer.encode(text, begin=True), model.info.context
    return [ids[at : at + size] for at in range(0, min(count, len(ids) // size) * size, size)]


def divergence(model: Model, windows: Sequence[list[int]], kv: str) -> NDArray[np.float64]:
    """Return KL(f16 || kv) of every position. Shapes: (windows, context). Units: nats."""
    return np.stack([scores.kl for scores in compare(model, windows, kv)])


def compare(model: Model, windows: Sequence[list[int]], kv: str) -> Iterator[PositionScores]:
    """Yield the scores of every position of each window, float16 as the reference."""
    rows = min(model.info.chunk, model.info.context)
    with (
        model.session(kv="f16", logits_rows=rows) as exact,
        model.session(kv=kv, logits_rows=rows) as session,
    ):
        for tokens in windows:
            exact.reset()
            session.reset()
            targets = np.array([*tokens[1:], 0])
            yield compare_logits(exact.logits(tokens), session.logits(tokens), targets)


def stretched(source: Path, folder: Path, context: int) -> Path:
    """Return a copy of a checkpoint whose positions turn slower beyond its own context."""
    copy = folder / f"{source.name}_{context}"
    shutil.copytree(source, copy)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    factor = context / config["max_position_embeddings"]
    config["rope_scaling"] = {"rope_type": "dynamic", "factor": factor}
    (copy / "config.json").chmod(0o644)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


def measure(source: Path, name: str, text: str, context: int | None, count: int) -> Iterator[KvRow]:
    """Yield a row for each format of a checkpoint, stored as drafts store it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "x.ingot"
        compress(CompressOptions(source, out, preset="draft", context=context, certificate=False))
        with Model(out) as model:
            windows = text_windows(model, text, count)
            late = slice(-(model.info.context // 4), -1)
            for kv in FORMATS[1:]:
                scores = list(compare(model, windows, kv))
                kl = np.stack([one.kl for one in scores])
                loss = np.stack([one.reference_loss[late] for one in scores])
                yield KvRow(
                    model=name,
                    context=model.info.context,
                    kv=kv,
                    mean_kl=float(kl.mean()),
                    p99_kl=float(np.quantile(kl, 0.99)),
                    late_kl=float(kl[:, late].mean()),
                    perplexity=float(np.exp(loss.mean())),
                    windows=len(windows),
                )


def write_quality(source: Path, text: Path, count: int, long: int) -> None:
    """Measure at the model's own context and at the long one, as many tokens each; write both."""
    content = text.read_text(encoding="utf-8")
    rows = list(measure(source, source.name, content, None, count))
    with tempfile.TemporaryDirectory() as folder:
        far = stretched(source, Path(folder), long)
        fewer = max(2, count * rows[0].context // long)
        rows += measure(far, f"{source.name}, positions stretched", content, long, fewer)
    for row in rows:
        print(row)
    write_rows(KEYS_AND_VALUES, rows)


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
    quality.add_argument("checkpoint", type=Path)
    quality.add_argument("text", type=Path)
    quality.add_argument("--windows", type=int, default=24)
    quality.add_argument("--long", type=int, default=2048, metavar="N")
    speed = commands.add_parser("speed")
    speed.add_argument("file", type=Path)
    speed.add_argument("--context", type=int, default=4096)
    speed.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.command == "quality":
        write_quality(args.checkpoint, args.text, args.windows, args.long)
    else:
        print_speed(args.file, args.context, args.threads)


if __name__ == "__main__":
    main()
