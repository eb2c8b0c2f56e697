# SPDX-License-Identifier: Apache-2.0
"""Training block by block and as a whole: better than the search, and resumable after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.container import Container
from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import Dtype, Section
from ingot.packing import Quantized, dequantize
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import calibrate
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.numerics.fake_quantize import FakeQuantized, Part
from ingot_compressor.numerics.gptq import GptqOptions
from ingot_compressor.numerics.hessian import hessian_bytes
from ingot_compressor.passes.activation_store import ActivationStore
from ingot_compressor.passes.block_methods import (
    SolvedCodes,
    TrainedRounding,
    run_block,
    weight_of,
)
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.distill import DistillSettings, distill, top_kl
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import Choices, assign, body_names, quantize
from ingot_compressor.passes.refine import refine_blocks
from ingot_compressor.passes.train_block import TrainSettings
from ingot_compressor.texts import bundled_text, read_text
from ingot_compressor.work import WorkFolder, work_key
from tests.compressor.tiny_models import LLAMA, write_checkpoint

LANTERN = Path(__file__).parents[2] / "examples/models/lantern"


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("tiny")
    return fuse(import_checkpoint(write_checkpoint(folder, LLAMA)).program)


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    return list(np.random.default_rng(0).integers(0, 300, (24, 32)))


def quantized(program: Program, windows: Any, dtype: Dtype) -> dict[str, Quantized]:
    statistics = calibrate(program, windows, TensorStore())
    encoding, head = Encoding(dtype), Encoding(Dtype.Q8)
    result = quantize(program, assign(program, Choices(encoding, head, head)), statistics)
    found = {}
    for tensor in result.weights():
        assert isinstance(tensor.source, Quantized)
        found[tensor.name] = tensor.source
    return found


def divergence(program: Program, weights: dict[str, Quantized], windows: Any) -> float:
    tokens = torch.from_numpy(np.stack(windows))
    values = {name: torch.from_numpy(dequantize(q)) for name, q in weights.items()}
    with torch.no_grad():
        reference, candidate = execute(program, tokens), execute(program, tokens, weights=values)
    return float(top_kl(reference, candidate, 10_000))


def test_top_kl_is_the_divergence_and_a_lower_bound_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(5, 40, generator=generator) for _ in range(2))
    a, b = torch.softmax(p.double(), -1), torch.softmax(q.double(), -1)
    exact = float((a * (a / b).log()).sum(-1).mean())
    assert math.isclose(float(top_kl(p, q, 40)), exact, rel_tol=1e-5)
    fewer = [float(top_kl(p, q, top)) for top in (39, 20, 5, 1)]
    assert all(0 <= x <= exact + 1e-6 for x in fewer) and fewer == sorted(fewer, reverse=True)
    # the rest as one event, by hand for one row
    order = a[0].argsort(descending=True)[:5]
    rest_a, rest_b = 1 - a[0, order].sum(), 1 - b[0, order].sum()
    by_hand = (a[0, order] * (a[0, order] / b[0, order]).log()).sum()
    by_hand += rest_a * (rest_a / rest_b).log()
    assert math.isclose(float(top_kl(p[:1], q[:1], 5)), float(by_hand), rel_tol=1e-4)


def test_blocks_come_closer_and_the_model_with_them(program: Program, windows: Any) -> None:
    start = quantized(program, windows, Dtype.C3)
    settings = TrainedRounding(TrainSettings(iterations=40, batch=4))
    done: list[int] = []
    better, reports = refine_blocks(program, start, windows, settings, TensorStore(), done.append)
    assert done == list(range(1, 81)) and len(reports) == 2
    assert all(report.after < report.before for report in reports)
    assert divergence(program, better, windows) < 0.9 * divergence(program, start, windows)
    apart = {program.head(), program.embedding()}
    assert all(better[name] is start[name] for name in apart)


@pytest.mark.parametrize("dtype", [Dtype.C3, Dtype.Q4Z, Dtype.Q8])
def test_gptq_brings_blocks_closer(program: Program, windows: Any, dtype: Dtype) -> None:
    start = quantized(program, windows, dtype)
    done: list[int] = []
    better, reports = refine_blocks(
        program, start, windows, SolvedCodes(GptqOptions(sweeps=1)), TensorStore(), done.append
    )
    assert done == list(range(1, 9)) and len(reports) == 2
    assert all(report.after < report.before for report in reports)
    assert divergence(program, better, windows) < divergence(program, start, windows)
    for name in body_names(program):
        assert better[name].dtype is dtype and better[name].shape == start[name].shape


def test_hessians_that_do_not_fit_leave_codes_as_they_are(program: Program, windows: Any) -> None:
    """Guidance goes first; then only operations with few enough columns are solved for."""
    start = quantized(program, windows, Dtype.C3)
    names = [name for name in body_names(program) if "layers.0." in name]
    guidance = {name: torch.ones((len(windows), 32, 3)) for name in names}
    together = [f"layers.0.attention.{part}" for part in "qkv"]
    rest = [name for name in names if "down" not in name]
    # queries, keys and values are one operation, with three groups of each
    for most, unguided, unsolved in (
        (hessian_bytes(40, 9), [], []),
        (hessian_bytes(40, 9) - 1, together, []),
        (hessian_bytes(43, 1), names, []),
        (hessian_bytes(40, 1), rest, ["layers.0.mlp.down"]),
        (hessian_bytes(40, 1) - 1, [], names),
    ):
        method = SolvedCodes(GptqOptions(sweeps=0), guidance=guidance, most_bytes=most)
        better, reports = refine_blocks(program, start, windows, method, TensorStore())
        assert set(reports[0].unguided) == set(unguided)
        assert set(reports[0].unsolved) == set(unsolved)
        assert all(better[name] is start[name] for name in unsolved)
        solved = set(names) - set(unsolved) - set(reports[0].fallbacks)
        assert all(better[name] is not start[name] for name in solved)


def test_finished_blocks_are_not_trained_again(
    program: Program, windows: Any, tmp_path: Path
) -> None:
    start = quantized(program, windows, Dtype.C3)
    settings = TrainedRounding(TrainSettings(iterations=4, batch=4))
    work = WorkFolder(tmp_path / "work", "key")
    first, reports = refine_blocks(program, start, windows, settings, TensorStore(), None, work)
    untrained = TrainedRounding(TrainSettings(iterations=0, batch=4))
    again, kept = refine_blocks(program, start, windows, untrained, TensorStore(), None, work)
    assert len(reports) == 2 and kept == reports
    for name, weight in first.items():
        assert np.array_equal(weight.codes, again[name].codes)
        assert np.array_equal(dequantize(weight), dequantize(again[name]))


def test_activations_that_are_many_lie_in_a_file(
    program: Program, windows: Any, tmp_path: Path
) -> None:
    block, store = split_blocks(program)[0], TensorStore()
    tokens = torch.from_numpy(np.stack(windows))
    full = run_block(block, tokens, None, store, 5, False)
    room = ActivationStore(tmp_path, 1000)
    spilled = run_block(block, tokens, None, store, 5, False, room=room)
    assert torch.equal(full, spilled) and list(tmp_path.iterdir()) == []
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(tmp_path) in mapped
    with pytest.raises(StorageError, match=r"no room for .* GB of activations"):
        ActivationStore(tmp_path / "absent", 0).empty((1 << 20, 1 << 8))


def test_a_work_folder_belongs_to_one_compression(tmp_path: Path) -> None:
    WorkFolder(tmp_path / "work", work_key({"a": 1}))
    WorkFolder(tmp_path / "work", work_key({"a": 1}))
    with pytest.raises(InvalidArgumentError, match="another compression"):
        WorkFolder(tmp_path / "work", work_key({"a": 2}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="is not empty"):
        WorkFolder(tmp_path / "other", "key")


def fake(program: Program, start: dict[str, Quantized], part: Part) -> dict[str, FakeQuantized]:
    return {
        name: FakeQuantized(torch.from_numpy(weight_of(program.tensors[name])), start[name], part)
        for name in body_names(program)
    }


@pytest.mark.parametrize(
    "part", [Part(rounding=True, scales=True, codebook=True), Part(weights=True, scales=True)]
)
def test_the_whole_model_comes_closer_on_text_kept_apart(part: Part) -> None:
    imported = import_checkpoint(LANTERN)
    program = fuse(imported.program)
    text = bundled_text("calibration")
    assert text is not None
    ids = Tokenizer(imported.tokenizer_json, 0, False).encode(read_text(text).content[:40_000])
    windows = list(np.asarray(ids[: 96 * 64], np.int64).reshape(96, 64))
    start = quantized(program, windows, Dtype.C2)
    weights = fake(program, start, part)
    settings = DistillSettings(steps=12, batch=2, rate=0.008, held=8)
    result = distill(program, weights, {}, windows, TensorStore(), settings)
    assert result.after < 0.96 * result.before and len(result.losses) == 12
    better = {name: weight.store() for name, weight in weights.items()}
    body = {name: start[name] for name in weights}
    held = windows[: settings.held]
    assert math.isclose(divergence(program, better, held), result.after, rel_tol=1e-3)
    assert math.isclose(divergence(program, body, held), result.before, rel_tol=1e-3)


def test_too_little_text_is_refused(program: Program, windows: Any) -> None:
    settings = DistillSettings(steps=1, batch=4, rate=0.02, held=8)
    with pytest.raises(InvalidArgumentError, match="11 windows of calibration text, expected at"):
        distill(program, {}, {}, windows[:11], TensorStore(), settings)


def test_a_resumed_run_ends_where_an_unbroken_one_does(program: Program, windows: Any) -> None:
    start = quantized(program, windows, Dtype.C3)
    part, settings = Part(rounding=True, scales=True), DistillSettings(10, 4, 0.02, held=4)
    whole = fake(program, start, part)
    unbroken = distill(program, whole, {}, windows, TensorStore(), settings)

    states: list[dict[str, Any]] = []
    broken = fake(program, start, part)
    with pytest.raises(KeyboardInterrupt):
        distill(
            program, broken, {}, windows, TensorStore(), settings, _stop_at(6), None, states.append
        )
    assert len(states[-1]["losses"]) == 6
    resumed = fake(program, start, part)
    result = distill(program, resumed, {}, windows, TensorStore(), settings, None, states[-1], None)
    assert result == unbroken
    for name, weight in whole.items():
        assert np.array_equal(weight.store().codes, resumed[name].store().codes)


def test_windows_kept_apart_are_the_first_or_from_all_of_the_text() -> None:
    first = DistillSettings(1, 1, 0.1, held=3)
    assert first.kept_apart(10) == [0, 1, 2]
    assert replace(first, spread=True).kept_apart(10) == [0, 4, 9]


def test_spread_windows_are_not_trained_on(program: Program, windows: Any) -> None:
    """A window that is all there is of some token is kept apart: training never sees it."""
    texts = [np.full(8, 5, np.int64) for _ in range(8)]
    texts[4] = np.full(8, 7, np.int64)
    seen: list[int] = []

    def teacher(tokens: torch.Tensor) -> torch.Tensor:
        seen.extend(tokens[:, 0].tolist())
        return execute(program, tokens)

    start = quantized(program, windows, Dtype.C3)
    settings = DistillSettings(20, 2, 0.01, held=3, spread=True)
    weights = fake(program, start, Part(scales=True, frozen=True))
    distill(program, weights, {}, texts, TensorStore(), settings, teacher=teacher)
    # at the beginning and at ten checks
    assert seen.count(7) == 11


def _stop_at(step: int) -> Any:
    def progress(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


RECIPE = """
name = "short"
description = "a short training"
[formats]
body = "c3"
head = "q8"
embedding = "q8"
q4_group = 32
[method]
search = false
calibrate = true
calibration_tokens = 512
evaluation_tokens = 2048
[rounding]
method = "trained"
sequences = 4
length = 64
batch = 2
iterations = 3
[distil]
train = "rounding+scales"
steps = 10
sequences = 24
length = 40
batch = 2
rate = 0.01
most_weights = {most}
"""


@pytest.mark.parametrize(
    "most",
    [
        pytest.param(0, id="blocks"),
        pytest.param(10_000_000, id="whole", marks=pytest.mark.slow),
    ],
)
def test_a_killed_compression_goes_on_and_gives_the_same_file(tmp_path: Path, most: int) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text(RECIPE.format(most=most), encoding="utf-8")
    whole, resumed = tmp_path / "whole.ingot", tmp_path / "resumed.ingot"
    assert _compress(recipe, whole, tmp_path / "a").wait() == 0

    work = tmp_path / "b"
    first = _compress(recipe, resumed, work)
    _wait_for_a_part(work, first)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and not resumed.exists()
    parts = sorted(path.name for path in work.iterdir())
    assert _compress(recipe, resumed, work).wait() == 0
    assert len(parts) > 1
    assert _measured(whole) == _measured(resumed)


def _compress(recipe: Path, out: Path, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ingot", "compress", str(LANTERN), "--out", str(out)]
    command += ["--preset", str(recipe), "--work", str(work), "--quiet", "--threads", "1"]
    return subprocess.Popen(command)


def _wait_for_a_part(work: Path, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit and process.poll() is None:
        if work.exists() and any(p.suffix in (".npz", ".pt") for p in work.iterdir()):
            return
        time.sleep(0.01)
    pytest.fail("no part was kept before the end")


def _measured(path: Path) -> dict[str, Any]:
    with Container(path) as file:
        digests = {s.kind: bytes(s.sha256).hex() for s in file.sections}
        text = json.loads(bytes(file.section(Section.META)))
        certificate = json.loads(bytes(file.section(Section.CERTIFICATE)))
    return {
        "weights": digests[Section.WEIGHTS],
        "program": digests[Section.PROGRAM],
        "recipe": text["recipe"],
        "training": certificate["training"],
    }
