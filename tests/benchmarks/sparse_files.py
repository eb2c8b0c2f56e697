# SPDX-License-Identifier: Apache-2.0
"""What files without some superblocks weigh, lose and decode, beside dense files of their size.

    python tests/benchmarks/sparse_files.py CHECKPOINT --calibrate TEXT --evaluate TEXT

Pruned, quantized and packed files, run in the native runtime. Decoding takes turns between the
files, one thread each, and counts that thread's CPU time, so that other work on the machine matters
less. Writes tests/golden/sparse_files.csv; unpacked_tables.py renews compressor/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ingot import Model, Session
from ingot_compressor.compress import CompressOptions, CompressReport, compress
from tests.benchmarks.unpacked_tables import SPARSE, SparseRow, write_rows

SHARES = (0.0, 0.1, 0.25)
ROUNDS, TOKENS = 12, 32
RECIPE = """
name = "sparse"
description = "searched, measured on few windows"
[formats]
body = "c4"
head = "q8"
embedding = "q8"
q4_group = 32
[method]
search = true
calibrate = true
calibration_tokens = {tokens}
evaluation_tokens = {tokens}
[gate]
mean_kl = 99
p99_kl = 999
confidence = 0.95
least_windows = 8
"""


def decode_seconds(session: Session) -> float:
    """Return the CPU time of a token, the likeliest after the other from an empty session."""
    session.reset()
    token = int(session.feed([0]).argmax())
    began = time.process_time()
    for _ in range(TOKENS):
        token = int(session.feed([token]).argmax())
    return (time.process_time() - began) / TOKENS


def decode_rates(paths: Sequence[Path]) -> list[float]:
    """Return tokens per second of CPU time of every file, the median of rounds in turn."""
    with ExitStack() as stack:
        models = [stack.enter_context(Model(path)) for path in paths]
        sessions = [stack.enter_context(model.session(threads=1)) for model in models]
        rounds = [[decode_seconds(session) for session in sessions] for _ in range(ROUNDS)]
    return [1 / statistics.median(seconds) for seconds in zip(*rounds, strict=True)]


def row(share: float, report: CompressReport, decode: float) -> SparseRow:
    """Return the row of a file."""
    quality, hybrid = report.quality or {}, report.hybrid[0] if report.hybrid else {}
    with Model(Path(report.file)) as model:
        weight_bytes = model.info.weights_size
    dense = hybrid.get("dense_kl")
    return SparseRow(
        body=report.formats["body"],
        superblocks=share,
        weight_bytes=weight_bytes,
        bits=report.bits_per_weight_body,
        mean_kl=quality["mean_kl"],
        dense_kl=float("nan") if dense is None else dense,
        decode=decode,
    )


def main() -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "sparse.toml"
        recipe.write_text(RECIPE.format(tokens=given.tokens), encoding="utf-8")
        reports = []
        for share in SHARES:
            options = CompressOptions(
                given.checkpoint,
                folder / f"{share:g}.ingot",
                preset=str(recipe),
                sparsity=share,
                calibration=given.calibrate,
                evaluation=given.evaluate,
                allow_failing=True,
            )
            reports.append(compress(options))
            sys.stderr.write(f"{share:g}: {reports[-1].quality}\n")
        rates = decode_rates([Path(one.file) for one in reports])
        rows = [row(*one) for one in zip(SHARES, reports, rates, strict=True)]
    write_rows(SPARSE, rows)
    print(SPARSE.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
