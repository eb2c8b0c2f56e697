# SPDX-License-Identifier: Apache-2.0
"""What recipes and the command line do to a model before it is quantized, seen in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
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
from ingot.tokenizer import Tokenizer
from ingot_compressor import draft as draft_module
from ingot_compressor.calibration_texts import CalibrationOptions, pack_documents, read_documents
from ingot_compressor.compress import CompressOptions, CompressReport, compress
from ingot_compressor.evaluate import token_windows
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.job import Job, prepare_job
from ingot_compressor.passes.distill import DistillSettings, distill
from ingot_compressor.passes.structured import block_influence, least_influential
from ingot_compressor.passes.transform import load_matrix
from ingot_compressor.progress import SilentProgress
from ingot_compressor.recipe import load_recipe
from ingot_compressor.training import _teacher
from tests.compressor.tiny_models import LLAMA, write_checkpoint

SHAPE = {
    **LLAMA,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
WORDS = (
    "the lamp was lit and nobody in the house had seen who had done it before the rain",
    "a boat came in at noon with salt, rope and two letters for the keeper of the light",
    "she counted the steps again, ninety-one, and wrote the number under the others",
)
RECIPE = """
name = "mine"
description = "for tests"
[formats]
body = "{body}"
head = "{body}"
embedding = "{body}"
q4_group = 32
[method]
search = false
calibrate = false
calibration_tokens = 1024
evaluation_tokens = 512
{rest}
"""
GATE = "[gate]\nmean_kl = 99\np99_kl = 999\nconfidence = 0.95\nleast_windows = 1\n"


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", SHAPE, deviation=0.1)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {**SHAPE, "tie_word_embeddings": True, "num_hidden_layers": 1}
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tied", values, deviation=0.1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for index, name in enumerate(("calibration", "evaluation")):
        lines = [f"{index} {number} {WORDS[(number + index) % 3]}" for number in range(40)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in ("calibration", "evaluation")}


def write_recipe(folder: Path, rest: str, body: str = "f16") -> str:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(rest=rest, body=body), encoding="utf-8")
    return str(path)


def settings(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> CompressOptions:
    body = options.pop("body", "f16")
    preset = write_recipe(folder, rest, body)
    return CompressOptions(checkpoint, folder / "x.ingot", preset=preset, **texts, **options)


def prepared(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> Job:
    return prepare_job(settings(checkpoint, texts, folder, rest, **options), SilentProgress())


def made(
    checkpoint: Path, texts: dict[str, Path], folder: Path, rest: str, **options: Any
) -> CompressReport:
    return compress(settings(checkpoint, texts, folder, rest, **options))


def section(path: str, kind: Section) -> Any:
    with Container(Path(path)) as container:
        return json.loads(bytes(container.section(kind)) or b"null")


def logits(program: Program, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = execute(program, torch.from_numpy(tokens)[None])[0].numpy()
    return found


def attentions(program: Program) -> list[Any]:
    return [op.parameters for op in program.operations if op.opcode is Opcode.ATTENTION]


# Transforms


@pytest.mark.parametrize(
    "keys",
    [
        'rotate = "both"\nseed = 3',
        "smooth = 0.5",
        "activation_aware = true",
        'rotate = "values"\nsmooth = 0.6\nactivation_aware = true',
    ],
    ids=["rotate", "smooth", "awq", "all"],
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


# Parts taken out


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
        report = made(source, texts, tmp_path, rest + GATE, body="q8")
        assert report.quality is not None
        found[name] = report.quality["mean_kl"]
        removed = section(report.file, Section.META)["removed"]["superblocks"]
        assert removed["removed"] == pytest.approx(0.4 * removed["of"], rel=0.05)
    assert found["hessian"] < found["wanda"]


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


# Vocabulary


def test_a_trimmed_vocabulary_is_the_new_reference(
    repo_root: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    lantern = repo_root / "examples" / "models" / "lantern"
    declared = [texts["evaluation"], texts["calibration"]]
    trim = [part for path in declared for part in ("--trim-vocabulary", str(path))]
    out = tmp_path / "small.ingot"
    preset = write_recipe(tmp_path, GATE, "f16")
    arguments = ["compress", str(lantern), "--out", str(out), "--quiet", "--threads", "1"]
    arguments += ["--preset", preset, "--evaluate", str(texts["evaluation"]), "--context", "128"]
    assert main([*arguments, *trim]) == 0
    removed = section(str(out), Section.META)["removed"]
    quality = section(str(out), Section.CERTIFICATE)["quality"]
    assert quality["mean_kl"] < 1e-3
    with Model(out) as model, model.session(logits_rows=1) as session:
        size = model.info.vocabulary
        went = removed["vocabulary"]
        assert went["removed"] == 4096 - size > 3000 and went["of"] == 4096
        for text in (WORDS[0], "Žluťoučký kůň 漢字"):
            assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
        assert session.logits(np.array(model.tokenizer.encode(WORDS[1]))).shape[-1] == size
    assert removed["weights_before"] - removed["weights_after"] == (4096 - size) * 256
    # the mass by hand: over all ids whose spelling is gone
    imported = import_checkpoint(lantern, 128)
    spelling = {i: t for t, i in json.loads(imported.tokenizer_json)["model"]["vocab"].items()}
    with Container(out) as container:
        document = json.loads(bytes(container.section(Section.TOKENIZER)))
    left = set(document["model"]["vocab"]) | {one["content"] for one in document["added_tokens"]}
    gone = [i for i in range(4096) if spelling.get(i) not in left]
    assert len(gone) == 4096 - size
    ids = Tokenizer(imported.tokenizer_json).encode(
        texts["evaluation"].read_text(encoding="utf-8"), begin=False
    )
    bos = imported.chat["bos_token_id"] if imported.chat["add_bos"] else None
    windows = [w for w in token_windows(ids, 128, bos) if len(w) == 128]
    mass = []
    for window in windows:
        found = torch.from_numpy(logits(imported.program, window)).double()
        mass.append(torch.softmax(found, -1)[:, gone].sum(-1))
    assert went["lost_probability"] == pytest.approx(float(torch.cat(mass).mean()), rel=1e-4)


# Calibration text


def test_conversations_calibrate_through_the_template(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    chat = tmp_path / "chat.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"{i} {w}"}]} for i, w in enumerate(WORDS * 9)
    ]
    chat.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    given = {**texts, "calibration": chat}
    with pytest.raises(InvalidArgumentError, match="no chat template"):
        prepared(checkpoint, given, tmp_path, "")
    source = tmp_path / "templated"
    source.mkdir()
    for file in checkpoint.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = source / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    config.write_text(json.dumps({**values, "chat_template": template}), encoding="utf-8")
    job = prepared(source, given, tmp_path, "")
    assert job.calibration is not None
    assert job.calibration.documents[1].content == f"[user] 1 {WORDS[1]}\n"
    stream = "".join(f"[user] {i} {w}\n" for i, w in enumerate(WORDS * 9))
    ids = job.tokenizer().encode(stream, begin=False)
    window = job.windows(job.calibration, 128)[0]
    assert len(window) == 128 and window.tolist() == ids[:128]


def test_plain_text_gives_the_windows_of_an_evaluation(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    job = prepared(checkpoint, texts, tmp_path, "")
    assert job.calibration is not None and len(job.calibration.documents) == 1
    flat = replace(job.calibration, documents=())
    for tokens, length in ((1024, 512), (300, 64), (10**6, 96), (64, 64)):
        packed, plain = (job.windows(text, tokens, length) for text in (job.calibration, flat))
        assert len(packed) == len(plain) > 0
        assert all(np.array_equal(a, b) for a, b in zip(packed, plain, strict=True))


def test_certificate_has_the_digest_of_windows_and_options(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    digests = []
    for tokens in (1024, 512):
        options = settings(checkpoint, texts, tmp_path, GATE)
        recipe = Path(options.preset)
        text = recipe.read_text(encoding="utf-8").replace("calibrate = false", "calibrate = true")
        text = text.replace("calibration_tokens = 1024", f"calibration_tokens = {tokens}")
        recipe.write_text(text, encoding="utf-8")
        report = compress(options)
        found = section(report.file, Section.CERTIFICATE)["calibration"]
        documents = read_documents(texts["calibration"])
        job = prepare_job(options, SilentProgress())
        bos = job.imported.chat["bos_token_id"] if job.imported.chat["add_bos"] else None
        expected = pack_documents(
            documents,
            partial(job.tokenizer().encode, begin=False),
            CalibrationOptions(tokens // 128, 128),
            bos,
        )
        assert found["windows_sha256"] == expected.sha256 and found["tokens"] == tokens
        digests.append(found["windows_sha256"])
    assert digests[0] != digests[1]


def test_texts_that_say_little_are_noted(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    poor = tmp_path / "poor.txt"
    poor.write_text(f"{WORDS[0]}\n" * 4, encoding="utf-8")
    rest = "[prune]\nsuperblocks = 0.2\n"
    wide = write_checkpoint(
        tmp_path / "wide", {**SHAPE, "intermediate_size": 640, "num_hidden_layers": 1}
    )
    options = settings(wide, {**texts, "calibration": poor}, tmp_path, rest + GATE, body="q8")
    found = " | ".join(compress(options).warnings)
    assert "75% of the calibration text's lines are repetitions" in found
    assert "windows of 128 tokens, 8 of 128 were asked for" in found
    assert "cannot fill the 640 x 640 statistics" in found
    assert "calibration tokens are few" in found
    good = made(checkpoint, texts, tmp_path, GATE, body="q8")
    assert not [note for note in good.warnings if "repetitions" in note or "statistics" in note]


def test_texts_of_two_kinds_are_noted(
    repo_root: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    lantern = repo_root / "examples" / "models" / "lantern"
    noise = tmp_path / "noise.txt"
    drawn = np.random.default_rng(0).integers(33, 127, 4000)
    noise.write_text("".join(map(chr, drawn.tolist())), encoding="utf-8")
    other = made(lantern, {**texts, "calibration": noise}, tmp_path, GATE, body="q8", context=128)
    assert [note for note in other.warnings if "they are not of one kind" in note]
    alike = made(lantern, texts, tmp_path, GATE, body="q8", context=128)
    assert not [note for note in alike.warnings if "kind" in note]


# Recipes


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("[transform]\nturn = 1", "unknown key 'transform.turn'"),
        ("[prune]\nheads = 1", "unknown key 'prune.heads'"),
        ("[prune]\nlayers = 0.5", "'prune.layers' is 0.5, expected int"),
        ("[prune]\nlayers = -1", "prune.layers is -1"),
        ("[prune]\nchannels = 1.0", "prune.channels is 1, expected 0 to below 1"),
        ("[prune]\nhead_groups = 1.5", "prune.head_groups is 1.5"),
        ('[prune]\nscore = "best"', "prune.score is 'best', expected one of wanda, hessian"),
        ('[prune]\norder = "layers"', "'prune.order' is 'layers', expected tuple"),
        ("[prune]\norder = [1]", "'prune.order' is 1, expected str"),
        ('[prune]\norder = ["heads"]', "prune.order is 'heads'"),
        ('[prune]\norder = ["layers", "layers"]', "names 'layers' twice"),
        ('[prune]\nlayers = 1\norder = ["channels"]', "prune.layers is given, but"),
        ("[transform]\nsmooth = 2", "transform.smooth is 2, expected 0 to 1"),
        ("[transform]\nsmooth = true", "'transform.smooth' is True"),
        ('[transform]\nrotate = "all"', "transform.rotate is 'all', expected one of none"),
        ("[transform]\nseed = -1", "transform.seed is -1"),
        ("[prunes]\nlayers = 1", "unknown key 'prunes'"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, rest: str, message: str) -> None:
    path = write_recipe(tmp_path, rest)
    with pytest.raises(InvalidArgumentError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"recipe {path}: ") and message in str(caught.value)


def test_sections_have_defaults_that_do_nothing(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    job = prepared(checkpoint, texts, tmp_path, "[transform]\n[prune]\n")
    assert job.lossless and job.removed == {} and not job.recipe.needs_text
    tokens = np.arange(40)
    assert np.array_equal(logits(job.program, tokens), logits(job.reference, tokens))
