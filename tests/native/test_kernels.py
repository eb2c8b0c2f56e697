# SPDX-License-Identifier: Apache-2.0
"""The kernel harness, every linear kernel against NumPy, and the arguments of ingot_kernel_run."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot._native import native
from ingot.format import Dtype, Layout
from tests.native.kernel_oracle import (
    GEOMETRIES,
    Problem,
    aligned,
    make_call,
    make_problem,
    oracle_terms,
    set_scales,
    tile_offsets,
)

X86 = {"ref", "avx2", "avxvnni", "avx512vnni"}
LEVELS = (
    X86
    if platform.machine() in ("x86_64", "AMD64")
    else {"ref", "neon", "neon_dotprod", "neon_i8mm"}
)
INVALID_ARGUMENT, HARDWARE = 1, 60
GROUPS = {Dtype.F16: (0,), Dtype.Q4: (32, 64, 128), Dtype.Q4Z: (32, 64, 128)}
CASES = [(dtype, group) for dtype in GEOMETRIES for group in GROUPS.get(dtype, (32,))]
K8 = (Dtype.Q8, Dtype.Q4, Dtype.C4)


# ---- the harness ----


@pytest.fixture(scope="module")
def harness(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("INGOT_HARNESS")
    if given:
        return Path(given)
    build: Path = request.getfixturevalue("native_build")
    return build / "kernel_harness"


def run_harness(harness: Path, *options: str, force: str = "") -> tuple[int, str]:
    environment = {**os.environ, "INGOT_FORCE_ISA": force}
    done = subprocess.run(
        [harness, *options], capture_output=True, text=True, check=False, env=environment
    )
    return done.returncode, done.stdout + done.stderr


def test_kernels_equal_the_reference(harness: Path) -> None:
    required = set(os.environ.get("INGOT_REQUIRE", "").replace(",", " ").split()) & LEVELS
    code, text = run_harness(harness, "--require", ",".join(sorted(required | {"ref"})))
    assert code == 0, text


def test_planted_faults_are_flagged(harness: Path) -> None:
    code, text = run_harness(harness, "--self-test", "--quick")
    assert code == 0, text


def test_nothing_executed_is_a_failure(harness: Path) -> None:
    code, text = run_harness(harness, "--filter", "no such kernel")
    assert code == 1
    assert "no case was executed" in text


@pytest.mark.parametrize("level", ["neon" if "avx2" in LEVELS else "avx2", "none"])
def test_a_required_level_that_did_not_run_is_a_failure(harness: Path, level: str) -> None:
    code, text = run_harness(harness, "--quick", "--filter", "__ref", "--require", level)
    assert code == 1
    assert f"required level '{level}'" in text


def test_forced_level(harness: Path) -> None:
    code, text = run_harness(harness, "--quick", "--filter", "f16", force="ref")
    assert code == 0, text
    assert "executed: ref\n" in text


@pytest.mark.parametrize("level", ["neon" if "avx2" in LEVELS else "avx2", "sse9"])
def test_a_forced_level_that_is_missing_is_an_error(harness: Path, level: str) -> None:
    code, _ = run_harness(harness, force=level)
    assert code == 1


# ---- against NumPy ----


def run_kernel(index: int, problem: Problem, x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.full((x.shape[0], 16 * len(problem.tiles)), np.nan, np.float32)
    weights, offsets = aligned(problem.packed), tile_offsets(problem)
    call = make_call(problem, x, weights, out, offsets)
    native().check(native().lib.ingot_kernel_run(index, call))
    return out


@dataclass(frozen=True)
class Kernel:
    index: int
    name: str
    available: bool
    selected: bool


def kernels() -> list[Kernel]:
    info, lib = native().struct("ingot_kernel_info"), native().lib
    found = []
    for index in range(lib.ingot_kernel_count()):
        native().check(lib.ingot_kernel_info_get(index, info))
        name = native().text(info.name)
        found.append(Kernel(index, name, bool(info.available), bool(info.selected)))
    return found


def kernels_of(dtype: Dtype) -> list[Kernel]:
    prefix = f"linear_{dtype.name.lower()}_"
    found = [k for k in kernels() if k.name.startswith(prefix) and k.available]
    assert any(k.name.endswith("__ref") for k in found)
    return found


def assert_within_the_bound(problem: Problem, x: NDArray[np.float32]) -> None:
    terms = oracle_terms(problem, x)
    expected, magnitude = terms.sum(axis=2), np.abs(terms).sum(axis=2)
    # Each term: up to two rounded products; each sum: one rounding; the row scale: one.
    bound = magnitude * (terms.shape[2] + 4) * 2.0**-24
    assert bound.max() < 1e-3 * np.abs(expected).max(), "the bound would let anything pass"
    for kernel in kernels_of(problem.dtype):
        difference = np.abs(run_kernel(kernel.index, problem, x) - expected)
        assert (difference <= bound).all(), kernel.name


@pytest.mark.parametrize(("dtype", "group"), CASES)
@pytest.mark.parametrize("k", [32, 96, 320])
@pytest.mark.parametrize("m", [1, 7])
def test_against_numpy_within_the_computed_bound(dtype: Dtype, group: int, k: int, m: int) -> None:
    rng = np.random.default_rng([int(dtype), group, k, m])
    problem = make_problem(rng, dtype, group, k)
    assert_within_the_bound(problem, rng.standard_normal((m, k)).astype(np.float32))


@pytest.mark.parametrize(("dtype", "group"), CASES)
def test_lists_of_superblocks_against_numpy(dtype: Dtype, group: int) -> None:
    rng = np.random.default_rng([int(dtype), group])
    problem = make_problem(rng, dtype, group, 1120, sparse=True)
    assert_within_the_bound(problem, rng.standard_normal((3, 1120)).astype(np.float32))


@pytest.mark.parametrize(("dtype", "group"), [case for case in CASES if case[0] in K8])
@pytest.mark.parametrize("sparse", [False, True])
def test_layout_k8_against_numpy(dtype: Dtype, group: int, sparse: bool) -> None:
    rng = np.random.default_rng([int(dtype), group])
    problem = make_problem(rng, dtype, group, 480, Layout.T16_K8, sparse)
    assert_within_the_bound(problem, rng.standard_normal((5, 480)).astype(np.float32))


@pytest.mark.parametrize(("dtype", "group"), CASES)
def test_integer_part_is_exact(dtype: Dtype, group: int) -> None:
    """With scales of 1 and activations that are integers the result is an integer below 2^24."""
    rng = np.random.default_rng(int(dtype))
    problem = make_problem(rng, dtype, group, 96)
    x = rng.integers(-127, 128, (5, 96)).astype(np.float32)
    set_scales(problem, lambda count, kind: np.ones(count, kind), sub_mask=0x07)
    if dtype == Dtype.F16:
        for tile in problem.tiles:
            tile[:] = rng.integers(-9, 10, tile.size // 2).astype(np.float16).view(np.uint8)
    x[:, ::32] = 127  # so that each a_scale is 1 and a is x
    expected = oracle_terms(problem, x).sum(axis=2)
    assert 1000 < np.abs(expected).max() < 2**24
    for kernel in kernels_of(dtype):
        assert (run_kernel(kernel.index, problem, x) == expected).all(), kernel.name


# ---- arguments and dispatch ----


def valid_call(dtype: Dtype = Dtype.Q8) -> tuple[Any, list[Any]]:
    """Return a call that is right, and what it points to."""
    problem = make_problem(np.random.default_rng(0), dtype, 32, 64)
    x, weights = np.ones((2, 64), np.float32), aligned(problem.packed)
    out = np.zeros((2, 48), np.float32)
    return make_call(problem, x, weights, out), [x, weights, out]


def reference_index(dtype: Dtype) -> int:
    return next(k.index for k in kernels_of(dtype) if k.name.endswith("__ref"))


def test_a_valid_call_is_accepted() -> None:
    call, kept = valid_call()
    assert native().lib.ingot_kernel_run(reference_index(Dtype.Q8), call) == 0
    assert kept


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("struct_size", 8, "struct_size"),
        ("dtype", 3, "dtype is 3"),
        ("k", 0, "k is 0"),
        ("k", 33, "k is 33"),
        ("group", 64, "group is 64"),
        ("m", 0, "m is 0"),
        ("tile_end", 0, "tiles 0 to 0"),
        ("tile_end", 4, "weights have"),
        ("delta", 128, "delta is 128"),
        ("layout", 3, "layout is 3"),
        ("weights_size", 100, "weights have 100"),
        ("x", None, "NULL"),
        ("out", None, "NULL"),
        ("weights", None, "NULL"),
    ],
)
def test_a_wrong_argument_is_refused(field: str, value: int | None, words: str) -> None:
    call, kept = valid_call()
    setattr(call, field, native().ffi.NULL if value is None else value)
    status = native().lib.ingot_kernel_run(reference_index(Dtype.Q8), call)
    assert status == INVALID_ARGUMENT
    assert words in native().text(native().lib.ingot_last_error())
    assert kept


def test_a_wrong_list_is_refused() -> None:
    rng = np.random.default_rng(0)
    problem = make_problem(rng, Dtype.C4, 32, 512, sparse=True)
    weights, offsets = aligned(problem.packed), tile_offsets(problem)
    x, out = np.ones((1, 512), np.float32), np.zeros((1, 48), np.float32)
    call = make_call(problem, x, weights, out, offsets)
    index = reference_index(Dtype.C4)
    assert native().lib.ingot_kernel_run(index, call) == 0
    weights[4:6] = 255  # the first superblock of the first list
    assert native().lib.ingot_kernel_run(index, call) == INVALID_ARGUMENT
    assert "sparse tile 0" in native().text(native().lib.ingot_last_error())


def test_misaligned_weights_are_refused() -> None:
    call, kept = valid_call()
    call.weights = call.weights + 4
    assert native().lib.ingot_kernel_run(reference_index(Dtype.Q8), call) == INVALID_ARGUMENT
    assert kept


def test_unknown_kernel_is_refused() -> None:
    call, kept = valid_call()
    assert native().lib.ingot_kernel_run(len(kernels()), call) == INVALID_ARGUMENT
    assert kept


@pytest.fixture
def mask() -> Iterator[int]:
    before = native().lib.ingot_cpu_mask()
    yield int(before)
    assert native().lib.ingot_cpu_set_mask(before) == 0


def test_each_format_has_one_selected_kernel(mask: int) -> None:
    for dtype in GEOMETRIES:
        assert [k.selected for k in kernels_of(dtype)].count(True) == 1
    assert mask & 1


def test_mask_leaves_the_reference(mask: int) -> None:
    lib = native().lib
    assert lib.ingot_cpu_set_mask(0) == 0
    assert lib.ingot_cpu_mask() == 1
    assert all(k.name.endswith("__ref") for k in kernels() if k.available or k.selected)
    other = next((k for k in kernels() if not k.name.endswith("__ref")), None)
    if other is None:
        pytest.skip("this build has the reference only")
    call, kept = valid_call(Dtype[other.name.split("_")[1].upper()])
    call.group = 0 if call.dtype == int(Dtype.F16) else call.group
    assert lib.ingot_kernel_run(other.index, call) == HARDWARE
    assert kept
    assert mask


def test_mask_of_a_missing_level_is_refused(mask: int) -> None:
    foreign = 16 if "avx2" in LEVELS else 2
    assert native().lib.ingot_cpu_set_mask(foreign) == HARDWARE
    assert native().lib.ingot_cpu_mask() == mask
