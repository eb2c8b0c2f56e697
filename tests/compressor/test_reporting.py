# SPDX-License-Identifier: Apache-2.0
"""The page of a compression: what it says is true, and it needs nothing but itself."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot import Model
from ingot.container import Container
from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import Dtype, Role, Section
from ingot.targets import load_target
from ingot_compressor import compress as compress_module
from ingot_compressor.compress import CompressOptions, compress
from ingot_compressor.decode_rates import measure_rate
from ingot_compressor.draft import Draft
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.job import prepare_job
from ingot_compressor.json_values import finite_values
from ingot_compressor.passes.budgets import WEIGHT_TIME_SHARE, token_seconds
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.hybrid import MeasuredPoint, compare_with_dense
from ingot_compressor.passes.quantize import Sizes
from ingot_compressor.progress import SilentProgress
from ingot_compressor.reporting import page
from ingot_compressor.reporting.curves import loss_curve, neighbour_plot, pareto_plot
from ingot_compressor.reporting.facts import Facts, gather_facts
from ingot_compressor.reporting.page import (
    ONE_FORMAT,
    OTHER_DEVICE,
    UNKNOWN_DEVICE,
    json_path,
    render_page,
)
from ingot_compressor.reporting.samples import Sample, greedy_reference
from ingot_compressor.reporting.speed import measure_speed
from ingot_compressor.training import TrainingFacts
from tests.compressor.html_page import Page
from tests.compressor.tiny_models import LLAMA, write_checkpoint

WORDS = "the lamp was lit and nobody in the house had seen who had done it before the rain "
WIDE = {**LLAMA, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
PRESET = """name = "short"
description = "few tokens"
[formats]
body = "c4"
head = "q8"
embedding = "q8"
q4_group = 32
[method]
search = false
calibrate = true
calibration_tokens = 1024
evaluation_tokens = 1024
[gate]
mean_kl = 9.0
p99_kl = 90.0
confidence = 0.95
least_windows = 8
"""


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return a compression with one format, and one with a mix for another device."""
    folder = tmp_path_factory.mktemp("reporting")
    (folder / "short.toml").write_text(PRESET, encoding="utf-8")
    for index, name in enumerate(("calibration", "evaluation")):
        (folder / f"{name}.txt").write_text(f"{index} {WORDS}" * 60, encoding="utf-8")
    source = write_checkpoint(folder / "wide", WIDE, deviation=0.08)
    settings: dict[str, Any] = {
        "source": source,
        "preset": str(folder / "short.toml"),
        "calibration": folder / "calibration.txt",
        "evaluation": folder / "evaluation.txt",
    }
    found: list[Facts] = []
    write = page.write_report

    def keep(path: Path, facts: Facts) -> None:
        found.append(facts)
        write(path, facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", keep)
        for name, options in (("plain", {}), ("mix", {"bpw": 4.5, "target": "rpi5"})):
            report = folder / f"{name}.html"
            out = folder / f"{name}.ingot"
            compress(CompressOptions(out=out, report=report, **settings, **options))
    program = fuse(import_checkpoint(source).program)
    options = CompressOptions(out=folder / "plain.ingot", **settings)
    names = {"folder": folder, "program": program, "options": options}
    return SimpleNamespace(**names, plain=found[0], mix=found[1])


def read(made: SimpleNamespace, name: str) -> str:
    return str((made.folder / name).read_text(encoding="utf-8"))


def test_the_first_line_has_the_verdict(made: SimpleNamespace) -> None:
    first = Page(read(made, "plain.html").splitlines()[0])
    (title,), (heading,) = first.texts["title"], first.texts["h1"]
    quality = made.plain.result["quality"]
    assert title == heading and heading.startswith("pass: plain.ingot, ")
    assert heading.endswith(f"mean KL {quality['mean_kl']:.4f}") and quality["mean_kl"] > 0
    result = {**made.plain.result, "verdict": "fail", "quality": None}
    text = render_page(replace(made.plain, result=result))
    assert Page(text).texts["h1"][0].startswith("fail: plain.ingot, ")


@pytest.mark.parametrize("name", ["plain", "mix"])
def test_the_page_is_whole_and_alone(made: SimpleNamespace, name: str) -> None:
    found = Page(read(made, f"{name}.html"))
    assert found.open == [] and not found.needs()
    with Container(made.folder / f"{name}.ingot") as container:
        weights = {
            one: Dtype(tensor.dtype).name.lower()
            for one, tensor in zip(container.names, container.tensors, strict=True)
            if tensor.role == Role.WEIGHT
        }
    assert len(weights) == 14
    cells = found.texts["td"]
    pairs = list(pairwise(cells))
    assert all((weight, dtype) in pairs for weight, dtype in weights.items())
    tips = found.texts["title"]
    assert all(
        sum(tip.startswith(f"{one}: {weights[one]}, ") for tip in tips) == 2 for one in weights
    )


def test_what_would_be_loaded_is_seen() -> None:
    planted = '<p><img src="x.png"></img><a href="y"></a></p><style>a{b:url(c)}</style>'
    assert Page(planted).needs() == ["img", "src", "href", "url("]
    with pytest.raises(AssertionError):
        Page("<p><b></p>")


def test_text_of_a_model_cannot_break_the_page(made: SimpleNamespace) -> None:
    wild = Sample("</td><script>alert(1)</script>", "<img src=x>", "&amp; \"'", 1, 2)
    found = Page(render_page(replace(made.plain, samples=(wild,))))
    assert found.open == [] and not found.needs()
    assert wild.prompt in found.texts["td"] and wild.file in found.texts["td"]


def test_the_figures_are_the_same_facts(made: SimpleNamespace) -> None:
    figures = json.loads(read(made, "plain.json"))
    assert figures == json.loads(json.dumps(made.plain.to_json()))
    with Container(made.folder / "plain.ingot") as container:
        certificate = json.loads(bytes(container.section(Section.CERTIFICATE)))
        sizes = {
            name: record.size
            for name, record in zip(container.names, container.tensors, strict=True)
        }
    assert figures["certificate"] == certificate
    assert figures["result"]["verdict"] == certificate["verdict"] == "pass"
    assert [one["stored_bytes"] for one in figures["tensors"]] == [
        sizes[one["name"]] for one in figures["tensors"]
    ]
    # of the gate no row only fills a tile here: every row counts
    shapes = {t.name: t.shape for t in made.program.weights()}
    for one in figures["tensors"]:
        n, k = shapes[one["name"]]
        assert one["bits_per_weight"] == pytest.approx(8 * one["stored_bytes"] / (n * k))
    names = [one["name"] for one in figures["layers"]]
    assert names == ["embedding", "layer 0", "layer 1", "head"]
    assert figures["texts"]["evaluation"]["name"] == figures["compared_on"] == "evaluation.txt"
    assert figures["recipe"]["name"] == "short" and figures["versions"]["torch"]
    assert finite_values({"a": [math.inf, (1.5, "b")]}) == {"a": [None, [1.5, "b"]]}


def test_samples_are_the_greedy_texts_of_both(made: SimpleNamespace) -> None:
    assert len(made.plain.samples) == 2
    sample = made.plain.samples[0]
    with Model(made.folder / "plain.ingot") as model:
        encode, decode = model.tokenizer.encode, model.tokenizer.decode
        prompt = encode((made.folder / "evaluation.txt").read_text(encoding="utf-8"))[:24]
        assert sample.prompt == decode(prompt)
        with model.session(64, 1, kv="f16") as session:
            ours = list(session.generate(prompt, max_tokens=40).token_ids)
        assert sample.file == decode(ours)
        theirs = greedy(made, prompt, 40)
        stops = set(model.chat.eos_token_ids)
        theirs = theirs[: next((i for i, one in enumerate(theirs) if one in stops), 40)]
        assert sample.reference == decode(theirs)
    agreed = [x == y for x, y in zip(ours, theirs, strict=False)]
    assert sample.agreed == (agreed.index(False) if False in agreed else len(agreed))


def logits_of(made: SimpleNamespace) -> Any:
    store = TensorStore()

    def run(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            found: np.ndarray[Any, Any] = execute(
                made.program, torch.from_numpy(tokens)[None], store=store
            )[0]
            return found.numpy()[:, :301]  # type: ignore[attr-defined]

    return run


def greedy(made: SimpleNamespace, prompt: Sequence[int], count: int) -> list[int]:
    """One token after the other, by the definition."""
    run, ids = logits_of(made), list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(run(np.array(ids))[-1].argmax()))
    return ids[len(prompt) :]


def test_a_guess_changes_the_cost_but_not_the_text(made: SimpleNamespace) -> None:
    run, prompt, calls = logits_of(made), [5, 17, 100], [0]
    right = greedy(made, prompt, 12)
    assert len(set(right)) > 1

    def counted(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls[0] += 1
        result: np.ndarray[Any, Any] = run(tokens)
        return result

    def cost(guess: Any) -> int:
        calls[0] = 0
        assert greedy_reference(counted, prompt, 12, (), guess) == right
        return calls[0]

    def known(ids: list[int], count: int) -> list[int]:
        return right[len(ids) - 3 :][:count]

    assert cost(lambda ids, count: []) == 12
    assert cost(lambda ids, count: [(x + 1) % 301 for x in known(ids, count)]) == 12
    assert cost(known) == 1
    assert cost(lambda ids, count: [*known(ids, count)[:4], 0]) in (2, 3)
    stop = right[-1]
    cut = right[: right.index(stop)]
    assert greedy_reference(run, prompt, 12, {stop}, known) == cut


def test_speed_is_of_this_machine_only(made: SimpleNamespace) -> None:
    speed = made.plain.speed
    assert speed is not None and speed.predicted > 0 and speed.measured > 0
    with Model(made.folder / "plain.ingot") as model:
        assert speed.weight_bytes_per_token == model.info.weight_bytes_per_token
    assert measure_rate(Dtype.T2, 1, 1 << 16) > 0


def test_another_device_gets_a_prediction(made: SimpleNamespace) -> None:
    speed, text = made.mix.speed, read(made, "mix.html")
    assert speed is not None and speed.measured is None and OTHER_DEVICE in text
    with Model(made.folder / "mix.ingot") as model:
        reads = model.info.weight_bytes_per_token
    assert speed.predicted == pytest.approx(WEIGHT_TIME_SHARE * 11.4e9 / reads, rel=0.05)
    assert f"{speed.predicted:.1f} tok/s" in Page(text).texts["td"]
    assert json.loads(read(made, "mix.json"))["speed"]["measured"] is None
    assert made.mix.result["predicted_decode"] == pytest.approx(speed.predicted)
    known = load_target("rpi5")
    assert speed.prompt is not None and made.mix.result["predicted_prefill"] == speed.prompt
    assert f"{speed.prompt:.1f} tok/s" in Page(text).texts["td"]
    nothing = replace(known.memory, achievable_gb_s=None, peak_gb_s=None)
    unknown = replace(known, memory=nothing)
    assert measure_speed(made.program, made.folder / "mix.ingot", unknown, 1) is None
    assert UNKNOWN_DEVICE in render_page(replace(made.mix, speed=None))


def test_time_of_a_token_is_that_of_what_it_reads(made: SimpleNamespace) -> None:
    """All rows of every linear weight, and one row of the table."""
    stored = {t.name: (Dtype.C4, t.shape[0] * t.shape[1]) for t in made.program.weights()}
    stored["head"] = (Dtype.Q8, stored["head"][1])
    linear = sum(size for name, (_, size) in stored.items() if name not in ("embed", "head"))
    expected = linear / 100 + stored["head"][1] / 50 + stored["embed"][1] / 301 / 100
    rates = {Dtype.C4: 100.0, Dtype.Q8: 50.0}
    assert token_seconds(made.program, stored, rates) == pytest.approx(expected)
    with pytest.raises(InvalidArgumentError, match="no decode rate for format q8"):
        token_seconds(made.program, stored, {Dtype.C4: 100.0})


def test_a_mix_shows_its_curve_and_one_format_says_so(made: SimpleNamespace) -> None:
    assert made.plain.choice is None and ONE_FORMAT in read(made, "plain.html")
    text, figures = read(made, "mix.html"), json.loads(read(made, "mix.json"))
    assert ONE_FORMAT not in text
    choice = made.mix.choice
    assert choice is not None and figures["choice"]["divergence"] == choice.divergence > 0
    assert len(figures["choice"]["tensors"]) == 14 and len(figures["choice"]["curve"]) > 3
    assert figures["choice"]["sizes"]["weight_bytes"] == choice.sizes.weight_bytes
    assert choice.sizes.bits_per_weight_body == made.mix.result["bits_per_weight_body"]
    formats = {x["name"]: x["format"] for x in figures["choice"]["tensors"]}
    assert formats == {x["name"]: x["format"] for x in figures["tensors"]}
    assert pareto_plot(choice) in text and neighbour_plot(choice) in text


def test_the_curve_of_a_training_is_shown(made: SimpleNamespace) -> None:
    text = render_page(replace(made.plain, losses=(3.0, 2.0)))
    assert loss_curve((3.0, 2.0)) in text and "<polyline" not in render_page(made.plain)
    training = TrainingFacts("trained as a whole: scales", losses=(3.0, 2.0))
    draft = Draft(Sizes(1, 1.0, 1.0), {}, 7, training, None, {})
    facts = gather_facts(prepare_job(made.options, SilentProgress()), draft, made.plain.result)
    assert facts.losses == (3.0, 2.0) and facts.training["method"] == training.method
    assert "losses" not in facts.training and facts.texts["calibration"]["tokens"] == 7


def test_sparse_files_have_a_table_where_there_are_any(made: SimpleNamespace) -> None:
    dense = [MeasuredPoint("c4", 100, 0.2), MeasuredPoint("q8", 200, 0.01)]
    rows = compare_with_dense(dense, [MeasuredPoint("half of q8", 120, 0.05)])
    found = Page(render_page(replace(made.plain, hybrid=rows)))
    cells = found.texts["td"]
    assert cells[cells.index("half of q8") + 1 :][:4] == [
        "120",
        "0.05",
        f"{rows[0].dense_kl:.5g}",
        "yes",
    ]
    assert "Sparse files against dense ones" not in read(made, "plain.html")


def test_what_cannot_be_written_is_an_error(made: SimpleNamespace, tmp_path: Path) -> None:
    assert json_path(Path("a/x.html")) == Path("a/x.json")
    assert json_path(Path("a/x.json")) == Path("a/x.json.json")
    with pytest.raises(StorageError, match="cannot write the report"):
        page.write_report(tmp_path / "none" / "x.html", made.plain)


def test_without_a_report_none_of_it_is_loaded() -> None:
    package = Path(compress_module.__file__ or "").parent
    loading = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.parent.name != "reporting" and "reporting" in imports(path)
    ]
    # the chart of `ingot plan` is drawn with the same strokes, and loaded for it alone
    assert loading == [str(Path("planning") / "chart.py")]
    assert "reporting" in imports(Path(page.__file__ or ""))


def imports(path: Path) -> str:
    """Return the names of the modules that a module loads when it is loaded itself."""
    found = ast.parse(path.read_text(encoding="utf-8")).body
    return " ".join(one.module or "" for one in found if isinstance(one, ast.ImportFrom))
