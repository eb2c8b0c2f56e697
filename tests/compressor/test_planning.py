# SPDX-License-Identifier: Apache-2.0
"""`ingot plan`: what it says before a compression is what the file then has."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main
from ingot.container import Container
from ingot.errors import IngotError, InvalidArgumentError
from ingot.format import TENSOR_ALIGNMENT, Dtype, Section
from ingot.prediction import WEIGHT_TIME_SHARE
from ingot.targets import Target, load_target
from ingot_compressor.compress import CompressOptions, compress
from ingot_compressor.planning import PlanOptions, PlanTable, make_plan, plan_chart, read_subject
from ingot_compressor.planning import table as table_module
from ingot_compressor.progress import SilentProgress
from tests.compressor.tiny_models import LLAMA, QWEN2, write_checkpoint

LARGE = {
    **LLAMA,
    **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    **{"max_position_embeddings": 131072, "tie_word_embeddings": True},
}
ONE = "rpi5"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a model of a billion weights, alone in its folder."""
    path = tmp_path_factory.mktemp("large") / "large-1b.json"
    path.write_text(json.dumps(LARGE), encoding="utf-8")
    return path


def planned(source: Path, **options: Any) -> PlanTable:
    return make_plan(PlanOptions(source, **{"target": ONE, **options}), SilentProgress())


@pytest.fixture(scope="module")
def table(large: Path) -> PlanTable:
    return planned(large)


def test_every_preset_and_format_has_a_row(table: PlanTable) -> None:
    presets = [preset for row in table.rows for preset in row.presets]
    assert sorted(presets) == ["balanced", "draft", "full", "quality", "tiny"]
    assert {row.body for row in table.rows} == {
        *("f16", "q8", "q6", "c5", "q4", "q4z", "c4", "c3", "c2", "t2")
    }
    by_body = {row.body: row for row in table.rows}
    assert by_body["c4"].presets == ("draft", "balanced", "quality", "full")
    assert by_body["c3"].presets == ("tiny",)
    assert table.rows[0].body == load_target(ONE).defaults.body_format


def test_figures_of_a_row_by_hand(table: PlanTable) -> None:
    row = next(one for one in table.rows if one.body == "q4")
    body = 16 * (2048 * (2048 + 512 + 512 + 2048) + 3 * 2048 * 8192)
    head = 128256 * 2048
    reads = body * 4.5 / 8 + head * 8.5 / 8
    assert row.decode == pytest.approx(WEIGHT_TIME_SHARE * 11.4e9 / reads, rel=1e-3)
    keys = 16 * 2 * 8 * (64 + 2)
    seconds = 1 / row.decode + keys * 4096 / 11.4e9
    assert row.decode_at_context == pytest.approx(1 / seconds, rel=1e-6)
    assert row.bits_per_weight == pytest.approx(8 * reads / (body + head), rel=1e-3)
    assert row.file_bytes == pytest.approx(reads, rel=0.02)
    assert row.prefill is not None and row.first_token_seconds is not None
    head_seconds = head * 8.5 / 8 / 11.4e9 / WEIGHT_TIME_SHARE
    assert row.first_token_seconds == pytest.approx(128 / row.prefill + head_seconds, rel=1e-3)
    (short, small), (context, most) = row.ram[0], row.ram[-1]
    assert (short, context) == (512, 4096) and row.fits and row.largest_context == 4096
    assert most - small == 16 * 2 * 8 * 64 * 2 * (4096 - 512)
    assert small > row.file_bytes - 100_000


def test_what_does_not_fit_says_which_context_would(large: Path) -> None:
    found = planned(large, target="zero2w", context=65536)
    assert not any(row.fits for row in found.rows)
    assert {row.largest_context for row in found.rows} == {0}
    assert [row.largest_context for row in planned(large, target="rpi5").rows] == [4096] * 10
    target = load_target("rpi3")
    close = planned(large, target="rpi3", context=65536)
    candidates = read_subject(large, target, "rpi3", 65536).candidates
    some = 0
    for row, one in zip(close.rows, candidates, strict=True):
        assert not row.fits
        for context in {row.largest_context, row.largest_context + 64} - {0}:
            peak = replace(one.memory, context=context).peaks(one.weight_bytes)[-1].peak_bytes
            assert (peak <= target.memory.usable_bytes) == (context == row.largest_context)
        some += row.largest_context > 0
    assert some


def test_a_plan_is_what_the_file_then_has(tmp_path: Path) -> None:
    """Weights, memory at every context and speed are those of the file that compress makes."""
    sizes = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
    source = write_checkpoint(tmp_path / "tiny", {**QWEN2, **sizes})
    out = tmp_path / "tiny.ingot"
    compress(CompressOptions(source, out, target=ONE, preset="draft", certificate=False))
    before = next(row for row in planned(source).rows if "draft" in row.presets)
    subject = read_subject(source, load_target(ONE), ONE, None)
    with Container(out) as container:
        weights = len(container.section(Section.WEIGHTS))
        peaks = tuple((one.context, one.peak_bytes) for one in container.peaks)
        size, reads = container.size, container.plan.weight_bytes_per_token
    candidate = next(one for one in subject.candidates if "draft" in one.presets)
    # the plan rounds the last tensor up as well
    assert 0 <= candidate.weight_bytes - weights < TENSOR_ALIGNMENT
    extra = candidate.weight_bytes - weights
    assert before.ram == tuple((context, size + extra) for context, size in peaks)
    assert size <= before.file_bytes <= size + 80_000
    (after,) = planned(out).rows
    assert after.ram == peaks and after.file_bytes == size
    assert (after.body, after.head) == (before.body, before.head)
    assert after.decode == pytest.approx(before.decode, rel=1e-6)
    assert after.decode_at_context == pytest.approx(before.decode_at_context, rel=1e-6)
    assert after.first_token_seconds == pytest.approx(before.first_token_seconds, rel=1e-6)
    # the header counts no padding, which is little but in a model of this size
    assert after.decode == pytest.approx(WEIGHT_TIME_SHARE * 11.4e9 / reads, rel=0.04)


def test_a_folder_needs_no_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny", LLAMA)
    whole = planned(source)
    for path in source.glob("*.safetensors"):
        path.unlink()
    assert planned(source).rows == whole.rows and not any(
        "without it" in note for note in whole.notes
    )
    (source / "tokenizer.json").unlink()
    assert any("without it" in note for note in planned(source).notes)


def test_the_host_is_measured(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Dtype, int]] = []
    sizes: dict[Dtype, int] = {}

    def measured(
        target: Target, formats: list[Dtype], threads: int, size: int
    ) -> dict[Dtype, float]:
        asked.append((target.name, formats[0], threads))
        sizes[formats[0]] = size
        return {formats[0]: 1e9 if formats[0] is Dtype.Q8 else 2e9}

    monkeypatch.setattr(table_module, "decode_rates", measured)
    row = next(one for one in planned(large, target="host", threads=3).rows if one.body == "q4")
    body, head = 973_078_528 * 4.5 / 8, 128256 * 2048 * 8.5 / 8
    assert row.decode == pytest.approx(WEIGHT_TIME_SHARE / (body / 2e9 + head / 1e9), rel=1e-3)
    assert ("host", Dtype.C4, 3) in asked and len(asked) == 10
    assert sizes[Dtype.Q4] == pytest.approx(body + head, rel=1e-3)
    assert sizes[Dtype.F16] == pytest.approx(973_078_528 * 2 + head, rel=1e-3)


def test_notes_say_what_the_profile_knows(large: Path, table: PlanTable) -> None:
    assert "recommended formats on rpi5: c4, q4, c3" in table.notes
    assert any(note.startswith("heat: firmware lowers") for note in table.notes)
    phone = planned(large, target="snapdragon-8gen3")
    assert any("hot speed is about 90% of these figures" in note for note in phone.notes)


def test_what_is_refused(tmp_path: Path, large: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="never take vulkan on rpi5: VideoCore"):
        planned(large, backend="vulkan")
    with pytest.raises(InvalidArgumentError, match="--prompt is 0"):
        planned(large, prompt=0)
    with pytest.raises(IngotError, match="longer than the 131072 positions"):
        planned(large, context=200000)
    bad = tmp_path / "bad.json"
    bad.write_text("[]", encoding="utf-8")
    with pytest.raises(IngotError, match="expected a JSON object"):
        planned(bad)


def test_chart_shows_every_row(table: PlanTable) -> None:
    root = ElementTree.fromstring(plan_chart(table))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    texts = [one.text or "" for one in root.iter(f"{space}text")]
    tips = [one.text or "" for one in root.iter(f"{space}title")]
    for row in table.rows:
        assert texts.count(f"{row.body}/{row.head}") == 2
        assert any(tip.startswith(f"{row.body}/{row.head}: {row.decode:.3g} ") for tip in tips)
    assert any(text.startswith("usable, 6013 MB") for text in texts)


def test_the_command(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(large), "--target", ONE, "--plot"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("large-1b on rpi5, cpu: Raspberry Pi 5")
    assert "plot: large-1b-rpi5.svg" in out and (tmp_path / "large-1b-rpi5.svg").stat().st_size
    assert "decode: median error" in out and "draft, balanced, quality" in out
    plot = tmp_path / "own.svg"
    assert main(["plan", str(large), "--target", ONE, "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plot"] == str(plot) and plot.exists()
    assert found["errors"]["decode"]["own"] is True and len(found["rows"]) == 10
    assert main(["plan", str(large), "--target", ONE, "--plot", str(tmp_path)]) == 1
    assert "ingot: error:" in capsys.readouterr().err
    assert main(["plan", str(large), "--target", ONE, "--backend", "npu"]) == 1
    assert "has no backend npu; it has cpu" in capsys.readouterr().err
