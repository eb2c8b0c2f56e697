# SPDX-License-Identifier: Apache-2.0
"""Names of kernel files follow a grammar, kernels.def lists them, C file names are unique."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

FORMATS = ("kv8", "k8v4", "q8", "q6", "c5", "q4", "q4z", "c4", "c3", "c2", "t2", "f16", "f32")
ACTIVATIONS = ("a8", "f16", "f32")
ISAS = ("ref", "avx2", "avxvnni", "avx512vnni", "neon", "neon_dotprod", "neon_i8mm", "sve2")
STEM = re.compile(
    rf"(?P<op>[a-z][a-z_]*?)_(?P<format>{'|'.join(FORMATS)})_(?P<activations>{'|'.join(ACTIVATIONS)})"
    rf"(?P<gemm>_gemm)?__(?P<isa>{'|'.join(ISAS)})"
)
ROW = re.compile(r"^X\((\w+), (\w+), (\w+), (\w+), (\w+)\)$", re.MULTILINE)


class Row(NamedTuple):
    symbol: str
    op: str
    dtype: str
    isa: str
    stem: str


def complaint(path: Path) -> str:
    """Say what is wrong with a C file below native/kernels, "" if nothing is."""
    match = STEM.fullmatch(path.stem)
    parts = path.parts[:-1]
    if len(parts) < 2:
        return f"{path}: a kernel outside of <op>/<format>/" if "__" in path.stem else ""
    if path.stem.startswith("pack_"):
        return ""
    if match is None:
        return f"{path}: expected <op>_<format>_<activations>[_gemm]__<isa>.c"
    if parts != (match["op"], match["format"]):
        return f"{path}: belongs into {match['op']}/{match['format']}/"
    return ""


def kernel_sources(repo_root: Path) -> list[Path]:
    folder = repo_root / "native" / "kernels"
    return sorted(path.relative_to(folder) for path in folder.rglob("*.c"))


def listed_rows(repo_root: Path) -> list[Row]:
    text = (repo_root / "native" / "kernels" / "kernels.def").read_text()
    return [Row(*match) for match in ROW.findall(text)]


def row_set_stems(repo_root: Path) -> set[str]:
    """Return the stems of kernels chosen as a set: each family of row_kernels.h on each level."""
    folder = repo_root / "native" / "kernels"
    families = re.findall(r"ingot_(\w+)__##name", (folder / "row_kernels.h").read_text())
    levels = re.findall(r"ROW_SET\(INGOT_ISA_\w+, (\w+)\)", (folder / "row_kernels.c").read_text())
    assert families, "no family in row_kernels.h"
    assert levels, "no level in row_kernels.c"
    return {f"{family}__{level}" for family in families for level in levels}


@pytest.mark.parametrize(
    "name",
    [
        "linear/q4/linear_q4__ref.c",
        "linear/q4/linear_q4_a8_ref.c",
        "linear/q4/linear_q4_a8__sse9.c",
        "linear/q4/linear_q8_a8__ref.c",
        "linear/q4/notes.c",
        "linear/linear_q4_a8__ref.c",
        "linear_q4_a8__ref.c",
    ],
)
def test_grammar_refuses(name: str) -> None:
    assert complaint(Path(name))


@pytest.mark.parametrize(
    "name",
    ["linear/q4z/linear_q4z_a8_gemm__neon_i8mm.c", "rms_norm/f32/rms_norm_f32_f32__ref.c"],
)
def test_grammar_accepts(name: str) -> None:
    assert complaint(Path(name)) == ""


def test_every_kernel_file_follows_the_grammar(repo_root: Path) -> None:
    sources = kernel_sources(repo_root)
    assert sources
    assert [complaint(path) for path in sources if complaint(path)] == []


def test_files_and_lists_name_the_same_kernels(repo_root: Path) -> None:
    files = {path.stem for path in kernel_sources(repo_root) if STEM.fullmatch(path.stem)}
    rows = {row.stem for row in listed_rows(repo_root)}
    listed = rows | row_set_stems(repo_root)
    assert rows
    assert files - listed == set(), "kernels that no list has"
    assert listed - files == set(), "listed kernels without a file"


def test_every_line_of_the_list_is_understood(repo_root: Path) -> None:
    text = (repo_root / "native" / "kernels" / "kernels.def").read_text()
    assert len(re.findall(r"^\s*X\(", text, re.MULTILINE)) == len(listed_rows(repo_root))


def test_columns_of_the_list_agree(repo_root: Path) -> None:
    for row in listed_rows(repo_root):
        match = STEM.fullmatch(row.stem)
        assert match is not None, row
        assert row.symbol == f"ingot_{row.stem}"
        assert row.op == match["op"]
        assert row.dtype == match["format"].upper()
        assert row.isa == match["isa"].upper()


def test_best_first_and_reference_last(repo_root: Path) -> None:
    families: dict[tuple[str, str], list[int]] = {}
    for row in listed_rows(repo_root):
        families.setdefault((row.op, row.dtype), []).append(ISAS.index(row.isa.lower()))
    arm = ISAS.index("neon")
    for family, levels in families.items():
        assert levels[-1] == 0, f"{family}: the reference is not last"
        for same in ([i for i in levels if 0 < i < arm], [i for i in levels if i >= arm]):
            assert same == sorted(same, reverse=True), f"{family}: a weaker level comes first"
        assert len(levels) == len(set(levels)), f"{family}: a level is listed twice"


def test_c_file_names_are_unique(repo_root: Path) -> None:
    native = repo_root / "native"
    names = Counter(path.name for end in ("c", "h") for path in native.rglob(f"*.{end}"))
    assert names
    assert [name for name, count in names.items() if count > 1] == []
