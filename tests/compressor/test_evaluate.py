# SPDX-License-Identifier: Apache-2.0
"""Figures of quality against formulas written out, and the gate's verdicts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from ingot import Model
from ingot.errors import InvalidArgumentError, StorageError
from ingot.session import Session
from ingot_compressor import evaluate as module
from ingot_compressor.certificate import Verdict, judge
from ingot_compressor.evaluate import (
    UNSCORED,
    PositionScores,
    Scores,
    compare_logits,
    evaluate,
    log_softmax,
    strided_windows,
    summarize,
    token_windows,
)
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.measure import packed_logits, packed_windows
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.recipe import Gate
from ingot_compressor.texts import Text, read_text

GATE = Gate(mean_kl=0.08, p99_kl=0.8, confidence=0.95, least_windows=8)


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_several_sessions_give_the_figures_of_one(
    lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Windows of different lengths, more of them than sessions, in their order."""
    windows = [np.random.default_rng(i).integers(0, 4096, 40 + 9 * i) for i in range(5)]
    opened: list[int] = []
    with Model(lantern_ingot) as model:
        with model.session(logits_rows=32, threads=2, kv="f16") as session:
            expected = [packed_logits(session, 4000)(window) for window in windows]
        real = model.session

        def counted(**options: Any) -> Session:
            opened.append(options["threads"])
            return real(**options)

        monkeypatch.setattr(model, "session", counted)
        found = list(packed_windows(model, windows, 4000, threads=count))
    assert opened == [1] * count
    assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def logits(m: int, v: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, v)).astype(np.float32) * 3


def brute_force(p: np.ndarray, q: np.ndarray, target: int) -> tuple[float, float, float]:
    """KL and both losses of one position, a number at a time."""

    def logs(x: np.ndarray) -> list[float]:
        total = math.fsum(math.exp(float(value)) for value in x)
        return [float(value) - math.log(total) for value in x]

    a, b = logs(p), logs(q)
    kl = math.fsum(math.exp(i) * (i - j) for i, j in zip(a, b, strict=True))
    return kl, -b[target], -a[target]


def test_divergence_and_losses_follow_their_formulas() -> None:
    p, q, targets = logits(7, 23, 0), logits(7, 23, 1), np.arange(7) * 3
    found = compare_logits(p, q, targets)
    for i in range(7):
        kl, loss, reference = brute_force(p[i], q[i], int(targets[i]))
        assert found.kl[i] == pytest.approx(kl, rel=1e-9)
        assert found.loss[i] == pytest.approx(loss, rel=1e-9)
        assert found.reference_loss[i] == pytest.approx(reference, rel=1e-9)
        assert found.agrees[i] == (p[i].argmax() == q[i].argmax())


def test_nearly_means_among_the_five_likeliest() -> None:
    p, q = logits(200, 23, 5), logits(200, 23, 6)
    q += p / 2
    found = compare_logits(p, q, np.zeros(200, np.int64))
    five = np.argsort(-q, axis=1)[:, :5]
    expected = [int(p[i].argmax()) in five[i].tolist() for i in range(200)]
    assert found.nearly.tolist() == expected
    assert found.agrees.mean() < found.nearly.mean() < 1


def test_divergence_is_from_the_reference() -> None:
    p, q = np.array([[0.0, 0.0]], np.float32), np.array([[0.0, 5.0]], np.float32)
    there = compare_logits(p, q, np.zeros(1, np.int64)).kl[0]
    back = compare_logits(q, p, np.zeros(1, np.int64)).kl[0]
    assert there == pytest.approx(brute_force(p[0], q[0], 0)[0]) and abs(there - back) > 0.5


def test_equal_logits_diverge_by_nothing_and_never_below() -> None:
    p = logits(50, 400, 2)
    found = compare_logits(p, p + np.float32(7), np.zeros(50, np.int64))
    assert found.agrees.all() and found.kl.max() < 1e-9 and found.kl.min() >= 0


def test_large_logits_do_not_overflow() -> None:
    x = log_softmax(np.array([[1e4, -1e4, 0.0]], np.float32))
    assert x[0, 0] == 0.0 and x[0, 1] == -2e4 and x[0, 2] == -1e4


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, targets = logits(31, 50, 3), logits(31, 50, 4), np.arange(31)
    whole = compare_logits(p, q, targets)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 120)
    assert np.array_equal(whole.kl, compare_logits(p, q, targets).kl)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not the same model"):
        compare_logits(logits(3, 8, 0), logits(3, 9, 0), np.zeros(3, np.int64))


def test_windows_do_not_overlap_and_begin_as_inference_does() -> None:
    ids = list(range(100, 260))
    plain = list(token_windows(ids, 50, None))
    assert [len(w) for w in plain] == [50, 50, 50]  # 10 tokens left: nothing would be scored
    assert np.concatenate(plain).tolist() == ids[:150]
    with_bos = list(token_windows(ids, 50, 7))
    assert [int(w[0]) for w in with_bos] == [7, 7, 7] and all(len(w) == 50 for w in with_bos)
    assert with_bos[1][1:].tolist() == ids[49:98]
    assert [len(w) for w in token_windows(ids, 50, None, 85)] == [50, 35]
    assert [len(w) for w in token_windows(ids, 50, None, 82)] == [50]
    with pytest.raises(InvalidArgumentError, match="scores nothing"):
        list(token_windows(ids, 33, None))


@pytest.mark.parametrize("bos", [None, 7])
@pytest.mark.parametrize(("size", "stride"), [(50, 18), (50, 5), (60, 1), (40, 8)])
def test_strided_windows_score_each_token_once(bos: int | None, size: int, stride: int) -> None:
    ids = list(range(100, 260))
    windows = list(strided_windows(ids, size, stride, bos, 150))
    scored = np.concatenate([w.tokens[w.first :] for w in windows])
    assert scored.tolist() == ids[UNSCORED - (bos is not None) : 150]
    assert all(len(w.tokens) <= size and w.first >= UNSCORED for w in windows)
    assert all(bos is None or w.tokens[0] == bos for w in windows)
    # all but the first and the last score `stride` tokens behind the longest context there is
    middle = [(len(w.tokens), len(w.tokens) - w.first) for w in windows[1:-1]]
    assert set(middle) <= {(size, stride)}


def test_a_stride_that_leaves_no_context_is_refused() -> None:
    assert len(list(strided_windows(range(100), 50, 18, None))) == 4
    for stride in (0, 19):
        with pytest.raises(InvalidArgumentError, match="expected 1 to 18"):
            list(strided_windows(range(100), 50, stride, None))


def test_strides_give_every_token_more_context() -> None:
    """A model that counts: its logits are sure only of what has 40 tokens before it."""
    ids = np.arange(200) % 11

    def counting(tokens: np.ndarray) -> np.ndarray:
        out = np.zeros((len(tokens), 11), np.float32)
        out[np.arange(40, len(tokens) - 1), tokens[41:]] = 50
        return out

    plain = summarize(evaluate(token_windows(ids, 50, None), counting, counting))
    strided = summarize(evaluate(strided_windows(ids, 50, 5, None), counting, counting))
    assert plain.perplexity == pytest.approx(11 ** (9 / 18))
    assert strided.perplexity == pytest.approx(11 ** (9 / 168))
    assert (strided.tokens, strided.window) == (168, 50)


def test_the_first_positions_are_not_scored_and_logits_predict_the_next_token() -> None:
    v = 300
    windows = [np.random.default_rng(i).integers(0, v, 40 + i) for i in range(3)]

    def knowing(tokens: np.ndarray) -> np.ndarray:
        """Predicts from 32 on each next token for sure, before that nonsense."""
        out = np.zeros((len(tokens), v), np.float32)
        out[np.arange(len(tokens) - 1), tokens[1:]] = 100
        out[: UNSCORED - 1] = logits(UNSCORED - 1, v, 9)
        return out

    seen: list[int] = []
    scores = evaluate(windows, knowing, lambda t: np.zeros((len(t), v), np.float32), seen.append)
    assert [len(kl) for kl in scores.kl] == [8, 9, 10] and seen == [1, 2, 3]
    quality = summarize(scores)
    assert quality.reference_perplexity == pytest.approx(1.0)
    assert quality.perplexity == pytest.approx(v)
    assert quality.mean_kl == pytest.approx(math.log(v))
    assert (quality.tokens, quality.windows, quality.window) == (27, 3, 42)
    with pytest.raises(InvalidArgumentError, match="give a longer text"):
        evaluate([], knowing, knowing)


def scores_of(kl: np.ndarray) -> Scores:
    """Windows of divergences; the other figures do not matter here."""
    parts = [PositionScores(row, row == 0, row, row, row > 0.5) for row in kl]
    return Scores(*(tuple(getattr(p, n) for p in parts) for n in PositionScores.__slots__))


def test_summary_pools_all_positions() -> None:
    rng = np.random.default_rng(0)
    kl = rng.random((4, 100))
    quality = summarize(scores_of(kl))
    assert quality.mean_kl == pytest.approx(kl.mean())
    assert quality.p99_kl == pytest.approx(np.quantile(kl, 0.99))
    assert quality.p999_kl == pytest.approx(np.quantile(kl, 0.999), rel=1e-9)
    assert quality.top5_agreement == pytest.approx((kl > 0.5).mean())
    assert quality.perplexity == pytest.approx(np.exp(kl.mean()))


def spread(mean: float, windows: int, deviation: float = 0.2, seed: int = 0) -> np.ndarray:
    """Divergences whose windows differ by `deviation` of the mean."""
    rng = np.random.default_rng(seed)
    level = mean * (1 + deviation * np.linspace(-1, 1, windows))[:, None]
    return level * rng.uniform(0.5, 1.5, (windows, 200))


@pytest.mark.parametrize(
    ("mean", "windows", "verdict", "words"),
    [
        (0.02, 16, Verdict.PASS, r"mean_kl 0\.0[12]\d+ .* is within the limit 0\.08; p99_kl"),
        (0.3, 16, Verdict.FAIL, r"mean_kl 0\.[23]\d+ .* is above the limit 0\.08"),
        (0.08, 16, Verdict.INCONCLUSIVE, r"mean_kl 0\.0[78]\d+ .* is too close to the limit 0\.08"),
        (0.02, 7, Verdict.INCONCLUSIVE, "7 windows were measured, the gate needs 8"),
        (0.3, 7, Verdict.INCONCLUSIVE, "give more evaluation text"),
    ],
)
def test_verdicts(mean: float, windows: int, verdict: Verdict, words: str) -> None:
    found = judge(GATE, scores_of(spread(mean, windows)))
    assert found.verdict is verdict
    assert re.search(words, found.reason), found.reason
    for limit in found.limits:
        assert limit.low <= limit.measured <= limit.high


def test_either_limit_can_fail() -> None:
    kl = spread(0.01, 16)
    kl[:, :6] = 3.0  # 3 % of the positions, mean only a little above
    found = judge(Gate(0.5, 0.8, 0.95, 8), scores_of(kl))
    assert found.verdict is Verdict.FAIL and "p99_kl" in found.reason
    assert "mean_kl" not in found.reason


def test_what_is_not_a_number_fails() -> None:
    kl = spread(0.01, 16)
    kl[3, 5] = np.nan
    assert judge(GATE, scores_of(kl)).verdict is Verdict.FAIL
    assert judge(GATE, scores_of(kl[:4])).verdict is not Verdict.PASS


def test_nothing_is_judged_without_limits_or_measurement() -> None:
    assert judge(None, scores_of(spread(9.0, 16))).verdict is Verdict.UNGATED
    nothing = judge(GATE, None)
    assert nothing.verdict is Verdict.UNGATED and "no evaluation text" in nothing.reason


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Windows with means drawn around a known one; 95 % intervals of 24 windows."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        levels = rng.gamma(4.0, 0.05 / 4, 24)[:, None]
        kl = levels * rng.uniform(0.5, 1.5, (24, 50))
        limit = judge(GATE, scores_of(kl)).limits[0]
        hits += limit.low <= 0.05 <= limit.high
    assert 49 <= hits <= 60


def test_texts_are_read_and_hashed(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("Grüße", encoding="utf-8")
    text = read_text(plain)
    assert text == Text("a.txt", "Grüße")
    assert text.sha256 == hashlib.sha256("Grüße".encode()).hexdigest()
    lines.write_text('{"text": "one"}\n\n{"text": "two", "id": 1}\n', encoding="utf-8")
    assert read_text(lines).content == "one\n\ntwo"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b" \n", "the text is empty"),
        ("a.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{oops', "line 2: not valid JSON"),
        ("a.jsonl", b'{"content": "x"}', 'line 1: expected an object with "text"'),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidArgumentError, match=message):
        read_text(path)
    with pytest.raises(StorageError, match="absent"):
        read_text(tmp_path / "absent.txt")


# of the first 8192 tokens, computed with transformers 5 in float32
LANTERN_BEGINNING = 46.299660


@pytest.mark.parametrize(
    "tokens", [8192, pytest.param(65536, marks=pytest.mark.slow)], ids=["beginning", "all"]
)
def test_reference_perplexity_of_lantern_is_that_of_its_card(
    repo_root: Path, shared_dir: Path, tokens: int
) -> None:
    """The figures were computed elsewhere: a wrong importer cannot certify itself."""
    folder = repo_root / "examples" / "models" / "lantern"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    whole = card["perplexity"]["books_validation.txt"]
    text = (shared_dir / "data" / "books_validation.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids[:tokens]
    program, store = fuse(import_checkpoint(folder).program), TensorStore()
    losses = []
    with torch.inference_mode():
        for batch in torch.tensor(ids).view(-1, 4, 512):
            out = execute(program, batch, store=store)[:, UNSCORED - 1 : -1]
            loss = torch.nn.functional.cross_entropy(
                out.flatten(0, 1), batch[:, UNSCORED:].flatten(), reduction="none"
            )
            losses.append(loss.double())
    perplexity = math.exp(float(torch.cat(losses).mean()))
    expected, tolerance = (LANTERN_BEGINNING, 1e-4) if tokens == 8192 else (whole, 0.005)
    assert perplexity == pytest.approx(expected, rel=tolerance)
