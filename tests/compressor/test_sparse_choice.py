# SPDX-License-Identifier: Apache-2.0
"""A sparse compression is set beside dense ones of its size, and refused where these are better."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.cli import main
from ingot.errors import IngotError
from ingot.format import Section
from ingot_compressor.job import prepare_job
from ingot_compressor.progress import SilentProgress
from ingot_compressor.sparse_choice import dense_jobs
from tests.compressor.html_page import Page
from tests.compressor.recipes.recipe_cases import (
    GATE,
    WORDS,
    made,
    section,
    settings,
)
from tests.compressor.tiny_models import LLAMA, write_checkpoint

SHAPE = {
    **LLAMA,
    **{"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 1},
}


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for index, name in enumerate(("calibration", "evaluation")):
        lines = [f"{index} {number} {WORDS[(number + index) % 3]}" for number in range(40)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in ("calibration", "evaluation")}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("full") / "tiny", SHAPE, deviation=0.1)


@pytest.fixture(scope="module")
def half_empty(full: Path) -> Path:
    """Return a checkpoint whose layers read one half of their inputs: superblocks of zeros."""
    folder = full.parent / "half"
    folder.mkdir()
    for file in full.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for file in full.glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            if "layers." in name and weight.ndim == 2:
                weight[:, weight.shape[1] // 2 :] = 0
        save_file(weights, folder / file.name, metadata={"format": "pt"})
    return folder


def test_a_sparse_file_that_dense_ones_beat_is_refused(
    full: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(IngotError, match=r"q8 without 30% .* is not worth it: KL .* dense files"):
        made(full, texts, tmp_path, GATE, body="q8", sparsity=0.3)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["recipe.toml"]
    page = tmp_path / "x.html"
    options = {"sparsity": 0.3, "allow_failing": True, "report": page}
    report = made(full, texts, tmp_path, GATE, body="q8", **options)
    (row,) = report.hybrid
    assert not row["chosen"] and row["dense_kl"] < row["mean_kl"]
    assert report.quality is not None
    assert row["net_bits"] == report.bits_per_weight_body < 0.85 * 8.5
    assert row["mean_kl"] == pytest.approx(report.quality["mean_kl"])
    assert section(report.file, Section.CERTIFICATE)["hybrid"] == [row]
    assert any("is not worth it" in warning for warning in report.warnings)
    # the page shows the same row
    cells = Page(page.read_text(encoding="utf-8")).texts["td"]
    assert cells[cells.index(row["name"]) + 1] == str(row["stored_bytes"])
    figures = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert figures["hybrid"] == [row]


def test_a_sparse_file_that_beats_dense_ones_is_written(
    half_empty: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(half_empty, texts, tmp_path, GATE, body="q8")
    arguments = ["compress", str(half_empty), "--out", str(given.out), "--preset", given.preset]
    arguments += ["--calibration", str(texts["calibration"]), "--threads", "1", "--quiet"]
    arguments += ["--evaluate", str(texts["evaluation"]), "--sparsity", "0.5"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "q8 without 50% of its superblocks" in shown and "better than dense files" in shown
    (row,) = section(str(given.out), Section.CERTIFICATE)["hybrid"]
    assert row["chosen"] and row["mean_kl"] < 0.1 * row["dense_kl"]


def test_neighbours_are_the_dense_formats_around_a_size(
    full: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    def names(weight_bytes: int, **options: Any) -> list[str]:
        given = settings(full, texts, tmp_path, GATE, body="q8", sparsity=0.3, **options)
        jobs = dense_jobs(prepare_job(given, SilentProgress()), weight_bytes)
        assert all(one.job.choices.body.sparsity == 0 for one in jobs)
        assert all(one.job.options.sparsity == 0 for one in jobs)
        return [one.name for one in jobs]

    # head and table in q8, and 163,840 weights between: 4.13 bits for q4, 4.4 for c4
    tables, body = 2 * 304 * 128 * 34 // 32, 4 * 128 * 128 + 3 * 128 * 256
    assert names(tables + int(body * 4.25 / 8)) == ["q4", "c4"]
    assert names(0) == ["c2"] and names(10**9) == ["q8"]
    assert names(0, max_bytes=10**6) == ["c2", "mix"]
