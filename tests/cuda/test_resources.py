# SPDX-License-Identifier: Apache-2.0
"""What the kernels use of a multiprocessor: native/cuda/resources.csv, made by compile.py."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from native.cuda import compile as cuda_compile

KERNEL = re.compile(r"^KERNEL\((\w+),", re.MULTILINE)
SHARED_LIMIT = 48 * 1024  # what a block gets without asking


@pytest.fixture
def table(repo_root: Path) -> Path:
    return repo_root / "native" / "cuda" / "resources.csv"


def rows_of(table: Path) -> list[dict[str, str]]:
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    return list(csv.DictReader(lines[1:]))


def test_the_table_is_of_these_sources(table: Path) -> None:
    """Renewed by: python native/cuda/compile.py --resources native/cuda/resources.csv."""
    assert table.read_text(encoding="utf-8").splitlines()[0].endswith(cuda_compile.sources_digest())


def test_no_kernel_spills(table: Path) -> None:
    rows = rows_of(table)
    assert len(rows) > 100
    assert not [row for row in rows if row["spilled_bytes"] != "0"]
    assert all(int(row["registers"]) <= 255 for row in rows)
    assert all(int(row["shared_bytes"]) <= SHARED_LIMIT for row in rows)


def test_every_kernel_is_listed_for_every_cubin(table: Path, repo_root: Path) -> None:
    listed = {(row["kernel"], row["target"]) for row in rows_of(table)}
    named = set()
    for source in (repo_root / "native/cuda/kernels").glob("*.cu"):
        named |= {name for name in KERNEL.findall(source.read_text()) if "##" not in name}
    assert len(named) > 10
    for target in cuda_compile.CUBINS:
        assert {(name, target) for name in named} <= listed
        for formats in ("gemv", "few", "embed"):
            assert {(f"{formats}_{name}", target) for name in ("q4", "c4", "t2", "f16")} <= listed


def test_a_log_is_read() -> None:
    log = """ptxas info    : Compiling entry function 'one' for 'sm_87'
ptxas info    : Function properties for one
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_87'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 380 bytes cmem[0]
"""
    compiled = cuda_compile.Compiled("x", "sm_87", b"", log)
    assert cuda_compile.resource_rows([compiled]) == [
        ("one", "sm_87", "40", "20", "16", "512"),
        ("two", "sm_87", "12", "0", "0", "0"),
    ]
    with pytest.raises(cuda_compile.CompileError):
        broken = log.replace("Used 40 registers", "")
        cuda_compile.resource_rows([cuda_compile.Compiled("x", "sm_87", b"", broken)])
