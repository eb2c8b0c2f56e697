# SPDX-License-Identifier: Apache-2.0
"""The native library against the NumPy reference, kernel by kernel and op by op."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import Model
from ingot._native import Native, native
from ingot.container import Container
from ingot.format import Dtype, Role, RopeStyle, Rows
from ingot.packing import Quantized, dequantize, pack
from ingot.reference import (
    ReferenceSession,
    check_conformance,
    check_operations,
    conformance,
    linear,
    linear_error_bound,
    prepare,
)
from tests.runtime.small_program import every_op, random_weight

F32 = NDArray[np.float32]
FORMATS = [
    (Dtype.F16, 0),
    (Dtype.Q8, 32),
    (Dtype.Q4, 32),
    (Dtype.Q4, 64),
    (Dtype.Q4, 128),
    (Dtype.C4, 32),
]
TOKENS = [7, 3, 3, 49, 0, 12, 21, 5, 5, 18]


def name_of(value: Any) -> str:
    return value.name.lower() if isinstance(value, Dtype) else str(value)


def kernels_of(library: Native, dtype: Dtype) -> Iterator[tuple[int, str]]:
    """Yield index and name of each linear kernel of a format that this CPU runs."""
    for index in range(library.lib.ingot_kernel_count()):
        info = library.struct("ingot_kernel_info")
        library.check(library.lib.ingot_kernel_info_get(index, info))
        name = library.text(info.name)
        if info.available and name.startswith(f"linear_{dtype.name.lower()}_"):
            yield index, name


def run_kernel(library: Native, index: int, weight: Quantized, x: F32) -> F32:
    """Run one kernel over all tiles; the padded rows of its output are dropped."""
    n, k = weight.shape
    packed = pack(weight)
    buffer = np.zeros(packed.size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    buffer[start : start + packed.size] = packed
    tiles = -(-n // 16)
    out = np.zeros((x.shape[0], 16 * tiles), np.float32)
    call = library.struct("ingot_linear_call")
    call.dtype, call.k, call.group, call.m = int(weight.dtype), k, weight.group, x.shape[0]
    call.tile_begin, call.tile_end, call.delta = 0, tiles, weight.delta
    for j, entry in enumerate(weight.codebook.tolist()):
        call.codebook[j] = entry
    call.weights = library.ffi.cast("uint8_t *", buffer.ctypes.data + start)
    call.weights_size = packed.size
    call.x = library.ffi.cast("float *", x.ctypes.data)
    call.out = library.ffi.cast("float *", out.ctypes.data)
    library.check(library.lib.ingot_kernel_run(index, call))
    return out[:, :n]


@pytest.mark.parametrize(("dtype", "group"), FORMATS, ids=name_of)
def test_every_linear_kernel_is_within_the_bound(dtype: Dtype, group: int) -> None:
    rng = np.random.default_rng(int(dtype) + group)
    library = native()
    names = []
    for index, name in kernels_of(library, dtype):
        names.append(name)
        for n, k, m in ((16, 128, 1), (37, 384, 5), (48, 896, 3)):
            weight = random_weight(rng, dtype, group, n, k)
            x = rng.normal(size=(m, k)).astype(np.float32)
            found = run_kernel(library, index, weight, x)
            prepared = prepare(weight)
            bound = linear_error_bound(x, prepared)
            assert (np.abs(found.astype(np.float64) - linear(x, prepared)) <= bound).all(), name
    assert any(name.endswith("__ref") for name in names)


@pytest.fixture(params=FORMATS, ids=lambda f: f"{name_of(f[0])}-{f[1]}")
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    style = RopeStyle.INTERLEAVED if request.param[0] == Dtype.Q8 else RopeStyle.HALF_SPLIT
    return every_op(tmp_path / "model.ingot", *request.param, style=style)


def test_every_op_is_within_its_bound(file: Path) -> None:
    """Each op gets the native library's own inputs, so that errors do not add up."""
    with (
        Container(file) as container,
        Model(file) as model,
        model.session(threads=1, kv="f16") as session,
    ):

        def read(instructions: int, tensor: int) -> F32:
            session.trace(TOKENS, instructions)
            selected = container.tensors[tensor].rows == Rows.SELECTED
            return session.read(tensor, 1 if selected else len(TOKENS))

        checks = check_operations(container, TOKENS, read)
        assert len({check.op for check in checks}) == 12
        assert [check for check in checks if not check.passed] == []
        # The bounds are not far from what happens: some op uses a tenth of its own.
        assert max(check.ratio for check in checks) > 0.1


def test_logits_conform(file: Path) -> None:
    with Container(file) as container:
        vectors = conformance(container, [TOKENS, [1], [2, 4, 6]])
        expected = ReferenceSession(container).eval(TOKENS, len(TOKENS))
    with Model(file) as model, model.session(logits_rows=len(TOKENS), kv="f16") as session:

        def evaluate(tokens: list[int]) -> F32:
            session.reset()
            return session.logits(tokens)

        assert check_conformance(vectors, evaluate) == []
        assert np.abs(evaluate(TOKENS) - expected).max() <= vectors["tolerance"]


def test_dequantized_rows_are_the_same_bits(file: Path) -> None:
    with Container(file) as container, Model(file) as model:
        session = ReferenceSession(container)
        weights = [record for record in container.tensors if record.role == Role.WEIGHT]
        assert len(weights) == 8
        for record in weights:
            expected = dequantize(session.weight(record.id))
            found = model.dequantize(record.id, 1, record.shape[0])
            assert np.array_equal(found, expected[1:])
