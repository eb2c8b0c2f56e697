# SPDX-License-Identifier: Apache-2.0
"""Vocabularies, calibration texts and mistakes in recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ingot import Model
from ingot.cli import main
from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Section
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration_texts import CalibrationOptions, pack_documents, read_documents
from ingot_compressor.compress import compress
from ingot_compressor.evaluate import token_windows
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.job import prepare_job
from ingot_compressor.progress import SilentProgress
from ingot_compressor.recipe import load_recipe
from tests.compressor.recipes.recipe_cases import (
    GATE,
    SHAPE,
    WORDS,
    logits,
    made,
    prepared,
    section,
    settings,
    write_recipe,
)
from tests.compressor.tiny_models import write_checkpoint

# Vocabulary


def test_a_trimmed_vocabulary_is_the_new_reference(
    repo_root: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    # the finished file is measured again, against the same model of the tokens that stay
    again = ["--against", str(lantern), "--text", str(texts["evaluation"]), "--json", "--quiet"]
    capsys.readouterr()
    assert main(["eval", str(out), *again, "--max-tokens", "512"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["mean_kl"] == pytest.approx(quality["mean_kl"], rel=0.2)
    assert main(["explain", str(out), *again, "--max-tokens", "256", "--window", "64"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["note"] is None and len(found["layers"]) == 6 and found["weights_kl"] < 1e-3


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
    given = {**texts, "calibration": poor}
    options = settings(wide, given, tmp_path, rest + GATE, body="q8", allow_failing=True)
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

ROUNDING = """
[rounding]
method = "{}"
sequences = 4
length = 40
batch = 2
iterations = 2
sweeps = 1
"""


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("[transform]\nturn = 1", "unknown key 'transform.turn'"),
        ("[prune]\nheads = 1", "unknown key 'prune.heads'"),
        ("[prune]\nlayers = 0.5", "'prune.layers' is 0.5, expected int"),
        ("[prune]\nlayers = -1", "prune.layers is -1"),
        ("[prune]\nchannels = 1.0", "prune.channels is 1, expected 0 to below 1"),
        ("[prune]\nhead_groups = 1.5", "prune.head_groups is 1.5"),
        ("[prune]\nhead_groups = nan", "prune.head_groups is nan"),
        ('[prune]\nscore = "best"', "prune.score is 'best', expected one of magnitude, wanda"),
        ('[prune]\norder = "layers"', "'prune.order' is 'layers', expected tuple"),
        ("[prune]\norder = [1]", "'prune.order' is 1, expected str"),
        ('[prune]\norder = ["heads"]', "prune.order is 'heads'"),
        ('[prune]\norder = ["layers", "layers"]', "names 'layers' twice"),
        ('[prune]\nlayers = 1\norder = ["channels"]', "prune.layers is given, but"),
        ("[transform]\nsmooth = 2", "transform.smooth is 2, expected 0 to 1"),
        ("[transform]\nsmooth = true", "'transform.smooth' is True"),
        ('[transform]\nrotate = "all"', "transform.rotate is 'all', expected one of none"),
        ("[transform]\nseed = -1", "transform.seed is -1"),
        (
            '[transform]\norder = ["turn"]',
            "transform.order is 'turn', expected one of fold_norms",
        ),
        ('[transform]\norder = ["clip", "clip"]', "transform.order names 'clip' twice"),
        ('[transform]\nclip = true\norder = ["smooth"]', "transform.clip is given, but"),
        ('[prune]\npattern = "two"', "prune.pattern is 'two', expected unstructured, or how"),
        ('[prune]\npattern = "0:4"', "prune.pattern is '0:4'"),
        ('[prune]\npattern = "4:4"', "prune.pattern 4:4 takes out none"),
        ('[prune]\npattern = "unstructured"', "prune.share is 0; it goes with"),
        ("[prune]\nshare = 0.5", "prune.share is 0.5; it goes with"),
        ('[prune]\npattern = "2:4"\nsuperblocks = 0.1', "are both given: take one"),
        (ROUNDING.format("trained+trained"), "rounding.method is 'trained+trained', expected"),
        (ROUNDING.format("nearest+gptq"), "rounding.method is 'nearest+gptq', expected"),
        (ROUNDING.format("gptq") + '[prune]\npattern = "2:4"', "'rounding' would train weights"),
        ("calibration_length = 33", "method.calibration_length is 33, expected at least 34"),
        (ROUNDING.format("gptq") + "damping = 0", "rounding.damping must be positive"),
        ('scales = "hqqq"', "method.scales is 'hqqq', expected one of hqq"),
        ('[activations]\nscales = "fixed"', "activations.scales is 'fixed', expected one of"),
        ("[activations]\nscale = 1", "unknown key 'activations.scale'"),
        ("[prunes]\nlayers = 1", "unknown key 'prunes'"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, rest: str, message: str) -> None:
    path = write_recipe(tmp_path, rest)
    with pytest.raises(InvalidArgumentError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"recipe {path}: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "rest", "message"),
    [
        ('grid = "nf5"', "", "formats.grid is 'nf5', expected one of int8_symmetric_tensor"),
        ('grid = "nvfp4"', 'scales = "hqq"', "knows nothing of method.scales: leave it out"),
        ('grid = "nvfp4"', '[prune]\npattern = "2:4"', "knows nothing of prune.pattern"),
        ('grid = "nvfp4"', ROUNDING.format("gptq"), "knows nothing of rounding"),
        ('grid = "nvfp4"', "[budgets]\nbpw = 4", "knows nothing of budgets"),
        ("search = true", 'scales = "hqq"', "both choose scales: set search = false"),
    ],
)
def test_scales_and_grids_exclude_what_they_cannot_take(
    tmp_path: Path, given: str, rest: str, message: str
) -> None:
    path = Path(write_recipe(tmp_path, rest))
    text = path.read_text(encoding="utf-8")
    old, new = "q4_group = 32", f"q4_group = 32\n{given}"
    if given == "search = true":
        old, new = "search = false", given
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=message):
        load_recipe(path)


def test_sections_have_defaults_that_do_nothing(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    job = prepared(checkpoint, texts, tmp_path, "[transform]\n[prune]\n")
    assert job.lossless and job.removed == {} and not job.recipe.needs_text
    tokens = np.arange(40)
    assert np.array_equal(logits(job.program, tokens), logits(job.reference, tokens))
