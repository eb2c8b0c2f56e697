# SPDX-License-Identifier: Apache-2.0
"""What recipes and the command line do to a model before it is quantized, seen in the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot import Model
from ingot.cli import main
from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Opcode, Section
from ingot.packing import dequantize, unpack_record
from ingot_compressor import draft as draft_module
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.job import prepare_job
from ingot_compressor.passes.distill import DistillSettings, distill
from ingot_compressor.passes.structured import block_influence, least_influential
from ingot_compressor.passes.transform import load_matrix
from ingot_compressor.progress import SilentProgress
from ingot_compressor.training import _teacher
from tests.compressor.recipes.recipe_cases import (
    GATE,
    SHAPE,
    attentions,
    logits,
    made,
    prepared,
    section,
    settings,
)
from tests.compressor.tiny_models import write_checkpoint

# Transforms


@pytest.mark.parametrize(
    "keys",
    [
        'rotate = "both"\nseed = 3',
        "smooth = 0.5",
        "fold_norms = true",
        "activation_aware = true",
        'rotate = "values"\nsmooth = 0.6\nactivation_aware = true',
    ],
    ids=["rotate", "smooth", "fold", "awq", "all"],
)
def test_lossless_transforms_leave_the_logits_of_the_file(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, keys: str
) -> None:
    report = made(checkpoint, texts, tmp_path, f"[transform]\n{keys}\n" + GATE)
    original = import_checkpoint(checkpoint).program
    tokens = np.arange(5, 45)
    expected = logits(original, tokens)
    with Model(Path(report.file)) as model, model.session(logits_rows=40) as session:
        found = session.logits(tokens)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert report.quality is not None and report.quality["mean_kl"] < 1e-4
    assert section(report.file, Section.META).get("removed") is None


@pytest.mark.parametrize(
    ("keys", "changed"),
    [
        ('rotate = "residual"', ("attention.q", "mlp.down", "embed")),
        ('rotate = "values"', ("attention.v", "attention.o")),
        ("smooth = 0.5", ("attention.q", "mlp.gate_up", "mlp.down")),
        ("fold_norms = true", ("attention.q", "mlp.gate_up")),
        ("activation_aware = true", ()),  # which of them is up to the search
        ("clip = true", ("attention.v", "mlp.down")),
    ],
)
def test_each_key_changes_its_weights(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, keys: str, changed: tuple[str, ...]
) -> None:
    job = prepared(checkpoint, texts, tmp_path, f"[transform]\n{keys}\n", body="q4")
    assert job.program is not job.reference
    assert job.lossless is ("clip" not in keys) and job.removed == {}
    names = {tensor.name for tensor in job.reference.weights()}
    assert names == {tensor.name for tensor in job.program.weights()}
    different = set()
    for name in names:
        before, after = (load_matrix(p.tensors[name]) for p in (job.reference, job.program))
        if np.abs(before - after).max() > 1e-3:
            different.add(name.removeprefix("layers.1."))
    assert different and set(changed) <= different
    assert "residual" in keys or "embed" not in different
    assert (different == set(changed) | {f"layers.{i}.{c}" for i in (0, 2) for c in changed}) is (
        keys == 'rotate = "values"'
    )


def test_the_seed_turns_otherwise(checkpoint: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        rest = f'[transform]\nrotate = "residual"\nseed = {seed}\n'
        program = prepared(checkpoint, texts, tmp_path, rest).program
        found.append(load_matrix(program.tensors[program.head()]))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_a_rotation_that_unties_the_head_says_so(
    tied: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    job = prepared(tied, texts, tmp_path, '[transform]\nrotate = "residual"\n')
    assert job.program.head() != job.program.embedding()
    assert any("stored twice" in warning for warning in job.warnings)
    plain = prepared(tied, texts, tmp_path, '[transform]\nrotate = "values"\n')
    assert not any("stored twice" in warning for warning in plain.warnings)


def test_the_order_of_transforms_is_data(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[str] = []

    class Recorder(SilentProgress):
        def stage(self, name: str, total: int) -> Any:
            seen.append(name)
            return super().stage(name, total)

    keys = "[transform]\nsmooth = 0.5\nactivation_aware = true\nclip = true\n"
    stages = {
        "smooth": "Smoothing",
        "activation_aware": "Searching scales",
        "clip": "Searching clips",
    }
    results = []
    for order in (list(stages), ["clip", "smooth", "activation_aware"]):
        seen.clear()
        rest = keys + f"order = {json.dumps(order)}\n"
        job = prepare_job(settings(checkpoint, texts, tmp_path, rest, body="q4"), Recorder())
        assert [name for name in seen if name in stages.values()] == [stages[x] for x in order]
        results.append(load_matrix(job.program.tensors["layers.0.mlp.down"]))
    assert not np.array_equal(*results)


# Parts taken out


def test_a_recipe_declares_a_vocabulary(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """Texts lie beside the recipe; those of the command line come on top."""
    (tmp_path / "words.txt").write_text("abc abc", encoding="utf-8")
    (tmp_path / "more.txt").write_text("xyz", encoding="utf-8")
    rest = '[prune]\nvocabulary = ["words.txt"]\n'
    job = prepared(checkpoint, texts, tmp_path, rest)
    same = prepared(checkpoint, texts, tmp_path, "", trim_vocabulary=(tmp_path / "words.txt",))
    assert 0 < job.removed["vocabulary"]["removed"] == same.removed["vocabulary"]["removed"]
    more = prepared(checkpoint, texts, tmp_path, rest, trim_vocabulary=(tmp_path / "more.txt",))
    assert more.program.vocabulary >= job.program.vocabulary


def test_layers_that_do_least_go(checkpoint: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    report = made(checkpoint, texts, tmp_path, "[prune]\nlayers = 1\n" + GATE)
    job = prepared(checkpoint, texts, tmp_path, "[prune]\nlayers = 1\n")
    assert len(attentions(job.reference)) == 3 and len(attentions(job.program)) == 2
    assert job.calibration is not None
    original = import_checkpoint(checkpoint).program
    windows = job.windows(job.calibration, 1024)
    least = least_influential(block_influence(original, windows, TensorStore()), 1)
    removed = section(report.file, Section.META)["removed"]
    assert removed["layers"] == {"removed": list(least), "of": 3}
    assert removed == section(report.file, Section.CERTIFICATE)["removed"]
    with Container(Path(report.file)) as container:
        opcodes = [one.opcode for one in container.instructions]
    assert opcodes.count(Opcode.ATTENTION) == 2
    # measured against the whole model, not against what is left of it
    assert report.quality is not None and report.quality["mean_kl"] > 0.01
    weights = sum(np.prod(tensor.shape) for tensor in original.weights())
    left = weights - (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert removed["weights_before"] == weights and removed["weights_after"] == left
    stored = section(report.file, Section.CERTIFICATE)["sizes"]["weight_bytes"]
    assert removed["net_bits_per_weight"] == pytest.approx(8 * stored / weights)
    norms = 2 * 64
    before = import_checkpoint(checkpoint).meta["parameters"]
    assert section(report.file, Section.META)["parameters"] == before - (weights - left) - norms


@pytest.mark.parametrize("groups", ["0.5", "1"])
def test_head_groups_and_channels_go(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, groups: str
) -> None:
    rest = f"[prune]\nhead_groups = {groups}\nchannels = 0.3\n"
    job = prepared(checkpoint, texts, tmp_path, rest)
    assert [(one.heads, one.kv_heads) for one in attentions(job.program)] == [(2, 1)] * 3
    downs = [t for t in job.program.weights() if "mlp.down" in t.name]
    assert [tensor.shape for tensor in downs] == [(64, 80)] * 3  # 0.7 * 96, up to whole tiles
    assert job.removed["head_groups"] == {"removed": 3, "of": 6}
    assert job.removed["channels"] == {"removed": 48, "of": 288}
    assert not job.lossless


def test_the_order_decides_what_later_passes_see(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[str] = []

    class Recorder(SilentProgress):
        def stage(self, name: str, total: int) -> Any:
            seen.append(name)
            return super().stage(name, total)

    amounts = "[prune]\nlayers = 1\nhead_groups = 0.5\nchannels = 0.3\n"
    kinds = {"layers": 1, "head_groups": 3, "channels": 3}
    for order in (None, ["channels", "layers", "head_groups"]):
        seen.clear()
        rest = amounts if order is None else amounts + f"order = {json.dumps(order)}\n"
        job = prepare_job(settings(checkpoint, texts, tmp_path, rest), Recorder())
        expected = order or ["layers", "head_groups", "channels"]
        stages = [f"Pruning {part.replace('_', ' ')}" for part in expected]
        assert [name for name in seen if name.startswith("Pruning")] == stages
        # a pass that comes after the layers sees two of three
        late = expected[expected.index("layers") + 1 :]
        full = {"layers": 3, "head_groups": 6, "channels": 288}
        for part in kinds:
            share = 2 / 3 if part in late else 1
            assert job.removed[part]["of"] == pytest.approx(full[part] * share), part


def test_training_as_a_whole_aims_at_the_original(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    job = prepared(checkpoint, texts, tmp_path, "[prune]\nlayers = 1\n")
    teacher = _teacher(job)
    assert teacher is not None
    tokens = torch.arange(40)[None]
    assert torch.equal(teacher(tokens), execute(job.reference, tokens))
    whole = prepared(checkpoint, texts, tmp_path, '[transform]\nrotate = "values"\n')
    assert _teacher(whole) is None
    # the divergence before training is that of the pruned model from the original
    windows = [np.arange(first, first + 40, dtype=np.int64) for first in range(12)]
    run = DistillSettings(steps=0, batch=2, rate=0.1, held=8)
    apart = distill(job.program, {}, {}, windows, TensorStore(), run, teacher=teacher)
    alone = distill(job.program, {}, {}, windows, TensorStore(), run)
    p, q = (
        torch.log_softmax(execute(one, torch.from_numpy(np.stack(windows[:8]))).double(), -1)
        for one in (job.reference, job.program)
    )
    assert apart.before == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert alone.before == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("[prune]\nchannels = 0.3\nlayers = 1\n", "layers and channels were taken out"),
        ('[transform]\nrotate = "values"\n', r"transformed \(rotate\)"),
    ],
    ids=["pruned", "rotated"],
)
def test_a_changed_model_is_judged_again_as_a_whole(
    checkpoint: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rest: str,
    reason: str,
) -> None:
    """None of its weights fits the checkpoint's: layer by layer a figure would say nothing."""
    report = made(checkpoint, texts, tmp_path, rest + GATE)
    assert report.quality is not None
    again = ["--against", str(checkpoint), "--text", str(texts["evaluation"]), "--quiet"]
    assert main(["eval", report.file, *again, "--layers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "layers" not in found and re.search(reason, found["notes"][0])
    assert found["mean_kl"] == pytest.approx(report.quality["mean_kl"], rel=0.3, abs=1e-5)
    assert main(["explain", report.file, *again, "--window", "64", "--max-tokens", "256"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(reason, shown) and "worst tokens" in shown and "by layer" not in shown


def test_superblocks_are_made_up_for_where_there_is_text(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    wide = {**SHAPE, "hidden_size": 256, "head_dim": 64, "intermediate_size": 512}
    source = write_checkpoint(tmp_path / "wide", {**wide, "num_hidden_layers": 1}, deviation=0.05)
    found = {}
    cases = {
        "wanda": '[prune]\nsuperblocks = 0.4\nscore = "wanda"\ncompensate = false\n',
        "hessian": "[prune]\nsuperblocks = 0.4\n",
    }
    for name, rest in cases.items():
        report = made(source, texts, tmp_path, rest + GATE, body="q8", allow_failing=True)
        assert report.quality is not None
        found[name] = report.quality["mean_kl"]
        removed = section(report.file, Section.META)["removed"]["superblocks"]
        assert removed["removed"] == pytest.approx(0.4 * removed["of"], rel=0.05)
    assert found["hessian"] < found["wanda"]


@pytest.mark.parametrize("score", ["magnitude", "wanda", "hessian"])
def test_two_of_four_weights_go_and_files_store_zeros(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, score: str
) -> None:
    rest = f'[prune]\npattern = "2:4"\nscore = "{score}"\nsweep = true\n'
    report = made(checkpoint, texts, tmp_path, rest + GATE, body="q4")
    found = section(report.file, Section.CERTIFICATE)["removed"]["pattern"]
    assert found["status"] == "computed, not stored" and found["name"] == "2:4"
    assert found["removed"] == found["of"] / 2
    # half of four bits and a scale of 16 bits for 32 weights, and a bit for the index
    assert found["bits_per_weight_body"] == pytest.approx(0.5 * 4.5 + 1, rel=0.02)
    assert report.bits_per_weight_body == pytest.approx(4.5, rel=0.02)
    with Container(Path(report.file)) as container:
        number = container.tensor_id("layers.0.mlp.down")
        values = dequantize(unpack_record(container, number))
    assert (values.reshape(-1, 4) == 0).sum(axis=1).min() >= 2


def test_superblocks_and_single_weights_do_not_go_together(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError, match="recipe mine single weights: take one"):
        prepared(checkpoint, texts, tmp_path, '[prune]\npattern = "2:4"\n', sparsity=0.1)


def test_superblocks_by_magnitude_in_a_sweep(
    texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    real = draft_module.prune_superblocks

    def watched(program: Any, windows: Any, encodings: Any, choice: Any, *rest: Any) -> Any:
        calls.append((choice, rest[0]))
        return real(program, windows, encodings, choice, *rest)

    monkeypatch.setattr(draft_module, "prune_superblocks", watched)
    source = write_checkpoint(tmp_path / "one", {**SHAPE, "num_hidden_layers": 1})
    given = {"calibration": texts["calibration"]}
    rest = '[prune]\nsuperblocks = 0.2\nscore = "magnitude"\nsweep = true\n'
    made(source, given, tmp_path, rest, body="q8", certificate=False, threads=2)
    choice, work = calls[0]
    assert (choice.score, choice.sweep, choice.fine) == ("magnitude", True, None)
    assert work.threads == 2 and work.statistics.tokens > 0


def test_sparsity_of_the_command_line_uses_the_text(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    real = draft_module.prune_superblocks

    def watched(program: Any, windows: Any, encodings: Any, choice: Any, *rest: Any) -> Any:
        calls.append(choice)
        return real(program, windows, encodings, choice, *rest)

    monkeypatch.setattr(draft_module, "prune_superblocks", watched)
    given = {"calibration": texts["calibration"]}
    made(checkpoint, given, tmp_path, "", body="q8", sparsity=0.2, certificate=False)
    assert [(one.score, one.compensate) for one in calls] == [("hessian", True)]
    calls.clear()
    made(checkpoint, {}, tmp_path, "", body="q8", sparsity=0.2, certificate=False)
    assert calls == []
    assert section(str(tmp_path / "x.ingot"), Section.META)["removed"]["superblocks"]["removed"] > 0


def test_passes_that_judge_by_text_need_some(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("lamp", encoding="utf-8")
    for name, keys in (("prune", "layers = 1"), ("transform", "smooth = 0.5")):
        with pytest.raises(InvalidArgumentError, match=f"recipe mine: section '{name}' judges"):
            prepared(checkpoint, {"calibration": short}, tmp_path, f"[{name}]\n{keys}\n")
    given = {"calibration": short}
    assert prepared(checkpoint, given, tmp_path, '[transform]\nrotate = "both"\n').lossless
