# SPDX-License-Identifier: Apache-2.0
"""The canary: a library with a wrong kernel is linked, caught, reported and done without."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot import Model
from ingot._native import native
from ingot.canary import LEVELS, check, fingerprint, known, settle
from ingot.cli import main
from ingot.container import Container, replace_sections
from ingot.environment import cache_path, read_cache, write_cache
from ingot.errors import CanaryError
from ingot.format import Section

# The first output of every call is off; the rest of the library is as it was.
WRONG = """
#include "kernels/linear/linear.h"
void __real_{name}(const ingot_linear_args *args);
void __wrap_{name}(const ingot_linear_args *args);
void __wrap_{name}(const ingot_linear_args *args) {{
    __real_{name}(args);
    if (args->m {tokens}) args->out[0] = 3.0f * args->out[0] + 1.0f;
}}
"""
SCRIPT = """
import json, logging, sys
logging.basicConfig(format="%(message)s")
from ingot import Model
with Model(sys.argv[1]) as model, model.session(threads=1) as session:
    tokens = session.generate([1, 2, 3, 4], max_tokens=8).token_ids
    print(json.dumps([model.trust().to_json(), tokens]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("INGOT_CACHE_DIR", str(folder))
    monkeypatch.delenv("INGOT_CANARY", raising=False)
    return folder


def levels() -> list[str]:
    """Vector levels of this CPU, best first."""
    features = int(native().lib.ingot_cpu_features())
    return [LEVELS[bit] for bit in sorted(LEVELS, reverse=True) if bit & features and bit > 1]


@pytest.fixture
def planted(native_build: Path, repo_root: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that links a library whose kernel of one level is wrong."""

    def link(level: str, tokens: str) -> Path:
        folder = tmp_path / f"native-{level}"
        folder.mkdir()
        name = f"ingot_linear_c4_a8__{level}"
        source = folder / "wrong.c"
        source.write_text(WRONG.format(name=name, tokens=tokens))
        parts = ("ingot_kernels.dir", "ingot_core.dir")
        objects = [
            str(path)
            for part in parts
            for path in (native_build / "CMakeFiles" / part).rglob("*.o")
        ]
        include = [f"-I{repo_root / 'native'}", f"-I{repo_root / 'native/include'}"]
        out = ["-o", str(folder / "libingot.so"), f"-Wl,--wrap={name}", "-lm", "-lpthread"]
        command = ["cc", "-shared", "-fPIC", "-O1", *include, str(source), *objects, *out]
        subprocess.run(command, check=True)
        shutil.copy(native_build / "_ingot_ffi.py", folder)
        return folder

    return link


def run(folder: Path, file: Path) -> tuple[dict[str, Any], list[int], str]:
    environment = {**os.environ, "INGOT_NATIVE_DIR": str(folder)}
    command = [sys.executable, "-c", SCRIPT, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report, tokens = json.loads(done.stdout)
    return report, tokens, done.stderr


@pytest.mark.parametrize("tokens", [">= 1", "== 1"])
def test_a_wrong_kernel_is_caught_reported_and_replaced(
    planted: Callable[[str, str], Path], lantern_ingot: Path, tokens: str
) -> None:
    if not levels():
        pytest.skip("this CPU has no level but ref")
    best = levels()[0]
    rest = [*levels()[1:], "ref"]
    folder = planted(best, tokens)
    report, found, said = run(folder, lantern_ingot)
    assert report["verdict"] == "replaced" and not report["cached"]
    wrong = {r["level"]: r["problems"] for r in report["results"]}
    assert [level for level, problems in wrong.items() if problems] == [best]
    assert LEVELS[1 << report["mask"].bit_length() - 1] == rest[0]
    assert f"{best} is wrong" in said and f"{rest[0]} is used instead" in said
    with Model(lantern_ingot, canary=False) as model, model.session(threads=1) as session:
        assert session.generate([1, 2, 3, 4], max_tokens=8).token_ids == tuple(found)
    again, same, said = run(folder, lantern_ingot)
    assert again["cached"] and same == found and f"{best} is wrong" in said


def test_every_level_is_run_once_and_kept(
    lantern_ingot: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Model(lantern_ingot) as model:
        with caplog.at_level(logging.WARNING):
            report = model.trust()
        assert report is not None and not caplog.records
        assert [result.level for result in report.results] == [*levels(), "ref"]
        assert (report.verdict, report.cached) == ("passed", False)
        assert report.mask == native().lib.ingot_cpu_mask()
        assert model.trust() is report
    with Model(lantern_ingot) as model:
        again = model.trust()
        assert again is not None and again.cached and again.results == report.results


def test_a_kept_outcome_is_not_believed(lantern_ingot: Path) -> None:
    with Model(lantern_ingot) as model:
        key = fingerprint(model)
        good = {"verdict": "passed", "mask": 1, "results": []}
        write_cache("canary", key, good)
        assert known(model, key) is not None and known(model, key + "x") is None
        result = {"backend": "cpu", "level": "ref"}
        for change in (
            {"verdict": "fine"},
            {"mask": 0},
            {"mask": 1 | 1 << 20},
            {"mask": True},
            {"results": [result]},
            {"results": 7},
        ):
            write_cache("canary", key, {**good, **change})
            assert known(model, key) is None
        Path(cache_path("canary", key) or "").write_text("[1")
        assert known(model, key) is None


def test_the_fingerprint_names_file_library_and_driver(
    lantern_ingot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.ingot"
    with Container(lantern_ingot) as container:
        meta = bytes(container.section(Section.META))
    replace_sections(lantern_ingot, other, {Section.META: meta + b" "})
    with Model(lantern_ingot) as model, Model(other) as changed:
        keys = {fingerprint(model), fingerprint(changed)}
        library = tmp_path / "libingot.so"
        library.write_bytes(Path(model.native.path).read_bytes() + b"x")
        with monkeypatch.context() as patch:
            patch.setattr(model.native, "path", str(library))
            keys.add(fingerprint(model))
        release = os.uname()
        with monkeypatch.context() as patch:
            newer = os.uname_result((*release[:2], "9.9", *release[3:]))
            patch.setattr(os, "uname", lambda: newer)
            keys.add(fingerprint(model))
        assert fingerprint(model) in keys
    assert len(keys) == 4


def test_wrong_vectors_are_no_kernels_fault(lantern_ingot: Path, tmp_path: Path) -> None:
    with Container(lantern_ingot) as container:
        vectors = container.json(Section.VECTORS)
    vectors["prompts"][0]["top_logits"][0] += 1.0
    wrong = tmp_path / "wrong.ingot"
    replace_sections(lantern_ingot, wrong, {Section.VECTORS: json.dumps(vectors).encode()})
    with Model(wrong) as model:
        with pytest.raises(CanaryError, match=r"no kernel level .*ingot verify"):
            model.session()
        assert read_cache("canary", fingerprint(model)) is None
    assert main(["doctor", str(wrong), "--run-canary"]) == 1


def test_a_file_without_vectors_is_used_unchecked(lantern_ingot: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.ingot"
    replace_sections(lantern_ingot, bare, {Section.VECTORS: b""})
    with Model(bare) as model:
        report = settle(model)
        assert report.verdict == "unchecked" and "no vectors" in report.describe()
        assert report.mask == native().lib.ingot_cpu_mask()


def test_it_can_be_turned_off(lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(lantern_ingot, canary=False) as model:
        assert model.trust() is None
        assert check(model).verdict == "passed"
    monkeypatch.setenv("INGOT_CANARY", "0")
    with Model(lantern_ingot) as model:
        assert model.trust() is None
