# SPDX-License-Identifier: Apache-2.0
"""What transforms, other people's grids and rounded activations cost a model, in PyTorch.

    python tests/benchmarks/simulated_grids.py MODEL --calibrate TEXT --evaluate TEXT

Weights of the body are rounded and back; head, embedding and (but for the W8A8 rows) activations
stay in full precision. Nothing is packed: rows of formats that a file may hold say so. Writes
tests/golden/simulated_grids.csv after each row; tests/benchmarks/unpacked_tables.py then renews
the table in compressor/README.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.chat import ChatSettings
from ingot.format import Dtype
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import Statistics, calibrate
from ingot_compressor.calibration_texts import (
    CalibrationOptions,
    pack_documents,
    read_documents,
)
from ingot_compressor.evaluate import Logits, Quality, evaluate, summarize
from ingot_compressor.execute import TensorStore
from ingot_compressor.importers import Imported, import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.activations8 import ActivationScale, make_rounding
from ingot_compressor.numerics.simulated import simulated_grids
from ingot_compressor.passes.activation_aware import (
    Quantizer,
    clip_weights,
    scale_for_activations,
)
from ingot_compressor.passes.quantize import body_names, stored_bytes
from ingot_compressor.passes.transform import rotate_residual, rotate_values, smooth
from ingot_compressor.simulate import (
    data_free,
    encoding_quantizer,
    simulated_logits,
    simulated_weights,
)
from tests.benchmarks.unpacked_tables import GRIDS, GridRow, write_rows

SEARCH_WINDOWS = 8
DATA_FREE = (
    *("int8_symmetric_row", "fp8_e4m3_row", "int4_symmetric_row", "int4_symmetric_g128"),
    *("int4_symmetric_g32", "int4_asymmetric_g32", "hqq4_g64", "hqq4_g32", "nf4_double"),
    *("nvfp4", "mxfp4", "int3_symmetric_g32", "int3_asymmetric_g32", "hqq3_g64", "hqq3_g32"),
)
ROTATED = ("int4_symmetric_row", "int4_symmetric_g128", "hqq4_g64", "nvfp4")
FORMATS = (Dtype.C3, Dtype.C4)
RECORD, NOT_PACKED = "format of record", "not packed"
RECORDS = tuple(dtype.name.lower() for dtype in FORMATS)


@dataclass
class Bench:
    """One model, its texts, and the reference's logits, which every row is compared with."""

    program: Program
    calibration: tuple[NDArray[np.int64], ...]
    evaluation: tuple[NDArray[np.int64], ...]
    out: Path
    rows: list[GridRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        run = simulated_logits(self.program, TensorStore())
        self.reference = [run(window) for window in self.evaluation]

    def expected(self) -> Logits:
        kept: Iterator[NDArray[np.float32]] = iter(self.reference)
        return lambda tokens: next(kept)

    def measure(
        self,
        title: str,
        bits: float,
        candidate: Program,
        weights: dict[str, torch.Tensor],
        scale: ActivationScale | None = None,
        largest: dict[str, NDArray[np.float64]] | None = None,
    ) -> Quality:
        began = time.monotonic()
        rounding = None if scale is None else make_rounding(scale, largest)
        tried = simulated_logits(candidate, TensorStore(), weights, rounding)
        found = summarize(evaluate(self.evaluation, self.expected(), tried))
        self.rows.append(
            GridRow(
                body=title,
                activations="" if scale is None else f"int8 by {scale.value}",
                stored=RECORD if title.split()[0].rstrip(",") in RECORDS else NOT_PACKED,
                bits=bits,
                mean_kl=found.mean_kl,
                p99_kl=found.p99_kl,
                top1=found.top1_agreement,
                perplexity=found.perplexity,
                tokens=found.tokens,
            )
        )
        write_rows(self.out, self.rows)
        sys.stderr.write(f"{self.rows[-1]} {time.monotonic() - began:.1f} s\n")
        return found

    def statistics(self, program: Program) -> Statistics:
        return calibrate(program, self.calibration, TensorStore())


def windows_of(imported: Imported, path: Path, count: int, length: int) -> tuple[NDArray, ...]:
    chat = imported.chat
    tokenizer = Tokenizer(imported.tokenizer_json, chat["bos_token_id"], chat["add_bos"])
    documents = read_documents(path, ChatSettings.from_json(chat))
    bos = chat["bos_token_id"] if chat["add_bos"] else None
    encode = partial(tokenizer.encode, begin=False)
    return pack_documents(documents, encode, CalibrationOptions(count, length), bos).windows


def body_bits(program: Program, of: Callable[[tuple[int, ...]], float]) -> float:
    shapes = [program.tensors[name].shape for name in body_names(program)]
    total = sum(n * k for n, k in shapes)
    return sum(of(shape) * shape[0] * shape[1] for shape in shapes) / total


def format_rows(bench: Bench) -> None:
    """Formats of record, without and with statistics, as they are and rotated."""
    for dtype in FORMATS:
        encoding = Encoding(dtype)
        quantizer, bits = encoding_quantizer(encoding), encoding_bits(bench.program, encoding)
        alike = simulated_weights(bench.program, quantizer)
        bench.measure(f"{dtype.name.lower()}, all inputs alike", bits, bench.program, alike)
        variants = {
            "weighted": bench.program,
            "weighted + R2": rotate_values(bench.program),
            "weighted + R1 R2": rotate_values(rotate_residual(bench.program)),
        }
        for title, candidate in variants.items():
            weights = simulated_weights(candidate, quantizer, bench.statistics(candidate))
            bench.measure(f"{dtype.name.lower()}, {title}", bits, candidate, weights)


def encoding_bits(program: Program, encoding: Encoding) -> float:
    return body_bits(
        program, lambda shape: 8 * stored_bytes(shape, encoding) / (shape[0] * shape[1])
    )


def search_rows(bench: Bench) -> None:
    """AWQ's searches, under the quantizer that is then used."""
    windows = bench.calibration[:SEARCH_WINDOWS]
    for name in ("int4_symmetric_g128", "int3_symmetric_g32"):
        grid = simulated_grids()[name]
        quantizer = data_free(grid.function)
        bits = body_bits(bench.program, lambda shape, grid=grid: grid.bits(*shape))
        scaled = scale(bench.program, windows, quantizer)
        bench.measure(f"{name} + AWQ scales", bits, scaled, simulated_weights(scaled, quantizer))
        clipped = clip_weights(scaled, windows, quantizer, group=128 if "128" in name else 32)
        weights = simulated_weights(clipped, quantizer)
        bench.measure(f"{name} + AWQ scales, clips", bits, clipped, weights)
    for dtype in FORMATS:
        encoding = Encoding(dtype)
        quantizer, bits = encoding_quantizer(encoding), encoding_bits(bench.program, encoding)
        scaled = scale(bench.program, windows, quantizer)
        weights = simulated_weights(scaled, quantizer, bench.statistics(scaled))
        bench.measure(f"{dtype.name.lower()}, weighted + AWQ scales", bits, scaled, weights)


def scale(program: Program, windows: tuple[NDArray, ...], quantizer: Quantizer) -> Program:
    return scale_for_activations(program, windows, quantizer)[0]


def grid_rows(bench: Bench) -> None:
    grids = simulated_grids()
    rotated = rotate_values(rotate_residual(bench.program))
    for name in DATA_FREE:
        grid = grids[name]
        quantizer = data_free(grid.function)
        bits = body_bits(bench.program, lambda shape, grid=grid: grid.bits(*shape))
        variants = {"": bench.program, " + R1 R2": rotated}
        for title, program in variants.items():
            if title and name not in ROTATED:
                continue
            bench.measure(
                f"{name}{title}",
                bits,
                program,
                simulated_weights(program, quantizer),
            )


def activation_rows(bench: Bench) -> None:
    grid = simulated_grids()["int8_symmetric_row"]
    bits = body_bits(bench.program, lambda shape: grid.bits(*shape))
    before = bench.statistics(bench.program)
    rotated = rotate_values(rotate_residual(bench.program))
    candidates = {
        "W8A8": bench.program,
        "W8A8 smoothed 0.5": smooth(bench.program, before, 0.5),
        "W8A8 smoothed 0.8": smooth(bench.program, before, 0.8),
        "W8A8 smoothed 0.5, norms only": smooth(bench.program, before, 0.5, norms_only=True),
        "W8A8 R1 R2": rotated,
    }
    for title, program in candidates.items():
        largest = dict(bench.statistics(program).max_abs)
        weights = simulated_weights(program, data_free(grid.function))
        for kind in ActivationScale:
            bench.measure(title, bits, program, weights, kind, largest)


PARTS: dict[str, Callable[[Bench], None]] = {
    "formats": format_rows,
    "grids": grid_rows,
    "activations": activation_rows,
    "searches": search_rows,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--parts", default="grids,activations,formats", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=GRIDS)
    given = parser.parse_args()
    imported = import_checkpoint(given.model)
    bench = Bench(
        imported.program,
        windows_of(imported, given.calibrate, 2 * given.windows, given.length),
        windows_of(imported, given.evaluate, given.windows, given.length),
        given.out,
    )
    for part in given.parts.split(","):
        PARTS[part](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
