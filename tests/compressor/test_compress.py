# SPDX-License-Identifier: Apache-2.0
"""The whole way from a checkpoint to a certified file, and what is left when it goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.cli import main
from ingot.container import Container
from ingot.errors import IngotError, InvalidArgumentError
from ingot.format import Layout, Role, Section
from ingot_compressor import compress as compress_module
from ingot_compressor import job as job_module
from ingot_compressor.compress import CompressOptions, CompressReport, compress
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.progress import SilentProgress
from ingot_compressor.reporting.tensors import tensor_errors
from tests.compressor.tiny_models import LLAMA, write_checkpoint

BALANCED = Path(__file__).parents[2] / "compressor/ingot_compressor/recipes/balanced.toml"
WORDS = "the lamp was lit and nobody in the house had seen who had done it before the rain "


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", LLAMA, deviation=0.1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for index, name in enumerate(("calibration", "evaluation")):
        (folder / f"{name}.txt").write_text(f"{index} {WORDS}" * 30, encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in ("calibration", "evaluation")}


def recipe(folder: Path, **changes: object) -> str:
    """Write a variant of the balanced recipe and return its path."""
    text = BALANCED.read_text(encoding="utf-8")
    text = text.replace("_tokens = 16384", "_tokens = 1024")
    for key, value in changes.items():
        lines = [f"{key} = {value}" if x.startswith(f"{key} =") else x for x in text.splitlines()]
        text = "\n".join(lines)
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def run(checkpoint: Path, out: Path, *options: str) -> int:
    return main(
        ["compress", str(checkpoint), "--out", str(out), "--quiet", "--threads", "1", *options]
    )


def make(
    checkpoint: Path, texts: dict[str, Path], folder: Path, preset: str, **options: Any
) -> CompressReport:
    """Compress into folder/out/x.ingot."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    settings = CompressOptions(checkpoint, out / "x.ingot", preset=preset, **texts, **options)
    return compress(settings)


def section(path: Path, kind: Section) -> Any:
    with Container(path) as container:
        container.verify()
        return json.loads(bytes(container.section(kind)) or b"null")


def test_a_passing_file_carries_its_certificate(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    report = make(checkpoint, texts, tmp_path, recipe(tmp_path, mean_kl=2, p99_kl=20))
    path = Path(report.file)
    assert [item.name for item in path.parent.iterdir()] == ["x.ingot"]
    assert report.verdict == "pass" and report.bytes == path.stat().st_size
    assert report.formats == {"body": "c4", "head": "q8", "embedding": "q8"}
    certificate = section(path, Section.CERTIFICATE)
    assert certificate["verdict"] == "pass" and certificate["quality"] == report.quality
    assert report.quality is not None and 0 < report.quality["mean_kl"] < 2
    assert certificate["quality"]["window"] == 64 and certificate["quality"]["windows"] == 16
    with Container(path) as container:
        digests = {s.kind: bytes(s.sha256).hex() for s in container.sections}
    for kind in (Section.TENSORS, Section.PROGRAM, Section.WEIGHTS):
        assert certificate["sections"][kind.name.lower()] == digests[kind]
    assert certificate["calibration"]["tokens"] == certificate["evaluation"]["tokens"] == 1024
    assert certificate["sizes"]["bits_per_weight_body"] == report.bits_per_weight_body
    assert certificate["isa"] and certificate["versions"]["torch"]
    assert len(section(path, Section.VECTORS)["prompts"]) == 3
    meta = section(path, Section.META)
    assert meta["target"] == "host" and meta["formats"] == report.formats


def test_eval_measures_what_the_certificate_says(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = recipe(tmp_path, mean_kl=2, p99_kl=20, evaluation_tokens=100000)
    report = make(checkpoint, texts, tmp_path, preset)
    arguments = ["eval", report.file, "--against", str(checkpoint)]
    arguments += ["--text", str(texts["evaluation"]), "--json", "--quiet"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert report.quality is not None
    # the last short window is scored here and left out there
    assert found["mean_kl"] == pytest.approx(report.quality["mean_kl"], rel=0.05)
    assert main([*arguments, "--max-tokens", "128", "--window", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 64
    assert main([*arguments, "--window", "65"]) == 1
    assert "longer than the context 64" in capsys.readouterr().err
    assert main([*arguments, "--max-tokens", "20"]) == 1
    assert "give a longer text" in capsys.readouterr().err


def test_a_failing_file_needs_permission(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    strict = recipe(tmp_path, mean_kl=1e-6)
    with pytest.raises(IngotError, match=r"fails the gate .*mean_kl .* above the limit 1e-06"):
        make(checkpoint, texts, tmp_path, strict)
    assert list((tmp_path / "out").iterdir()) == []
    report = make(checkpoint, texts, tmp_path, strict, allow_failing=True)
    assert report.verdict == "fail" and report.warnings
    assert section(Path(report.file), Section.CERTIFICATE)["verdict"] == "fail"


def test_too_few_windows_are_inconclusive_and_written(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    report = make(checkpoint, texts, tmp_path, recipe(tmp_path, least_windows=17))
    assert report.verdict == "inconclusive" and "16 windows" in report.warnings[-1]
    assert section(Path(report.file), Section.CERTIFICATE)["verdict"] == "inconclusive"


def test_a_draft_is_ungated_and_measures_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_module, "measure_file", None)
    report = make(checkpoint, {}, tmp_path, "draft")
    assert report.verdict == "ungated" and report.quality is None
    certificate = section(Path(report.file), Section.CERTIFICATE)
    assert certificate["verdict"] == "ungated" and certificate["quality"] is None
    assert certificate["calibration"] is None


def test_without_texts_it_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "bundled_text", lambda purpose: None)
    report = make(checkpoint, {}, tmp_path, "balanced")
    assert report.verdict == "ungated"
    assert [x for x in report.warnings if "--calibration TEXT" in x]
    assert [x for x in report.warnings if "--evaluate TEXT" in x]


def test_no_certificate_leaves_the_section_out(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    given = {"calibration": texts["calibration"]}
    report = make(checkpoint, given, tmp_path, recipe(tmp_path), certificate=False)
    assert section(Path(report.file), Section.CERTIFICATE) is None


def test_a_budget_mixes_formats(checkpoint: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "wide", {**LLAMA, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    )
    report = make(folder, texts, tmp_path, recipe(tmp_path, mean_kl=9, p99_kl=90), bpw=6.0)
    assert 5.0 < report.bits_per_weight_body <= 6.0
    assert "q6" in report.formats["body"] and "+" in report.formats["body"]
    with pytest.raises(InvalidArgumentError, match=r"--bpw 2\.000 is below"):
        make(folder, texts, tmp_path, recipe(tmp_path), bpw=2.0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.ingot"]


def test_a_layout_and_a_share_of_superblocks(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    preset = recipe(tmp_path, mean_kl=99, p99_kl=999)
    plain = make(checkpoint, texts, tmp_path, preset)
    k8 = make(checkpoint, texts, tmp_path, preset, layout="t16_k8")
    assert k8.quality == plain.quality and _layouts(k8) >= {Layout.T16_K8}
    thin = make(checkpoint, texts, tmp_path, preset, sparsity=0.5, allow_failing=True)
    assert thin.bits_per_weight_body < plain.bits_per_weight_body
    wrong: list[dict[str, Any]] = [{"layout": "t8"}, {"sparsity": 1.0}]
    for options in wrong:
        with pytest.raises(InvalidArgumentError, match=r"--layout is t8|--sparsity is 1"):
            make(checkpoint, texts, tmp_path, preset, **options)


def _layouts(report: CompressReport) -> set[int]:
    with Container(Path(report.file)) as container:
        return {record.layout for record in container.tensors}


def test_one_text_cannot_serve_both_purposes(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    same = {"calibration": texts["evaluation"], "evaluation": texts["evaluation"]}
    with pytest.raises(InvalidArgumentError, match="the same text"):
        make(checkpoint, same, tmp_path, "balanced")


def test_json_report_has_the_contract_keys(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, tmp_path / "x.ingot", "--preset", "draft", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {"bits_per_weight_body", "bits_per_weight_total", "bytes", "verdict"} <= set(report)
    assert report["bytes"] == os.stat(tmp_path / "x.ingot").st_size


def test_report_shows_each_weight(checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    assert run(checkpoint, tmp_path / "x.ingot", "--preset", "draft", "--report", str(page)) == 0
    with Container(tmp_path / "x.ingot") as container:
        weights = [
            name
            for name, tensor in zip(container.names, container.tensors, strict=True)
            if tensor.role == Role.WEIGHT
        ]
    text = page.read_text(encoding="utf-8")
    assert len(weights) > 10 and all(f"<td>{name}</td>" in text for name in weights)
    errors = list(tensor_errors(fuse(import_checkpoint(checkpoint).program), tmp_path / "x.ingot"))
    assert all(18 < e.decibels < 24 for e in errors if e.format == "c4")
    assert all(40 < e.decibels < 50 for e in errors if e.format == "q8")


def test_stages_reach_their_totals(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    reached: dict[str, tuple[int, int]] = {}

    class Recorder(SilentProgress):
        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Any]:
            yield lambda done: reached.__setitem__(name, (done, total))

    preset = recipe(tmp_path, mean_kl=2, p99_kl=20)
    compress(CompressOptions(checkpoint, tmp_path / "x.ingot", preset=preset, **texts), Recorder())
    assert {"Importing", "Calibrating", "Quantizing", "Measuring"} <= set(reached)
    assert all(done == total > 0 for done, total in reached.values())


def test_lantern_in_c4_is_within_five_percent_of_its_reference(
    repo_root: Path, tmp_path: Path
) -> None:
    preset = recipe(tmp_path, calibration_tokens=4096, evaluation_tokens=6144)
    source = repo_root / "examples" / "models" / "lantern"
    options = CompressOptions(source, tmp_path / "l.ingot", preset=preset, threads=2)
    report = compress(options)  # the bundled texts: no data has to be given for a verdict
    assert report.quality is not None and report.verdict == "pass"
    assert report.formats["body"] == "c4" and report.bits_per_weight_body < 4.4
    assert report.quality["perplexity"] < 1.05 * report.quality["reference_perplexity"]
    assert report.quality["mean_kl"] < 0.01 and report.quality["top1_agreement"] > 0.9


@pytest.mark.parametrize(
    "options",
    [("--format", "c5"), ("--format", "c4", "--layout", "t16_k8"), ("--sparsity", "0.2")],
    ids=["c5", "t16_k8", "sparse"],
)
def test_report_reads_every_way_to_store(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    report = tmp_path / "x.html"
    out = tmp_path / "x.ingot"
    status = run(checkpoint, out, "--preset", "draft", *options, "--report", str(report))
    assert status == 0
    program = fuse(import_checkpoint(checkpoint).program)
    errors = {e.name: e.decibels for e in tensor_errors(program, out)}
    # a wrong table, layout or list of superblocks gives noise: about 0 dB
    limit = 2.0 if "--sparsity" in options else 12.0
    assert all(decibels > limit for decibels in errors.values()), errors
