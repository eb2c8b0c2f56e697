# SPDX-License-Identifier: Apache-2.0
"""Every op and format on emulated CUDA threads against the reference, within computed bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.container import Container
from ingot.format import Dtype, Layout, RopeStyle
from ingot.reference import ReferenceSession
from tests.cuda.conftest import Open
from tests.cuda.linear_program import FORMATS, linear_program
from tests.cuda.operations import failures
from tests.runtime.small_program import every_op

# A token, a few, a full column tile, a prompt, and a token behind it all.
PASSES = [[3], [5, 7], [9, 1, 4], [2, 8, 8, 1, 0, 3, 11, 30], list(range(10, 27)), [4]]


def check(open_session: Open, path: Path, passes: list[list[int]], kv: str = "f16") -> list[str]:
    session = open_session(path, kv=kv, rows=2, chunk=32, capacity=64)
    assert all(session.model.takes)
    return failures(session, ReferenceSession(Container(path), kv=kv), passes)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("dtype", "group"), FORMATS, ids=lambda value: str(value))
def test_linear_and_embed(
    open_session: Open, tmp_path: Path, dtype: Dtype, group: int, sparse: bool
) -> None:
    path = linear_program(tmp_path / "x.ingot", dtype, group, sparse)
    # Sparse weights have nothing of their own but the way to a block: one kernel of each kind.
    passes = [[3], [9, 1, 4], list(range(10, 27))] if sparse else PASSES
    assert not check(open_session, path, passes)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("dtype", "group"), [(Dtype.Q8, 32), (Dtype.Q4, 64), (Dtype.C4, 32)])
def test_the_layout_for_i8mm(
    open_session: Open, tmp_path: Path, dtype: Dtype, group: int, sparse: bool
) -> None:
    path = linear_program(tmp_path / "x.ingot", dtype, group, sparse, Layout.T16_K8)
    assert not check(open_session, path, [[3], [9, 1, 4], list(range(10, 27))])


# What stands in formats.cuh, few.cu and prompt.cu: by format, and by sparsity.
PLANTS = [
    ("7", Dtype.Q6, 32, False),  # a pair of bits twice
    ("8", Dtype.C5, 32, False),  # the fifth bit
    ("9", Dtype.C3, 32, False),  # the last triple's upper bit
    ("10", Dtype.C2, 32, False),  # a quad twice
    ("10", Dtype.T2, 0, False),
    ("11", Dtype.C4, 32, False),  # the shift
    ("12", Dtype.Q4Z, 32, False),  # the zero of another row
    ("13", Dtype.Q8, 32, False),  # a short superblock is skipped
    ("14", Dtype.Q4, 64, False),  # the scales of the first group for all
    ("15", Dtype.C4, 32, True),  # the list of a sparse tile
    ("16", Dtype.Q8, 32, False),  # a token
    ("17", Dtype.Q8, 32, False),  # a column
]


@pytest.mark.parametrize(("plant", "dtype", "group", "sparse"), PLANTS)
def test_planted_faults_of_formats_are_seen(
    open_session: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: str,
    dtype: Dtype,
    group: int,
    sparse: bool,
) -> None:
    path = linear_program(tmp_path / "x.ingot", dtype, group, sparse)
    monkeypatch.setenv("INGOT_PLANT", plant)
    found = check(open_session, path, [[3], [2, 8, 8, 1, 0, 3, 11, 30], list(range(10, 27))])
    assert any("linear" in line for line in found)


@pytest.mark.parametrize(
    ("style", "window", "sinks"),
    [(RopeStyle.HALF_SPLIT, 0, 0), (RopeStyle.INTERLEAVED, 5, 0), (RopeStyle.HALF_SPLIT, 6, 2)],
)
def test_every_op(
    open_session: Open, tmp_path: Path, style: RopeStyle, window: int, sinks: int
) -> None:
    path = every_op(tmp_path / "x.ingot", Dtype.Q8, 32, style=style, window=window, sinks=sinks)
    assert not check(open_session, path, PASSES)


@pytest.mark.parametrize("plant", ["1", "2", "3", "4", "5"])
def test_planted_faults_are_seen(
    open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    """1 nibbles, 2 the second row's scale, 3 the wait for a copy, 4 a sine's sign, 5 the window."""
    path = every_op(tmp_path / "x.ingot", Dtype.Q4, 32, window=5)
    monkeypatch.setenv("INGOT_PLANT", plant)
    found = failures(
        open_session(path, kv="f16", rows=2, chunk=32, capacity=64),
        ReferenceSession(Container(path)),
        PASSES,
    )
    expected = {"1": "linear", "2": "linear", "3": "linear", "4": "rope", "5": "attention"}[plant]
    assert any(expected in line for line in found)


def test_the_order_of_threads_changes_nothing(
    open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = every_op(tmp_path / "x.ingot", Dtype.C4, 32)
    results = []
    for order in ("forwards", "backwards"):
        monkeypatch.setenv("INGOT_EMULATION_ORDER", order)
        session = open_session(path, kv="kv8", rows=2, chunk=32, capacity=64)
        bits = b""
        for tokens in PASSES:
            session.run(tokens)
            session.position += len(tokens)
            bits += session.read(session.model.record.output, 1).tobytes()
        results.append(bits + session.state_read(0))
    assert results[0] == results[1]
