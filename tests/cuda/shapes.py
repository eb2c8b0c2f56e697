# SPDX-License-Identifier: Apache-2.0
"""The linear kernels at the kernel harness's depths, token and tile counts, lists and data.

Every depth meets every token count in every format; tiles, lists and data are drawn. On a machine
with a GPU `--library` names the installed backend, and the kernels run there.

Example:
    python tests/cuda/shapes.py
    python tests/cuda/shapes.py --library .venv/lib/python3.11/site-packages/ingot/libingot_cuda.so
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime"), str(ROOT / "compressor")]

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from ingot.container import Container  # noqa: E402
from ingot.format import Dtype, Epilogue, Layout, LinearParameters, Opcode, Rows  # noqa: E402
from ingot.packing import Quantized, superblock_count  # noqa: E402
from ingot.reference import linear, linear_error_bound, prepare  # noqa: E402
from tests.cuda import backend_driver  # noqa: E402
from tests.cuda.emulation.build import BACKEND, DRIVER, build_emulation  # noqa: E402
from tests.cuda.linear_program import FORMATS  # noqa: E402
from tests.runtime.random_weights import make  # noqa: E402
from tests.runtime.small_program import ProgramBuilder  # noqa: E402

HARNESS = ROOT / "tests" / "native" / "kernel_harness_linear.c"
K8_FORMATS = [(Dtype.Q8, 32), (Dtype.Q4, 64), (Dtype.C4, 32)]
DATA = ("random", "random", "extreme", "zero", "special")
LISTS = ("dense", "dense", "dense", "all", "none", "even", "last", "random")
VOCABULARY = 20
SPECIAL = np.array([0, 2**-24, -(2**-24), 2**-14, 65504, -65504, 1], np.float16)
F32 = NDArray[np.float32]


def harness_list(name: str) -> list[int]:
    """Return one of the harness's lists of numbers."""
    found = re.search(rf"{name}\[\] = \{{([\d, ]+)\}}", HARNESS.read_text(encoding="utf-8"))
    assert found is not None, f"{HARNESS} has no list {name}"
    return [int(word) for word in found.group(1).split(",")]


def special_weight(weight: Quantized, data: str, rng: np.random.Generator) -> Quantized:
    """Return the weight with data at the ends of its ranges."""
    if data == "random":
        return weight
    if data == "zero":
        return replace(weight, codes=np.zeros_like(weight.codes))
    if data == "extreme":
        codes = weight.codes
        ends = (codes.min(), codes.max()) if codes.size else (0, 0)
        return replace(
            weight, codes=np.where(rng.random(codes.shape) < 0.5, *ends).astype(codes.dtype)
        )
    fields = {}
    for name in ("scales", "row_scales"):
        values = getattr(weight, name)
        if values.size:
            fields[name] = rng.choice(SPECIAL, values.shape).astype(values.dtype)
    return replace(weight, **fields)


def present_of(kind: str, tiles: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which superblocks of each tile are stored; nothing for a dense weight."""
    whole = np.ones((tiles, count), np.bool_)
    if kind == "dense":
        return np.zeros((0, 0), np.bool_)
    if kind == "none":
        return ~whole
    if kind == "even":
        whole[:, 1::2] = False
    elif kind == "last":
        whole[:, :-1] = False
    elif kind == "random":
        return rng.random((tiles, count)) < 0.5
    return whole


class Shapes:
    """A program with a linear of each depth in one format."""

    def __init__(self, dtype: Dtype, group: int, layout: Layout, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = ProgramBuilder(context=1024, chunk=max(harness_list("token_counts")))
        self.weights: dict[str, tuple[Quantized, int]] = {}
        self.dtype, self.group, self.layout = dtype, group, layout
        self.b.tokens("ids")
        for k in harness_list("depths"):
            self._depth(k)

    def _weight(self, n: int, k: int) -> Quantized:
        weight = make(self.dtype, self.group, n, k, int(self.rng.integers(1 << 30)), self.layout)
        weight = special_weight(weight, str(self.rng.choice(DATA)), self.rng)
        count = superblock_count(self.dtype, k, self.group)
        present = present_of(str(self.rng.choice(LISTS)), -(-n // 16), count, self.rng)
        if not present.size:
            return weight
        # A sparse weight has zeros where it stores nothing, as its packing demands.
        return replace(weight, present=present)

    def _depth(self, k: int) -> None:
        table = self.b.weight(f"t{k}", make(Dtype.Q8, 32, VOCABULARY, k))
        x = self.b.op(Opcode.EMBED, ("ids", table), (self.b.activation(f"x{k}", k),))
        n = (
            16 * int(self.rng.choice(harness_list("tile_counts")))
            - int(self.rng.integers(0, 2)) * 5
        )
        weight = self._weight(n, k)
        out = self.b.activation(f"y{k}", n)
        name = self.b.weight(f"w{k}", weight)
        self.b.op(Opcode.LINEAR, (x, name), (out,), LinearParameters(1, Epilogue.NONE))
        self.weights[out] = (weight, k)

    def write(self, path: Path) -> Path:
        first = harness_list("depths")[0]
        head = self.b.weight("head", make(Dtype.Q8, 32, VOCABULARY, first))
        last = self.b.activation("last", first, Rows.SELECTED)
        logits = self.b.activation("logits", VOCABULARY, Rows.SELECTED)
        self.b.op(Opcode.SELECT_LAST, (f"x{first}",), (last,))
        parameters = LinearParameters(1, Epilogue.NONE)
        output = self.b.op(Opcode.LINEAR, (last, head), (logits,), parameters)
        return self.b.write(path, "ids", output, VOCABULARY)


def stored(weight: Quantized, container: Container, name: str) -> Quantized:
    """Return the weight as it is in the file."""
    from ingot.packing import unpack_record

    return unpack_record(container, container.tensor_id(name))


def compare(
    table: backend_driver.Table, shapes: Shapes, path: Path, label: str
) -> tuple[int, list[str]]:
    """Run every linear for every token count; return the cases and what was wrong."""
    container = Container(path)
    model = backend_driver.Model(table, container, path)
    chunk = max(harness_list("token_counts"))
    session = backend_driver.Session(model, capacity=64, chunk=chunk)
    cases, wrong = 0, []
    for index in range(1, 2 * len(shapes.weights), 2):
        (out,), (x, _) = container.outputs(index), container.inputs(index)
        name = container.names[out]
        weight, k = shapes.weights[name]
        prepared = prepare(stored(weight, container, f"w{k}"))
        rows = shapes.rng.normal(size=(chunk, k)).astype(np.float32)
        rows[chunk // 2] = np.where(shapes.rng.random(k) < 0.5, 1, -1) * np.float32(1e4)
        expected, bound = linear(rows, prepared), linear_error_bound(rows, prepared)
        session.write(x, rows)
        for m in harness_list("token_counts"):
            start = int(shapes.rng.integers(0, chunk - m + 1)) if m < chunk else 0
            session.write(x, rows[start : start + m])
            session.run([0] * m, 0, first=index, count=1)
            error = np.abs(session.read(out, m).astype(np.float64) - expected[start : start + m])
            cases += 1
            if not (error <= bound[start : start + m]).all():
                wrong.append(
                    f"{label}: k {k}, n {weight.shape[0]}, m {m}, sparse {weight.present.size > 0}"
                )
    session.close()
    model.close()
    return cases, wrong


def main(argv: list[str] | None = None) -> int:
    """Exit with 1 if a case is outside of its bound."""
    parser = argparse.ArgumentParser(description="Linear kernels of the CUDA backend, many shapes")
    parser.add_argument("--library", type=Path, help="libingot_cuda.so on a machine with a GPU")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    library = arguments.library
    if library is None:
        folder = build_emulation(ROOT / "build" / "cuda-emulation")
        os.environ["INGOT_CUDA_DRIVER"] = str(folder / DRIVER)
        library = folder / BACKEND
    table = backend_driver.load(library)
    plans = [(dtype, group, Layout.T16) for dtype, group in FORMATS]
    plans += [(dtype, group, Layout.T16_K8) for dtype, group in K8_FORMATS]
    cases, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder_name:
        for number, (dtype, group, layout) in enumerate(plans):
            label = f"{dtype.name.lower()} group {group} {layout.name.lower()}"
            shapes = Shapes(dtype, group, layout, arguments.seed + number)
            path = shapes.write(Path(folder_name) / f"{number}.ingot")
            count, lines = compare(table, shapes, path, label)
            cases, wrong = cases + count, wrong + lines
    print("\n".join(wrong[:20]))
    print(f"{cases} cases, {len(wrong)} outside of their bounds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
