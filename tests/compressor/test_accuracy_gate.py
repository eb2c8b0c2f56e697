# SPDX-License-Identifier: Apache-2.0
"""`ingot eval` with items: the gate tells a damaged file from a good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.cli import main
from ingot.container import Container
from ingot.format import Section
from ingot_compressor.compress import CompressOptions
from ingot_compressor.compress import compress as compress_checkpoint
from ingot_compressor.evaluation.comparison import EvalOptions, compare_with_checkpoint
from ingot_compressor.evaluation.verdict import Verdict
from ingot_compressor.progress import SilentProgress
from tests.conftest import compress

LANTERN = Path(__file__).parents[2] / "examples/models/lantern"
PAIRS = Path(__file__).with_name("data") / "pairs.jsonl"
# The divergence lets all pass: accuracy alone decides.
RECIPE = """
name = "accuracy"
description = "whatever the divergence"
[formats]
body = "target"
head = "target"
embedding = "target"
q4_group = 32
[method]
search = false
calibrate = false
calibration_tokens = 0
evaluation_tokens = 4096
[gate]
mean_kl = 100
p99_kl = 1000
confidence = 0.95
least_windows = 8
recovery = {level}
"""


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lantern(repo_root: Path) -> Path:
    return repo_root / "examples" / "models" / "lantern"


@pytest.fixture(scope="module")
def damaged_ingot(lantern: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return lantern with the columns of every down projection in the wrong order."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(lantern, folder / "source")
    weights = load_file(lantern / "model.safetensors")
    for name in [name for name in weights if name.endswith("down_proj.weight")]:
        weights[name] = weights[name].flip(1).contiguous()
    save_file(weights, folder / "source" / "model.safetensors", metadata={"format": "pt"})
    return compress(folder / "source", folder / "damaged.ingot", "--preset", "draft")


def recipe(folder: Path, level: float) -> Path:
    path = folder / "accuracy.toml"
    path.write_text(RECIPE.format(level=level), encoding="utf-8")
    return path


def evaluate(lantern: Path, file: Path, *options: str) -> int:
    arguments = ["eval", str(file), "--against", str(lantern), "--max-tokens", "4096", "--quiet"]
    return main([*arguments, *options])


def test_the_gate_tells_a_damaged_file_from_a_good_one(
    lantern: Path,
    lantern_ingot: Path,
    damaged_ingot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--tasks", str(PAIRS), "--gate", str(recipe(tmp_path, 0.9)), "--json")
    assert evaluate(lantern, lantern_ingot, *options) == 0
    good: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert good["verdict"] == "pass"
    assert evaluate(lantern, damaged_ingot, *options) == 1
    damaged: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert damaged["verdict"] == "fail" and damaged["reason"].startswith("recovery 0.")
    assert damaged["reason"].endswith("is below the level 0.9")
    # the same items, in pairs
    tasks, answers = damaged["tasks"], damaged["answers"]
    assert list(tasks) == ["pairs", "pooled"] and len(answers) == tasks["pooled"]["items"] == 40
    assert [one["reference"] for one in answers] == [one["reference"] for one in good["answers"]]
    lost = sum(one["reference"] and not one["candidate"] for one in answers)
    assert lost == tasks["pairs"]["only_reference"] > 10
    assert tasks["pairs"]["reference_accuracy"] > 0.9 > 0.7 > tasks["pairs"]["accuracy"]
    # forty items are too few for a level so near to what the file keeps
    close = ("--tasks", str(PAIRS), "--gate", str(recipe(tmp_path, 0.99)), "--json")
    assert evaluate(lantern, lantern_ingot, *close) == 0
    undecided = json.loads(capsys.readouterr().out)
    assert undecided["verdict"] == "inconclusive" and "items would decide" in undecided["reason"]


def test_tables_show_everything_that_was_measured(
    lantern: Path, lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.jsonl"
    lines = [
        {"kind": "choice", "query": "He went to the", "choices": [" door", " the of"], "gold": 0},
        {"kind": "last_word", "context": "He could not help", "continuation": " laughing"},
        {"kind": "generate", "prompt": "He went to", "max_tokens": 4, "json": True, "answer": "x"},
    ]
    mine.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    options = ["--tasks", str(PAIRS), str(mine), "--max-items", "12", "--layers"]
    options += ["--gate", str(recipe(tmp_path, 0.5)), "--stride", "128", "--window", "256"]
    assert evaluate(lantern, lantern_ingot, *options) == 0
    shown = capsys.readouterr().out
    # 4096 tokens, all but the first 32; the last window is cut short
    for part in ("4064 tokens in 31 windows", "99.9 % KL", "top-5 agreement", "layer 5"):
        assert part in shown, part
    rows = [line.split("│")[1:-1] for line in shown.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert (cells["pairs"][0], cells["mine"][0], cells["pooled"][0]) == ("12", "2", "14")
    assert (cells["valid JSON"], cells["exact match"]) == (["0.0000"], ["0.0000"])
    assert "verdict" in shown and "recovery" in shown.rpartition("verdict")[2]


def test_wrong_options_are_refused(
    lantern: Path, lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"kind": "pair", "good": "a"}', encoding="utf-8")
    for options, message in (
        (("--tasks", str(bad)), "bad.jsonl:1: no 'bad'"),
        (("--max-items", "0"), "--max-items is 0, expected at least 1"),
        (("--stride", "500"), "expected 1 to 480"),
        (("--gate", "nothing"), "unknown preset 'nothing'"),
    ):
        assert evaluate(lantern, lantern_ingot, *options) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_minimal_pairs_tell_two_bits_from_four(
    lantern: Path, shared_dir: Path, lantern_ingot: Path, tmp_path: Path
) -> None:
    """Rounding to three levels costs a tenth of what BLiMP measures, four bits next to nothing."""
    path = shared_dir / "data" / "blimp_dev.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} in 'shared'")
    worse = compress(
        lantern, tmp_path / "t2.ingot", "--preset", "draft", "--format", "t2", "--allow-failing"
    )
    gate = str(recipe(tmp_path, 0.95))
    verdicts = []
    for file in (lantern_ingot, worse):
        options = EvalOptions(
            file, lantern, max_tokens=4096, tasks=(f"blimp={path}",), max_items=2000, gate=gate
        )
        judgement = compare_with_checkpoint(options, SilentProgress()).judgement
        assert judgement is not None
        verdicts.append(judgement.verdict)
    assert verdicts == [Verdict.PASS, Verdict.FAIL]


def test_compress_judges_the_items_that_it_is_given(tmp_path: Path) -> None:
    """Forty easy pairs do not decide whether 99 % is reached: the file is written, and says so."""
    recipe, out = tmp_path / "strict.toml", tmp_path / "x.ingot"
    recipe.write_text(RECIPE.format(level=0.99), encoding="utf-8")
    options = CompressOptions(
        LANTERN, out, preset=str(recipe), body_format="c4", tasks=(str(PAIRS),), threads=1
    )
    texts = tmp_path / "texts.jsonl"
    line = {"kind": "generate", "prompt": "He went to", "max_tokens": 4, "answer": "no such thing"}
    texts.write_text(json.dumps(line), encoding="utf-8")
    options = replace(options, tasks=(str(PAIRS), str(texts)))
    report = compress_checkpoint(options)
    assert report.verdict == "inconclusive" and "items would decide, 40 were given" in report.reason
    with Container(out) as file:
        certificate = json.loads(bytes(file.section(Section.CERTIFICATE)))
    assert certificate["accuracy"]["pooled"]["items"] == 40
    generation = certificate["generation"]
    assert (generation["items"], generation["exact_match"]) == (1, 0.0)
    assert generation["mean_tokens"] == 4
    assert [limit["name"] for limit in certificate["limits"]] == ["mean_kl", "p99_kl", "recovery"]
