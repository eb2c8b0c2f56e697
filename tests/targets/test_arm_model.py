# SPDX-License-Identifier: Apache-2.0
"""The model of our ARM loops: what it takes for a loop, what it says without its tools."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

Leave = Callable[[str, str], NoReturn]
ASSEMBLY = """
panel_1:
	movi	v0.4s, 0
.L2:
	ldr	x4, [x0], 8
	cbz	x4, .L2
.L3:
	ldp	q1, q2, [x1], 32
	sdot	v0.4s, v1.16b, v2.16b
	sdot	v3.4s, v1.16b, v2.16b
	subs	x2, x2, 1
	b.eq	.L3
	add	x1, x1, 64
	b	.L3
.L4:
	smull	v0.8h, v1.8b, v2.8b
	cbnz	x3, .L4
	ret
	.size	panel_1, .-panel_1
"""


def load(repo_root: Path, name: str) -> ModuleType:
    """Import a script of tests/benchmarks."""
    path = repo_root / "tests" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(repo_root: Path) -> ModuleType:
    return load(repo_root, "arm_model")


@pytest.fixture(scope="module")
def counts(repo_root: Path) -> ModuleType:
    return load(repo_root, "arm_counts")


@pytest.fixture(scope="module")
def report(repo_root: Path) -> ModuleType:
    return load(repo_root, "arm_report")


def test_loop_is_the_one_that_multiplies_most(model: ModuleType) -> None:
    """Up to the last branch back, two of them counted as one loop."""
    loop = model.find_loop(ASSEMBLY, "panel_1")
    assert (loop.instructions, loop.products) == (7, 32)


def test_function_that_is_not_there_is_named(model: ModuleType) -> None:
    with pytest.raises(model.ModelError, match="panel_9"):
        model.find_loop(ASSEMBLY, "panel_9")
    with pytest.raises(model.ModelError, match="multiplies"):
        model.find_loop("f:\n.L1:\n\tadd\tx0, x0, 1\n\tb.ne\t.L1\n\t.size f, 4\n", "f")


def test_missing_tool_is_named(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert model.main(["--formats", "q4"]) == 2
    assert "none of clang-19, clang is installed" in capsys.readouterr().err


def test_prompts_are_modelled_by_the_first_loop_that_there_is(model: ModuleType) -> None:
    assert model.PHASES["prefill"] == ("gemm_8", "gemm_4")
    assert model.defines("x:\ngemm_4:\n", "gemm_4")
    assert not model.defines("gemm_48:\n bl gemm_4\n", "gemm_4")


def test_recorded_counts_of_the_peer_are_judged(counts: ModuleType, tmp_path: Path) -> None:
    """Ours of an earlier record are left out, those of llama.cpp are taken."""
    record = tmp_path / "counts.json"
    rows = [("q4", 1, 1), ("q4_0", 40, 20), ("q4_k_m", 100, 90)]
    named = [{"name": n, "decode": d, "prefill": p, "source": "counted"} for n, d, p in rows]
    record.write_text(json.dumps({"instructions": named}), encoding="utf-8")
    peers = counts.recorded_peers(record)
    assert [line.name for line in peers] == ["q4_0", "q4_k_m"]
    ours = [counts.Line("q4", 30, 15, "counted"), counts.Line("c4", 45, 16, "counted")]
    bars = {bar.what: (bar.ratio, bar.kept) for bar in counts.judge([*ours, *peers])}
    assert bars["decode q4 / Q4_0"] == (0.75, True)
    assert bars["decode c4 / Q4_0"] == (1.125, False)
    assert bars["prefill q4 / Q4_0"] == (0.75, False)


@pytest.mark.parametrize("text", ["", "[]", '{"instructions": [{"name": "q4_0"}]}'])
def test_what_is_no_record_is_refused(counts: ModuleType, tmp_path: Path, text: str) -> None:
    record = tmp_path / "counts.json"
    record.write_text(text, encoding="utf-8")
    with pytest.raises(counts.LabError, match=r"counts\.json"):
        counts.recorded_peers(record)


def test_slower_than_the_figure_is_a_failure(model: ModuleType) -> None:
    figures = {"format": "q4", "level": "neon", "phase": "decode", "core": "x", "instructions": 0.2}
    assert model.Result(cycles=0.0886, figure=0.088, judged=True, **figures).slower
    assert not model.Result(cycles=0.0884, figure=0.088, judged=True, **figures).slower
    assert not model.Result(cycles=0.2, figure=0.088, judged=False, **figures).slower


def test_q4_is_no_slower_than_the_prototype(model: ModuleType, skip_or_fail: Leave) -> None:
    """The loop that the bars of ARM decoding stand on, on the cores of boards."""
    for tool in ("clang-19", "llvm-mca-19"):
        if shutil.which(tool) is None:
            skip_or_fail("arm", f"{tool} is not installed")
    if not model.SYSROOT.is_dir():
        skip_or_fail("arm", f"{model.SYSROOT} is not there (libc6-dev-arm64-cross)")
    settings = model.tomllib.loads(model.SETTINGS.read_text(encoding="utf-8"))
    settings["levels"] = {"neon": ["cortex-a53"], "neon_dotprod": ["cortex-a55", "neoverse-n1"]}
    results = model.measure(settings, "clang", ["q4"])
    judged = [one for one in results if one.judged]
    assert [one.core for one in judged] == ["cortex-a53", "cortex-a55", "neoverse-n1"]
    assert [one for one in judged if one.slower] == []


def test_section_of_the_readme_is_replaced(report: ModuleType) -> None:
    text = "a\n<!-- arm: begin -->\nold\n<!-- arm: end -->\nz\n"
    assert report.replace_section(text, ["new"]) == text.replace("old", "new")
    with pytest.raises(ValueError, match="arm: begin"):
        report.replace_section("a\n", ["new"])


def test_missed_figure_is_bold(report: ModuleType) -> None:
    row = {"format": "q4", "level": "neon", "phase": "decode", "core": "cortex-a57"}
    row |= {"cycles": 0.2, "figure": 0.1, "judged": True, "slower": True}
    assert report.write_model([row])[-1] == "| `q4` neon, decode | **0.200** / 0.100 |"
