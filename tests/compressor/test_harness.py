# SPDX-License-Identifier: Apache-2.0
"""The adapter to lm-evaluation-harness against the program in PyTorch and against our own tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot_compressor.evaluate import log_softmax
from ingot_compressor.evaluation.items import read_items
from ingot_compressor.evaluation.native_scorer import file_scorer
from ingot_compressor.evaluation.tasks import Scored, TextEncoder, is_solved, requests_of
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import LLAMA, in_f16, write_checkpoint

pytest.importorskip("lm_eval", reason="lm_eval is not installed (the extra 'eval')")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows

from ingot_compressor.harness import IngotLM, rolling_requests


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A random model of 64 positions in f16, whose texts begin with token 300."""
    folder = tmp_path_factory.mktemp("harness")
    imported = import_checkpoint(write_checkpoint(folder / "source", LLAMA, deviation=0.3))
    program = in_f16(fuse(imported.program))
    path = folder / "tiny.ingot"
    chat = {**imported.chat, "bos_token_id": 300, "eos_token_ids": [299]}
    emit(program, path, imported.tokenizer_json, chat, {})
    return SimpleNamespace(program=program, path=path)


@pytest.fixture
def harness(tiny: SimpleNamespace) -> Iterator[IngotLM]:
    made = IngotLM(str(tiny.path), sessions=2)
    yield made
    made.close()


def instances(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def log_probabilities(program: Program, tokens: list[int]) -> np.ndarray:
    """Of each token after the first, given those before it."""
    with torch.inference_mode():
        logits = execute(program, torch.tensor([tokens[:-1]]), store=TensorStore())[0].numpy()
    rows = log_softmax(logits[:, : program.vocabulary])
    return rows[np.arange(len(tokens) - 1), tokens[1:]]


def test_continuations_are_scored_as_the_program_does(
    tiny: SimpleNamespace, harness: IngotLM
) -> None:
    encode = harness.model.tokenizer.encode
    texts = [("the lamp", " was lit"), ("the lamp", " went out"), ("", "nobody had seen")]
    found = harness.loglikelihood(instances("loglikelihood", *texts))
    for (context, continuation), (total, greedy) in zip(texts, found, strict=True):
        tail = encode(continuation, begin=False)
        before = encode(context, begin=False) or [300]
        expected = log_probabilities(tiny.program, [*before, *tail])[-len(tail) :].sum()
        assert total == pytest.approx(expected, abs=0.05) and greedy is False
    assert len({round(total, 2) for total, _ in found}) == 3


def test_greedy_continuations_are_seen(harness: IngotLM) -> None:
    settings = {"max_gen_toks": 1}
    contexts = [(letter, settings) for letter in "abcdefghijklmnopqrstuvwxyz"]
    texts = harness.generate_until(instances("generate_until", *contexts))
    # a token of this model is a byte, and not each a character
    context, text = next(
        (one[0], text) for one, text in zip(contexts, texts, strict=True) if len(text.encode()) == 1
    )
    pairs = ((context, text), (context, f"{text}??"), (context, "??"))
    found = harness.loglikelihood(instances("loglikelihood", *pairs))
    assert [greedy for _, greedy in found] == [True, False, False]


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 128, 129, 200])
def test_whole_texts_are_cut_as_the_harness_cuts_them(harness: IngotLM, length: int) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(length))
    ids = harness.model.tokenizer.encode(text, begin=False)
    expected = [
        ([int(x) for x in fed], [int(x) for x in scored])
        for fed, scored in get_rolling_token_windows(ids, 300, 64, 1)
    ]
    found = rolling_requests(harness.encoder, text)
    assert [(list(one.fed), list(one.continuation)) for one in found] == expected


def test_whole_texts_are_scored_as_the_program_does(
    tiny: SimpleNamespace, harness: IngotLM
) -> None:
    short, long = "the lamp was lit", "nobody in the house had seen who had done it " * 3
    found = harness.loglikelihood_rolling(
        instances("loglikelihood_rolling", (short,), (long,), ("",))
    )
    for text, total in zip((short, long), found, strict=False):
        ids = harness.model.tokenizer.encode(text, begin=False)
        expected = 0.0
        for fed, scored in get_rolling_token_windows(ids, 300, 64, 1):
            part = log_probabilities(tiny.program, [*fed, scored[-1]])
            expected += part[-len(scored) :].sum()
        assert total == pytest.approx(expected, rel=2e-3)
    assert found[2] == 0


def test_texts_end_before_what_they_stop_at(harness: IngotLM) -> None:
    settings = {"max_gen_toks": 20, "until": [], "do_sample": False, "temperature": 0.0}
    with harness.model.session() as session:
        plain = session.generate("the lamp", max_tokens=20).text
    stop = plain[7:9]
    [whole, cut, alias, drawn] = harness.generate_until(
        instances(
            "generate_until",
            ("the lamp", settings),
            ("the lamp", {**settings, "until": stop}),
            ("the lamp", {"max_new_tokens": 3}),
            ("the lamp", {"max_gen_toks": 20, "do_sample": True, "temperature": 2.0}),
        )
    )
    assert whole == plain != drawn
    assert cut == plain[: plain.index(stop)]
    assert len(alias) < len(whole) and plain.startswith(alias)


def test_settings_and_long_contexts(harness: IngotLM) -> None:
    [text] = harness.generate_until(instances("generate_until", ("ab" * 200, {})))
    with harness.model.session() as session:
        # half of the 64 positions is kept for the answer
        assert text == session.generate("ab" * 16, max_tokens=32).text
    with pytest.raises(InvalidArgumentError, match="'num_beams' is not known"):
        harness.generate_until(instances("generate_until", ("a", {"num_beams": 4})))


@pytest.mark.slow
def test_the_harness_runs_a_task_and_agrees_with_ours(
    lantern_ingot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiple choice of the harness, its acc_norm, on the same items."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    pytest.importorskip("datasets")
    words = ["door", "window", "house", "garden", "river", "fire", "king", "queen", "ship", "horse"]
    rng = np.random.default_rng(0)
    lines = []
    for start in ("He went to the", "She looked at the", "They came to a", "I have seen the"):
        for _ in range(6):
            picked = rng.choice(words, 3, replace=False)
            tails = (f"{picked[0]}", f"{picked[1]} of the {picked[2]}", f"the {picked[2]}s of")
            choices = [tails[i] for i in rng.permutation(3)]
            lines.append({"query": start, "choices": choices, "gold": int(rng.integers(0, 3))})
    data, ours = tmp_path / "data.jsonl", tmp_path / "ours.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    mine = [
        {**line, "kind": "choice", "choices": [f" {choice}" for choice in line["choices"]]}
        for line in lines
    ]
    ours.write_text("\n".join(json.dumps(line) for line in mine), encoding="utf-8")
    task = {
        "task": "places",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    result = lm_eval.simple_evaluate(
        model="ingot",
        model_args=f"path={lantern_ingot},sessions=1",
        tasks=[task],
        bootstrap_iters=0,
        log_samples=True,
    )
    with Model(lantern_ingot) as model:
        encoder = TextEncoder.of_file(model.tokenizer, model.chat, model.info.context)
        items: list[Scored] = read_items(ours)  # type: ignore[assignment]
        requests = [requests_of(item, encoder) for item in items]
        flat = [request for part in requests for request in part]
        found = file_scorer(model, model.info.vocabulary)(flat, lambda done: None)
    at, solved = iter(found), []
    for item, part in zip(items, requests, strict=True):
        solved.append(is_solved(item, [next(at) for _ in part]))
    samples = sorted(result["samples"]["places"], key=lambda sample: sample["doc_id"])
    assert [bool(sample["acc_norm"]) for sample in samples] == solved
    assert 0 < np.mean(solved) < 1
    totals = [float(one[0]) for sample in samples for one in sample["filtered_resps"]]
    assert totals == pytest.approx([one.total for one in found], abs=1e-9)
    assert all(math.isfinite(total) and total < 0 for total in totals)
