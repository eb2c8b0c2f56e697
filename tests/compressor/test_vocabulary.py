# SPDX-License-Identifier: Apache-2.0
"""A model that knows fewer tokens: the same logits of those, and every text still."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Engine

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot.tokenizer import Tokenizer
from ingot_compressor.execute import execute
from ingot_compressor.importers import Imported, import_checkpoint
from ingot_compressor.importers.tokenizer_files import read_tokenizer_files
from ingot_compressor.importers.trimming import match_tokens, trim_tokenizer
from ingot_compressor.ir import Program
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.vocabulary import keep_tokens, trim_vocabulary
from tests.compressor.tiny_models import LLAMA, in_f16, write_checkpoint

TEXTS = ("The lantern stood by the old harbour wall, and nobody lit it.", "Then it rained.\n\n")
FOREIGN = "Žluťoučký kůň 漢字 🙂 xqzjvk 0x7F\t<|im_start|>"  # nothing of it was declared


def logits(program: Program, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return execute(program, tokens)


def broken(data: bytes, **changes: object) -> bytes:
    document = json.loads(data)
    model = {**document["model"], **{k: v for k, v in changes.items() if k in document["model"]}}
    rest = {k: v for k, v in changes.items() if k not in document["model"]}
    return json.dumps({**document, "model": model, **rest}).encode()


@pytest.fixture(scope="module")
def lantern(repo_root: Path) -> Imported:
    return import_checkpoint(repo_root / "examples" / "models" / "lantern")


def encoded(data: bytes, text: str) -> list[int]:
    return Tokenizer(data).encode(text)


def test_logits_of_tokens_that_stay_are_what_they_were(lantern: Imported) -> None:
    trimmed, kept = trim_vocabulary(lantern, TEXTS)
    assert kept.rows == 4096 and len(kept.ids) < 400
    assert trimmed.program.vocabulary == len(kept.ids) == trimmed.meta["table_rows"]
    assert kept.weights == (4096 - len(kept.ids)) * 256
    ids = np.array(encoded(trimmed.tokenizer_json, TEXTS[0]))
    expected = logits(lantern.program, torch.from_numpy(kept.ids[ids])[None])
    found = logits(trimmed.program, torch.from_numpy(ids)[None])
    assert found.shape[-1] == len(kept.ids)
    torch.testing.assert_close(found, expected[..., torch.from_numpy(kept.ids)])


def test_a_trimmed_tokenizer_says_which_tokens_stayed(lantern: Imported) -> None:
    trimmed = trim_tokenizer(lantern.tokenizer_json, TEXTS)
    found = match_tokens(lantern.tokenizer_json, trimmed.json)
    assert np.array_equal(found.kept, trimmed.kept) and len(found.kept) < 400
    again = keep_tokens(lantern, found)
    expected, _ = trim_vocabulary(lantern, TEXTS)
    assert again.chat == expected.chat and again.meta == expected.meta
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(logits(again.program, tokens), logits(expected.program, tokens))
    document = json.loads(trimmed.json)
    vocabulary = document["model"]["vocab"]
    spelled = {**vocabulary, "nobody knows this": vocabulary.pop(next(reversed(vocabulary)))}
    turned = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    for changed, message in ((spelled, "checkpoint lacks"), (turned, "checkpoint's order")):
        model = {**document["model"], "vocab": changed}
        other = json.dumps({**document, "model": model}).encode()
        with pytest.raises(InvalidArgumentError, match=message):
            match_tokens(lantern.tokenizer_json, other)


def test_untied_head_and_surplus_rows(tmp_path: Path) -> None:
    imported = import_checkpoint(write_checkpoint(tmp_path, {**LLAMA, "vocab_size": 320}))
    surplus = replace(imported, program=replace(imported.program, vocabulary=310))
    trimmed, kept = trim_vocabulary(surplus, ["abc"], also=[300])
    assert 300 in kept.ids
    tensors = trimmed.program.tensors
    assert tensors[trimmed.program.head()].shape == (len(kept.ids), 40)
    assert tensors[trimmed.program.embedding()].shape == (len(kept.ids), 40)
    tokens = torch.arange(5)[None]
    expected = logits(imported.program, torch.from_numpy(kept.ids)[tokens])
    # the matrices' shapes differ, and with them the order in which a library may add
    found = logits(trimmed.program, tokens)
    torch.testing.assert_close(found, expected[..., torch.from_numpy(kept.ids)])


def test_ids_of_the_chat_settings_move_along(lantern: Imported) -> None:
    kept = trim_tokenizer(lantern.tokenizer_json, TEXTS).kept
    last = int(kept[-1])
    assert last > len(kept)
    gone = next(index for index in range(4096) if index not in kept)
    chat = {**lantern.chat, "bos_token_id": last, "eos_token_ids": [0, gone, last]}
    trimmed, _ = trim_vocabulary(replace(lantern, chat=chat), TEXTS)
    assert trimmed.chat["bos_token_id"] == len(kept) - 1
    assert trimmed.chat["eos_token_ids"] == [0, len(kept) - 1]
    assert trimmed.chat["special_tokens"] == lantern.chat["special_tokens"]
    without = replace(lantern, chat={**chat, "bos_token_id": gone})
    with pytest.raises(InvalidArgumentError, match=f"token {gone} begins"):
        trim_vocabulary(without, TEXTS)


@pytest.mark.parametrize("text", [*TEXTS, FOREIGN, "", " ", "\x00\x7f"])
def test_every_text_can_still_be_written(text: str, lantern: Imported) -> None:
    trimmed = trim_tokenizer(lantern.tokenizer_json, TEXTS)
    ids = encoded(trimmed.json, text)
    engine = Engine.from_str(trimmed.json.decode())
    assert engine.decode(ids, skip_special_tokens=False) == text
    if text in TEXTS:
        assert trimmed.kept[ids].tolist() == encoded(lantern.tokenizer_json, text)
    assert max(ids, default=0) < len(trimmed.kept)


def test_kept_tokens_are_those_of_the_text_their_parts_bytes_and_special_ones(
    lantern: Imported,
) -> None:
    trimmed = trim_tokenizer(lantern.tokenizer_json, TEXTS)
    model = json.loads(lantern.tokenizer_json)["model"]
    spelling = {index: token for token, index in model["vocab"].items()}
    seen = {i for text in TEXTS for i in encoded(lantern.tokenizer_json, text)}
    # the tokenizer was trained: one merge makes each token
    parents = {a + b: (a, b) for a, b in model["merges"]}
    assert len(parents) == len(model["merges"])
    expected, waiting = {0, 1, 2}, [spelling[index] for index in seen]
    expected |= {model["vocab"][t] for t in spelling.values() if len(t) == 1}
    while waiting:
        token = waiting.pop()
        expected.add(model["vocab"][token])
        waiting += parents.get(token, ())
    assert set(trimmed.kept.tolist()) == expected
    assert trimmed.new_id(0) == 0
    gone = next(index for index in range(4096) if index not in expected)
    assert trimmed.new_id(gone) is None


def test_trimming_again_changes_nothing(lantern: Imported) -> None:
    once = trim_tokenizer(lantern.tokenizer_json, TEXTS)
    again = trim_tokenizer(once.json, TEXTS)
    assert again.kept.tolist() == list(range(len(once.kept)))
    assert json.loads(again.json) == json.loads(once.json)


def test_byte_fallback_and_template(shared_dir: Path) -> None:
    imported = import_checkpoint(shared_dir / "models" / "stories260k")
    trimmed, kept = trim_vocabulary(imported, ["Once upon a time"])
    assert {*range(3, 259)} <= set(kept.ids.tolist())
    engine = Engine.from_str(trimmed.tokenizer_json.decode())
    assert engine.decode(encoded(trimmed.tokenizer_json, "Zürich 漢")) == "Zürich 漢"
    processor = json.loads(trimmed.tokenizer_json)["post_processor"]
    begin = engine.token_to_id("<s>")
    assert processor["special_tokens"]["<s>"]["ids"] == [begin]
    assert trimmed.chat["bos_token_id"] == begin


def test_added_token_beyond_the_vocabulary_and_in_the_template(lantern: Imported) -> None:
    ending = {**json.loads(lantern.tokenizer_json)["added_tokens"][0], "content": "<|x|>"}
    added = [*json.loads(lantern.tokenizer_json)["added_tokens"], {**ending, "id": 4096}]
    special = {"<|x|>": {"id": "<|x|>", "ids": [4096], "tokens": ["<|x|>"]}}
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<|x|>", "type_id": 0}},
    ]
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces}
    data = broken(
        lantern.tokenizer_json,
        added_tokens=added,
        post_processor={
            "type": "Sequence",
            "processors": [{**template, "special_tokens": special}],
        },
    )
    trimmed = trim_tokenizer(data, TEXTS)
    last = len(trimmed.kept) - 1
    assert trimmed.kept[last] == 4096 and trimmed.new_id(4096) == last < 1000
    document = json.loads(trimmed.json)
    assert [entry["id"] for entry in document["added_tokens"]] == [0, 1, 2, last]
    engine = Engine.from_str(trimmed.json.decode())
    assert engine.encode(TEXTS[0]).ids == [*encoded(trimmed.json, TEXTS[0]), last]
    assert engine.token_to_id("<|x|>") == last
    assert encoded(trimmed.json, "a<|x|>")[-1] == last


@pytest.mark.parametrize("family", ["gpt2", "qwen2.5", "smollm2"])
def test_real_tokenizers_cut_declared_text_alike(
    family: str, shared_dir: Path, repo_root: Path
) -> None:
    folder = shared_dir / "tokenizers" / family
    if (folder / "tokenizer.json").exists():
        data = (folder / "tokenizer.json").read_bytes()
    else:
        kind = "qwen2" if family.startswith("qwen") else "gpt2"
        data = read_tokenizer_files(folder, kind).json
    text = (repo_root / "examples" / "text" / "evaluation.txt").read_text(encoding="utf-8")[:50_000]
    trimmed = trim_tokenizer(data, [text])
    assert trimmed.kept[encoded(trimmed.json, text)].tolist() == encoded(data, text)
    engine = Engine.from_str(trimmed.json.decode())
    assert engine.decode(encoded(trimmed.json, FOREIGN), skip_special_tokens=False) == FOREIGN
    before = Engine.from_str(data.decode())
    for old, token in before.get_added_tokens_decoder().items():
        assert trimmed.kept[engine.token_to_id(token.content)] == old
    assert len(trimmed.kept) < 0.3 * before.get_vocab_size()


def test_trimmed_file_runs_and_writes_text(lantern: Imported, tmp_path: Path) -> None:
    trimmed, kept = trim_vocabulary(lantern, TEXTS)
    path = tmp_path / "trimmed.ingot"
    emit(in_f16(fuse(trimmed.program)), path, trimmed.tokenizer_json, trimmed.chat, {})
    prompt = "The lantern stood"
    with Model(path) as model, model.session(logits_rows=16) as session:
        assert model.info.vocabulary == len(kept.ids)
        ids = np.array(model.tokenizer.encode(prompt))
        found = session.logits(ids)
        session.reset()
        text = session.generate(prompt, max_tokens=12).text
    old = torch.from_numpy(kept.ids[ids])[None]
    expected = logits(fuse(lantern.program), old)[0, :, torch.from_numpy(kept.ids)].numpy()
    assert np.abs(found - expected).max() < 0.1
    assert text


def test_tokenizers_that_cannot_be_trimmed(lantern: Imported) -> None:
    data = lantern.tokenizer_json
    cases: Mapping[str, bytes] = {
        "not a tokenizer": b"{}",
        "dropout": broken(data, dropout=0.1),
        "knows no bytes": broken(data, pre_tokenizer=None),
        "post-processor": broken(
            data,
            post_processor={"type": "BertProcessing", "sep": ["<a>", 1], "cls": ["<b>", 2]},
        ),
    }
    for message, wrong in cases.items():
        with pytest.raises(InvalidArgumentError, match=message):
            trim_tokenizer(wrong, TEXTS)
    with pytest.raises(InvalidArgumentError, match="256 of 256 bytes"):
        trim_tokenizer(broken(data, byte_fallback=True), TEXTS)
    with pytest.raises(InvalidArgumentError, match="no id 4096"):
        trim_tokenizer(data, TEXTS, also=[4096])
    with pytest.raises(InvalidArgumentError, match="no text"):
        trim_vocabulary(lantern, [""])
    short = replace(lantern.program.tensors["embed"], shape=(4, 256))
    program = lantern.program.with_tensors({"embed": short})
    with pytest.raises(InvalidArgumentError, match="fewer rows"):
        trim_vocabulary(replace(lantern, program=program), TEXTS)
