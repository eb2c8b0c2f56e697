# SPDX-License-Identifier: Apache-2.0
"""Budgets of the command line, down to the file: its size, its plan, its speed, its divergence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.cli import main
from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, PlanHeader, Role, Section
from ingot.model import Model
from ingot.packing import stored_bytes as packed_bytes_of
from ingot.targets import load_target
from ingot_compressor import choosing
from ingot_compressor.choosing import bytes_beside_weights
from ingot_compressor.compress import CompressOptions, CompressReport, compress
from ingot_compressor.decode_rates import decode_rates, measure_rate, prefill_rates
from ingot_compressor.job import prepare_job
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.passes.budgets import (
    WEIGHT_TIME_SHARE,
    Budgets,
    limit_rows,
)
from ingot_compressor.passes.quantize import BUDGET_FORMATS, packed_size
from ingot_compressor.progress import SilentProgress
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
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", WIDE, deviation=0.08)


@pytest.fixture(scope="module")
def settings(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the options of a compression, its file apart."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "short.toml").write_text(PRESET, encoding="utf-8")
    for index, name in enumerate(("calibration", "evaluation")):
        (folder / f"{name}.txt").write_text(f"{index} {WORDS}" * 60, encoding="utf-8")
    return {
        "source": checkpoint,
        "preset": str(folder / "short.toml"),
        "calibration": folder / "calibration.txt",
        "evaluation": folder / "evaluation.txt",
    }


def make(settings: dict[str, Any], folder: Path, **options: Any) -> CompressReport:
    return compress(CompressOptions(out=folder / "x.ingot", **settings, **options))


def weight_formats(report: CompressReport) -> dict[str, Dtype]:
    with Container(Path(report.file)) as container:
        return {
            name: Dtype(tensor.dtype)
            for name, tensor in zip(container.names, container.tensors, strict=True)
            if tensor.role == Role.WEIGHT
        }


def test_bytes_beside_the_weights_are_enough_and_not_many_more(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    options = CompressOptions(out=tmp_path / "x.ingot", **settings)
    bound = bytes_beside_weights(prepare_job(options, SilentProgress()))
    report = compress(options)
    with Model(report.file) as model:
        beside = report.bytes - model.info.weights_size
    assert beside <= bound <= beside + (32 << 10)


def test_the_file_is_within_its_bytes_and_uses_them(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    plain = make(settings, tmp_path)
    limit = int(plain.bytes * 0.97)
    report = make(settings, tmp_path, max_bytes=limit)
    assert 0.8 * limit < report.bytes <= limit
    with pytest.raises(InvalidArgumentError, match=r"--max-bytes 100000 is below \d+, the least"):
        make(settings, tmp_path, max_bytes=100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ingot"]


def test_the_plan_is_within_its_memory(settings: dict[str, Any], tmp_path: Path) -> None:
    plain = make(settings, tmp_path, context=48)
    with Model(plain.file) as model:
        planned = model.plan.peaks[-1]
    report = make(settings, tmp_path, context=48, max_ram=planned[1] - 20_000)
    with Model(report.file) as model:
        assert model.plan.peaks[-1][0] == planned[0] == 48
        assert planned[1] - 30_000 < model.plan.peaks[-1][1] <= planned[1] - 20_000


def test_a_head_that_was_named_is_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    report = make(settings, tmp_path, head_format="c5", max_bytes=10**7)
    assert report.formats == {"body": "q8", "head": "c5", "embedding": "c5"}
    free = make(settings, tmp_path, max_bytes=10**7)
    assert free.formats == {"body": "q8", "head": "q8", "embedding": "q8"}


def profile(folder: Path, memory: str) -> str:
    text = Path(__file__).parents[2].joinpath("targets", "rpi4.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("achievable_gb_s = ")]
    lines = [memory if line.startswith("peak_gb_s = 1") else line for line in lines]
    lines.append('achievable_gb_s = "test"')
    path = folder / "rpi4.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_speed_comes_from_the_memory_of_the_target(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    slow = profile(tmp_path, "achievable_gb_s = 0.1")
    unlimited = make(settings, tmp_path, target=slow, max_bytes=10**8)
    with Model(unlimited.file) as model:
        plan = PlanHeader.unpack(model.section(Section.PLAN))
    most = WEIGHT_TIME_SHARE * 1e8 / plan.weight_bytes_per_token
    report = make(settings, tmp_path, target=slow, min_decode=1.5 * most)
    with Model(report.file) as model:
        reads = PlanHeader.unpack(model.section(Section.PLAN)).weight_bytes_per_token
    assert 1.5 * most <= WEIGHT_TIME_SHARE * 1e8 / reads < 1.6 * most
    unknown = profile(tmp_path, "")
    with pytest.raises(InvalidArgumentError, match=r"rpi4 has no memory\.achievable_gb_s"):
        make(settings, tmp_path, target=unknown, min_decode=1.0)


def test_rates_of_a_profile_and_of_this_machine() -> None:
    rates = decode_rates(load_target("rpi5"), [Dtype.C4, Dtype.Q8], 4)
    assert rates == {Dtype.C4: 11.4e9, Dtype.Q8: 11.4e9}
    host = decode_rates(load_target("host"), [Dtype.Q4], 1)
    assert set(host) == {Dtype.Q4}
    for rate in (*host.values(), measure_rate(Dtype.C3, 2, 1 << 20)):
        assert 5e7 < rate < 1e13
    with pytest.raises(InvalidArgumentError, match="no kernel for format f32"):
        measure_rate(Dtype.F32, 1, 1 << 20)


def test_prompts_take_products_of_what_every_token_reads(settings: dict[str, Any]) -> None:
    program = prepare_job(CompressOptions(out=Path("x"), **settings), SilentProgress()).program
    options = {one.name: [Encoding(Dtype.C2), Encoding(Dtype.Q8)] for one in program.weights()}
    rates = {Dtype.C2: 1e6, Dtype.Q8: 4e6}
    (row,) = limit_rows(program, options, Budgets(prefill=10.0, prefill_rates=rates))
    found = dict(zip(options, row.amounts, strict=True))
    assert row.name == "prefill" and row.limit == pytest.approx(1 / 10)
    # the head waits for the last token, the table is looked up
    assert not found["head"].any() and not found["embed"].any()
    shapes = {tensor.name: tensor.shape for tensor in program.weights()}
    products = 2 * (4 * 128 * 128 + 3 * 128 * 256)
    assert sum(n * k for name, (n, k) in shapes.items() if found[name].any()) == products
    assert sum(one[0] for one in found.values()) == pytest.approx(products / 1e6)
    assert sum(one[1] for one in found.values()) == pytest.approx(products / 4e6)


def test_a_prompt_is_as_fast_as_was_asked_for(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few bits take longer to unpack, a faster prompt means more of them."""
    given = {"source": settings["source"], "preset": "draft"}
    speeds = {Dtype.C2: 1e6, Dtype.C3: 2e6}
    rates = {dtype: speeds.get(dtype, 4e6) for dtype, _ in BUDGET_FORMATS}
    monkeypatch.setattr(choosing, "prefill_rates", lambda *given: rates)
    most = 4e6 / (2 * (4 * 128 * 128 + 3 * 128 * 256))
    formats = weight_formats(make(given, tmp_path, max_bytes=330_000))
    assert Dtype.C3 in formats.values() or Dtype.C2 in formats.values()
    faster = make(given, tmp_path, max_bytes=400_000, min_prefill=0.999 * most)
    assert not {Dtype.C2, Dtype.C3} & set(weight_formats(faster).values())
    with pytest.raises(InvalidArgumentError, match=r"--min-prefill .* is above \d+\.\d+ tokens"):
        make(given, tmp_path, min_prefill=1.01 * most)


def test_products_of_a_profile_and_of_this_machine() -> None:
    """Four cores of two SDOT a cycle; a short chunk waits for the memory."""
    rates = prefill_rates(load_target("rpi5"), [Dtype.C4, Dtype.Q8], 4, 128)
    assert rates[Dtype.C4] == rates[Dtype.Q8]
    assert 0.05 < rates[Dtype.C4] / (4 * 2.4e9 * 32) < 0.6
    short = prefill_rates(load_target("rpi5"), [Dtype.C4, Dtype.Q8], 4, 1)
    assert short[Dtype.Q8] == pytest.approx(11.4e9 / (34 / 32), rel=0.01)
    assert short[Dtype.C4] > 1.8 * short[Dtype.Q8]
    host = prefill_rates(load_target("host"), [Dtype.C4], 1, 64)
    assert 1e7 < host[Dtype.C4] < 1e14
    blind = load_target("rpi5")
    blind = replace(blind, cores=tuple(replace(x, int8_macs_per_cycle=None) for x in blind.cores))
    with pytest.raises(InvalidArgumentError, match="nobody knows the int8 products"):
        prefill_rates(blind, [Dtype.C4], 4, 128)


def test_budgets_count_what_a_sparse_weight_stores(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    random = np.random.default_rng(0).standard_normal((90, 700), np.float32)
    for dtype, share in ((Dtype.C4, 0.3), (Dtype.Q8, 0.5), (Dtype.C2, 0.9)):
        encoding = Encoding(dtype, search=False, sparsity=share)
        stored = packed_bytes_of(quantize_matrix(random, encoding))
        bound = packed_size((90, 700), encoding)
        assert stored <= bound < 1.15 * stored
        dense = packed_size((90, 700), replace(encoding, sparsity=0.0))
        assert bound < (1.1 - 0.9 * share) * dense
    given = {"source": settings["source"], "preset": "draft"}
    report = make(given, tmp_path, max_bytes=340_000, sparsity=0.4)
    # counted as dense, these bytes would not be spent
    assert 0.85 * 340_000 < report.bytes <= 340_000


def test_a_divergence_is_met_on_held_out_text(settings: dict[str, Any], tmp_path: Path) -> None:
    tight, loose = (make(settings, tmp_path, max_kl=limit) for limit in (0.002, 0.05))
    assert tight.bytes > loose.bytes
    assert tight.quality is not None and loose.quality is not None
    # measured by another program on another text, int8 activations included
    assert tight.quality["mean_kl"] < 0.006 < loose.quality["mean_kl"] < 0.1
    with pytest.raises(InvalidArgumentError, match="--max-kl is measured: give a longer"):
        make({**settings, "preset": "draft", "calibration": None}, tmp_path, max_kl=0.1)


def test_without_a_text_the_mix_says_so(settings: dict[str, Any], tmp_path: Path) -> None:
    given = {"source": settings["source"], "preset": "draft"}
    report = make(given, tmp_path, bpw=4.5)
    assert 4.2 < report.bits_per_weight_body <= 4.5
    assert any("least relative errors" in warning for warning in report.warnings)


def test_stages_reach_their_totals(settings: dict[str, Any], tmp_path: Path) -> None:
    reached: dict[str, tuple[int, int]] = {}

    class Recorder(SilentProgress):
        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Any]:
            yield lambda done: reached.__setitem__(name, (done, total))

    options = CompressOptions(out=tmp_path / "x.ingot", **settings, bpw=4.0)
    compress(options, Recorder())
    stages = {"Weighing formats", "Measuring sensitivity", "Comparing mixes", "Swapping formats"}
    assert stages <= set(reached)
    assert all(done == total > 0 for done, total in reached.values())


def run(settings: dict[str, Any], out: Path, *options: str) -> int:
    given = ("--preset", settings["preset"], "--calibration", str(settings["calibration"]))
    command = ["compress", str(settings["source"]), "--out", str(out), "--quiet", "--threads", "1"]
    return main([*command, *given, "--no-certificate", *options])


def test_budgets_on_the_command_line(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.ingot"
    limits = ("--max-bytes", "0.4MB", "--max-ram", "1MiB", "--max-kl", "0.5", "--json")
    assert run(settings, out, *limits) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == os.stat(out).st_size <= 400_000
    choice = report["choice"]
    with Container(out) as container:
        stored = {
            name: Dtype(one.dtype).name.lower()
            for name, one in zip(container.names, container.tensors, strict=True)
            if one.role == Role.WEIGHT
        }
    assert {one["name"]: one["format"] for one in choice["tensors"]} == stored
    assert len(choice["curve"]) > 3 and report["predicted_decode"] > 0


def test_a_mix_is_printed_with_its_reasons_and_its_speed(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, tmp_path / "x.ingot", "--max-bytes", "0.4MB", "--target", "rpi5") == 0
    shown = capsys.readouterr().out
    for part in ("one step up", "layers.1.mlp.down", "whole assignments", "what could be had"):
        assert part in shown, part
    with Model(tmp_path / "x.ingot") as model:
        expected = WEIGHT_TIME_SHARE * 11.4e9 / model.info.weight_bytes_per_token
    predicted = float(shown.partition("predicted on rpi5: ")[2].split()[0])
    assert predicted == pytest.approx(expected, rel=0.05)
    draft = ["compress", str(settings["source"]), "--out", str(tmp_path / "y.ingot"), "--quiet"]
    assert main([*draft, "--preset", "draft", "--threads", "1"]) == 0
    assert "one step up" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-bytes", "12 apples"], "'12 apples' is no size: expected one like 450MB"),
        (["--max-ram", "0"], "--max-ram is 0, expected a positive number"),
        (["--min-decode", "-1"], "--min-decode is -1, expected a positive number"),
        (["--max-kl", "nan"], "--max-kl is nan, expected a positive number"),
        (["--max-bytes", "1GiB", "--format", "c4"], "--max-bytes chooses the formats"),
    ],
)
def test_limits_that_make_no_sense_are_named(
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert run(settings, tmp_path / "x.ingot", *options) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
