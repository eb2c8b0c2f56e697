# SPDX-License-Identifier: Apache-2.0
"""What items ask of a model, and whether its likelihoods solve them."""

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
from ingot.errors import InvalidArgumentError, StorageError
from ingot.session import Session
from ingot_compressor.evaluation import native_scorer
from ingot_compressor.evaluation.items import (
    Choice,
    Generate,
    LastWord,
    Pair,
    read_task,
)
from ingot_compressor.evaluation.likelihood import (
    Likelihood,
    Request,
    fit_request,
    logits_scorer,
    program_scorer,
    read_likelihood,
)
from ingot_compressor.evaluation.native_scorer import file_scorer
from ingot_compressor.evaluation.tasks import (
    Answer,
    TextEncoder,
    answer_items,
    is_solved,
    pool,
    requests_of,
)
from ingot_compressor.execute import TensorStore
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.measure import packed_logits, reference_logits
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.progress import SilentProgress
from tests.compressor.tiny_models import LLAMA, in_f16, write_checkpoint


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A random model in f16: what the file gives is what the program gives, to rounding."""
    folder = tmp_path_factory.mktemp("tiny")
    imported = import_checkpoint(write_checkpoint(folder / "source", LLAMA, deviation=0.3))
    program = in_f16(fuse(imported.program))
    path = folder / "tiny.ingot"
    emit(program, path, imported.tokenizer_json, imported.chat, {})
    return SimpleNamespace(program=program, path=path)


# Texts as requests


def encoder_of(path: Path, **changes: Any) -> TextEncoder:
    with Model(path) as model:
        made = TextEncoder.of_file(model.tokenizer, model.chat, model.info.context)
    fields = {"begin": made.begin, "always": made.always, "context": made.context, **changes}
    return TextEncoder(made.tokenizer, **fields)


def test_requests_hold_the_tokens_of_the_whole_text(lantern_ingot: Path) -> None:
    encoder = encoder_of(lantern_ingot)
    encode = encoder.tokenizer.encode
    found = encoder.request("He went to the", " door.")
    assert list(found.prefix) == encode("He went to the", begin=False)
    assert list(found.prefix + found.continuation) == encode("He went to the door.", begin=False)
    # spaces that end the context go with the word after them
    assert encoder.request("He went to the ", "door.") == found
    # a word cut in two is scored from where its tokens differ
    inside = encoder.request("He went to the do", "or.")
    assert inside.prefix + inside.continuation == found.prefix + found.continuation
    assert encoder.tokenizer.decode(inside.continuation).endswith("door.")


def test_texts_begin_as_the_file_says(lantern_ingot: Path, tiny: SimpleNamespace) -> None:
    end = Model(lantern_ingot).tokenizer.token_id("<|endoftext|>")
    encoder = encoder_of(lantern_ingot)
    assert encoder.begin == end and not encoder.always
    assert encoder.request("", "He went.").prefix == (end,)
    assert encoder.request("He", " went.").prefix != (end,)
    always = encoder_of(lantern_ingot, always=True)
    assert always.request("He", " went.").prefix[0] == end
    # a template has already begun the text
    assert always.request("<|endoftext|>He", " went.").prefix.count(end or 0) == 1
    assert always.prompt("He")[0] == end and encoder.prompt("He")[0] != end
    assert encoder.prompt("") == [end]
    # without a token to begin with, the first one is not scored
    bare = encoder_of(tiny.path)
    # of bytes a space is a token of its own, and still goes with what follows
    spaced = bare.request("ab ", "cd")
    assert (len(spaced.prefix), len(spaced.continuation)) == (2, 3)
    assert bare.begin is None
    assert len(bare.request("", "abcd").prefix) == 1
    with pytest.raises(InvalidArgumentError, match="too few tokens"):
        bare.request("", "a")


def test_long_contexts_lose_their_beginning() -> None:
    request = Request(tuple(range(10)), (20, 21, 22))
    assert fit_request(request, 12) == request
    assert fit_request(request, 6) == Request((6, 7, 8, 9), (20, 21, 22))
    assert len(fit_request(request, 3).fed) == 3
    with pytest.raises(InvalidArgumentError, match="continuation of 3 tokens"):
        fit_request(request, 2)


# Likelihoods


def test_likelihood_follows_its_formula() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    expected = 0.0
    for row, token in zip(logits.tolist(), (4, 0, 6), strict=True):
        expected += row[token] - math.log(math.fsum(math.exp(x) for x in row))
    found = read_likelihood(logits, (4, 0, 6))
    assert found.total == pytest.approx(expected, rel=1e-6) and not found.greedy
    best = [int(x) for x in logits.argmax(axis=1)]
    assert read_likelihood(logits, best).greedy
    assert not read_likelihood(logits, [*best[:2], (best[2] + 1) % 7]).greedy


def some_requests(count: int = 90) -> list[Request]:
    """Prompts of four continuations each, of many lengths."""
    rng = np.random.default_rng(5)
    found = []
    while len(found) < count:
        prefix = tuple(int(x) for x in rng.integers(0, 301, rng.integers(1, 30)))
        for _ in range(4):
            continuation = rng.integers(0, 301, rng.integers(1, 12))
            found.append(Request(prefix, tuple(int(x) for x in continuation)))
    return found


def same(a: list[Likelihood], b: list[Likelihood], tolerance: float) -> bool:
    close = [x.total == pytest.approx(y.total, abs=tolerance) for x, y in zip(a, b, strict=True)]
    return all(close)


def test_program_and_sessions_score_as_plain_logits_do(tiny: SimpleNamespace) -> None:
    requests, seen = some_requests(), []
    program, store = tiny.program, TensorStore()
    plain = logits_scorer(reference_logits(program, store))(requests, lambda done: None)
    batched = program_scorer(program, store)(requests, seen.append)
    assert same(plain, batched, 1e-4) and seen[-1] == len(requests)
    assert [x.greedy for x in plain] == [x.greedy for x in batched]
    with Model(tiny.path) as model, model.session(logits_rows=8, kv="f16") as session:
        whole = logits_scorer(packed_logits(session, 301))(requests, lambda done: None)
        found = file_scorer(model, 301, 1)(requests, seen.append)
        assert file_scorer(model, 301, 3)(requests, seen.append) == found
    assert same(whole, found, 1e-3) and seen[-1] == len(requests)
    # the file rounds its activations: near the program, and not the same
    assert same(plain, found, 0.5) and not same(plain, found, 1e-6)
    assert len({round(x.total, 3) for x in found}) > 80


def test_what_prompts_share_is_fed_once(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    for name in ("feed", "logits"):
        plain = getattr(Session, name)

        def counted(self: Session, tokens: Any, plain: Any = plain) -> Any:
            fed.append(len(tokens))
            return plain(self, tokens)

        monkeypatch.setattr(Session, name, counted)
    prefix = tuple(range(20))
    requests = [Request(prefix, (x, x + 1, x + 2)) for x in (30, 40, 50, 60)]
    with Model(tiny.path) as model:
        file_scorer(model, 301, 1)(requests, lambda done: None)
    # the prefix but its last token, then per request that token and all but the last scored one
    assert fed == [19, 3, 3, 3, 3]


def test_a_failure_in_one_session_ends_all(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Likelihood:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(native_scorer, "_score_in_session", broken)
    with Model(tiny.path) as model, pytest.raises(StorageError, match="the disk is gone"):
        file_scorer(model, 301, 2)(some_requests(), lambda done: None)


# What is solved


def lk(total: float, greedy: bool = False) -> Likelihood:
    return Likelihood(total, greedy)


def test_solved_follows_the_kind() -> None:
    pair = Pair("t", 1, "g", "b")
    assert is_solved(pair, [lk(-3), lk(-4)]) and not is_solved(pair, [lk(-4), lk(-3)])
    assert not is_solved(pair, [lk(-3), lk(-3)])
    word = LastWord("t", 1, "c", " w")
    assert is_solved(word, [lk(-9, True)]) and not is_solved(word, [lk(-0.1)])


def test_choices_are_compared_by_character() -> None:
    choice = Choice("t", 1, "q", (" ab", " abcdefgh"), 1)
    # -1 and -0.5 a character; by the sum, or with the space counted, the other would win
    assert is_solved(choice, [lk(-2), lk(-4)])
    assert not is_solved(choice, [lk(-2), lk(-8.1)])
    spaces = Choice("t", 1, "q", ("a", "     b"), 0)
    assert is_solved(spaces, [lk(-1), lk(-1.5)])


def test_answers_keep_both_models_apart(lantern_ingot: Path) -> None:
    items = [
        Pair("one", 1, "He went.", "He goed."),
        Generate("one", 2, "He"),
        LastWord("two", 1, "He", " went"),
        Choice("two", 2, "He", (" a", " b", " c"), 2),
    ]
    encoder = encoder_of(lantern_ingot)
    asked: list[int] = []

    def scorer(totals: list[float]) -> Any:
        def score(requests: list[Request], progress: Any) -> list[Likelihood]:
            asked.append(len(requests))
            return [lk(total, total > -1) for total in totals]

        return score

    reference, file = [-1.0, -2, -0.5, -3, -3, -2], [-2.0, -1, -2, -3, -3, -2]
    found = answer_items(items, encoder, scorer(reference), scorer(file), SilentProgress())
    assert asked == [6, 6]
    assert found == [
        Answer("one", "pair", 1, True, False),
        Answer("two", "last_word", 1, True, False),
        Answer("two", "choice", 2, True, True),
    ]
    recoveries = pool(found, 0.95)
    assert list(recoveries) == ["one", "two", "pooled"]
    assert (recoveries["two"].accuracy, recoveries["two"].reference_accuracy) == (0.5, 1)
    assert recoveries["pooled"].ratio == pytest.approx(1 / 3)
    assert pool([], 0.95) == {}
    assert answer_items(items[1:2], encoder, scorer([]), scorer([]), SilentProgress()) == []


# figures of the model's card, computed elsewhere: BLiMP after <|endoftext|>, LAMBADA by arg-max
@pytest.mark.parametrize(
    ("task", "most", "tolerance"),
    [
        ("blimp", 400, 0.06),
        pytest.param("blimp", None, 0.0003, marks=pytest.mark.slow),
        pytest.param("lambada", None, 0.0005, marks=pytest.mark.slow),
    ],
)
def test_lantern_solves_what_its_card_says(
    repo_root: Path,
    shared_dir: Path,
    lantern_ingot: Path,
    task: str,
    most: int | None,
    tolerance: float,
) -> None:
    folder = repo_root / "examples" / "models" / "lantern"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    path = shared_dir / "data" / f"{task}_dev.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} in 'shared'")
    items = read_task(f"{task}={path}", most)
    encoder = encoder_of(lantern_ingot, context=256)
    requests = [requests_of(item, encoder) for item in items if not isinstance(item, Generate)]
    program = fuse(import_checkpoint(folder).program)
    flat = [request for part in requests for request in part]
    found = iter(program_scorer(program, TensorStore())(flat, lambda done: None))
    solved = [
        is_solved(item, [next(found) for _ in part])
        for item, part in zip(items, requests, strict=True)
        if not isinstance(item, Generate)
    ]
    assert np.mean(solved) == pytest.approx(card[f"{task}_dev_accuracy"], abs=tolerance)
