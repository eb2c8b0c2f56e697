# SPDX-License-Identifier: Apache-2.0
"""Recipes with half-quadratic scales, with scales of activations, and with simulated grids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.cli import main
from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Section
from ingot.packing import dequantize, unpack_record
from ingot_compressor import job as job_module
from ingot_compressor import training as training_module
from ingot_compressor.calibration import calibrate
from ingot_compressor.evaluate import evaluate, summarize
from ingot_compressor.evaluation.comparison import EvalOptions
from ingot_compressor.evaluation.simulation import Simulation, simulate_recipe
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Tensor
from ingot_compressor.job import Job
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.gptq import GptqOptions
from ingot_compressor.numerics.simulated import simulated_grids
from ingot_compressor.passes.block_methods import SolvedCodes
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.transform import load_matrix
from ingot_compressor.progress import SilentProgress
from ingot_compressor.recipe import load_recipe
from tests.compressor.recipes.recipe_cases import (
    GATE,
    logits,
    made,
    prepared,
    section,
    write_recipe,
)

HQQ = 'scales = "hqq"\n'


def recipe(folder: Path, inputs: str = "", grid: str = "", more: str = "", body: str = "q8") -> str:
    """Write a recipe of W8A8, or of a grid, and return its path."""
    rest = f'[activations]\nscales = "{inputs}"\n' if inputs else ""
    path = write_recipe(folder, rest + more, body)
    if grid:
        text = Path(path).read_text(encoding="utf-8")
        text = text.replace("q4_group = 32", f'q4_group = 32\ngrid = "{grid}"')
        Path(path).write_text(text, encoding="utf-8")
    return path


def simulated(checkpoint: Path, texts: dict[str, Path], path: str, **options: Any) -> Simulation:
    given = EvalOptions(
        Path(path),
        checkpoint,
        texts["evaluation"],
        max_tokens=512,
        calibration=texts["calibration"],
        **options,
    )
    return simulate_recipe(given, SilentProgress())


# Half-quadratic scales


@pytest.mark.parametrize("body", ["q4", "q4z", "c4"])
def test_a_recipe_stores_half_quadratic_scales(
    checkpoint: Path, tmp_path: Path, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = made(checkpoint, {}, tmp_path, HQQ, body=body)
    assert report.scales == "hqq" and report.verdict == "ungated"
    assert section(report.file, Section.CERTIFICATE)["scales"] == "hqq"
    assert section(report.file, Section.META)["scales"] == "hqq"
    assert section(report.file, Section.CERTIFICATE)["calibration"] is None
    program, name = fuse(import_checkpoint(checkpoint).program), "layers.1.mlp.down"
    w, dtype = load_matrix(program.tensors[name]), Dtype[body.upper()]
    with Container(Path(report.file)) as container:
        stored = dequantize(unpack_record(container, container.tensor_id(name)))
    sparse, plain = (
        dequantize(quantize_matrix(w, Encoding(dtype, search=False, half_quadratic=hqq)))
        for hqq in (True, False)
    )
    assert np.array_equal(stored, sparse) and not np.array_equal(stored, plain)
    arguments = ["eval", report.file, "--against", str(checkpoint), "--max-tokens", "512"]
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["mean_kl"] < 1


def test_statistics_weigh_half_quadratic_errors(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """Data is not needed, but used where there is some; the page names the method."""
    page = tmp_path / "page.html"
    report = made(checkpoint, texts, tmp_path, HQQ + GATE, body="q4", report=page)
    job = prepared(checkpoint, texts, tmp_path, HQQ, body="q4")
    assert job.calibration is not None
    windows = job.packed(job.calibration, 1024)
    assert windows is not None
    h = calibrate(job.program, windows.windows, TensorStore()).importance("layers.0.mlp.down")
    with Container(Path(report.file)) as container:
        number = container.tensor_id("layers.0.mlp.down")
        stored = dequantize(unpack_record(container, number))
    w = load_matrix(job.program.tensors["layers.0.mlp.down"])
    encoding = Encoding(Dtype.Q4, search=False, half_quadratic=True)
    assert np.array_equal(stored, dequantize(quantize_matrix(w, encoding, h)))
    assert not np.array_equal(stored, dequantize(quantize_matrix(w, encoding)))
    assert "<td>scales</td><td>hqq</td>" in page.read_text(encoding="utf-8")


def test_half_quadratic_scales_need_a_grid_with_groups(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    for body in ("f16", "t2"):
        with pytest.raises(InvalidArgumentError, match=f"and {body} has none: take q8"):
            prepared(checkpoint, texts, tmp_path, HQQ, body=body)
    mixed = prepared(checkpoint, texts, tmp_path, HQQ, body="c4", head_format="f16")
    assert mixed.choices.body.scales == "hqq" and mixed.choices.head.scales == "absmax"


# Scales of activations


def test_each_scale_is_measured_beside_float_inputs(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    found = {
        name: simulated(checkpoint, texts, recipe(tmp_path, name))
        for name in ("dynamic", "token", "static", "float")
    }
    names = {key: [row.activations for row in one.rows] for key, one in found.items()}
    assert names["dynamic"] == ["float", "dynamic"] and names["float"] == ["dynamic", "float"]
    assert names["static"] == ["float", "dynamic", "static"]
    assert [row.stored for row in found["static"].rows] == [
        "not packed",
        "format of record",
        "not packed",
    ]
    assert {one.weights for one in found.values()} == {"q8"}
    rows = found["static"].rows
    assert rows[0].rounding_kl == 0 < rows[1].rounding_kl < rows[2].rounding_kl
    assert rows[1].quality == found["dynamic"].own.quality
    assert found["token"].own.quality.mean_kl < rows[2].quality.mean_kl


def test_static_scales_are_the_largest_inputs_of_the_calibration(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """The same figures from `execute` with a rounding written out here."""
    found = simulated(checkpoint, texts, recipe(tmp_path, "static")).own
    job = prepared(checkpoint, texts, tmp_path, "", body="q8")
    largest = dict(largest_inputs(job))
    program = job.program.with_tensors(
        {tensor.name: stored_in_q8(tensor) for tensor in job.program.weights()}
    )

    def rounded(name: str, x: torch.Tensor) -> torch.Tensor:
        step = largest[name] / 127
        return torch.clamp(torch.round(x / step), -127, 127) * step

    def run(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            given = torch.from_numpy(tokens)[None]
            result: np.ndarray[Any, Any] = execute(program, given, activation=rounded)[0].numpy()
        return result[:, : program.vocabulary]

    text = texts["evaluation"].read_text(encoding="utf-8")
    ids = job.tokenizer().encode(text, begin=False)[:512]
    chat = job.imported.chat
    begin = [chat["bos_token_id"]] if chat["add_bos"] else []
    size = 128 - len(begin)
    windows = [np.array(begin + ids[at : at + size]) for at in range(0, 512, size)]
    windows = [one for one in windows if len(one) > 32]
    expected = summarize(evaluate(windows, lambda one: plain_logits(job, one), run))
    assert found.quality.tokens == expected.tokens
    assert found.quality.mean_kl == pytest.approx(expected.mean_kl, rel=1e-3)


def largest_inputs(job: Job) -> dict[str, float]:
    assert job.calibration is not None
    packed = job.packed(job.calibration, 1024)
    assert packed is not None
    seen: dict[str, float] = {}

    def observe(name: str, x: torch.Tensor) -> None:
        seen[name] = max(seen.get(name, 0.0), float(x.abs().max()))

    with torch.inference_mode():
        for window in packed.windows:
            execute(job.program, torch.from_numpy(window)[None], observe=observe)
    return seen


def stored_in_q8(tensor: Tensor) -> Tensor:
    quantized = quantize_matrix(load_matrix(tensor), Encoding(Dtype.Q8, search=False))
    return replace(tensor, dtype=Dtype.Q8, source=quantized)


def plain_logits(job: Job, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return logits(job.reference, tokens)[:, : job.reference.vocabulary]


def test_dynamic_scales_are_what_the_file_does(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = recipe(tmp_path, "dynamic", body="c3")
    assert made(checkpoint, texts, tmp_path, "", body="c3").scales == "absmax"
    arguments = ["--against", str(checkpoint), "--text", str(texts["evaluation"])]
    arguments += ["--max-tokens", "512", "--json", "--quiet"]
    recipe(tmp_path, "dynamic", body="c3")
    found = []
    for given in (["eval", str(tmp_path / "x.ingot")], ["eval", preset, "--calibration"]):
        more = [str(texts["calibration"])] if "--calibration" in given else []
        capsys.readouterr()
        assert main([*given, *more, *arguments]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["activations"] == "dynamic" and found[1]["stored"] == "format of record"
    assert found[0]["tokens"] == found[1]["tokens"]
    assert found[1]["mean_kl"] == pytest.approx(found[0]["mean_kl"], rel=0.02)


def test_smoothing_comes_before_static_scales(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """Of smoothed weights with float inputs the logits are those of the checkpoint."""
    plain = simulated(checkpoint, texts, recipe(tmp_path, "static", body="f16"))
    more = "[transform]\nsmooth = 0.5\n"
    smoothed = simulated(checkpoint, texts, recipe(tmp_path, "static", more=more))
    assert plain.own.rounding_kl == 0  # f16 weights take inputs as they are
    assert smoothed.rows[0].quality.mean_kl < 1e-3 < smoothed.rows[0].quality.top1_agreement
    assert (
        smoothed.own.rounding_kl
        != simulated(checkpoint, texts, recipe(tmp_path, "static")).own.rounding_kl
    )


def test_what_is_not_packed_is_refused_with_what_to_do(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.ingot"
    for inputs, grid, key in (
        ("static", "", 'activations.scales "static" is not packed'),
        ("token", "nvfp4", 'formats.grid "nvfp4" and activations.scales "token" is not packed'),
    ):
        path = recipe(tmp_path, inputs, grid)
        arguments = ["compress", str(checkpoint), "--out", str(out), "--preset", path, "--quiet"]
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert key in said and f"ingot eval {path} --against {checkpoint}" in said
        assert not out.exists()
    recipe(tmp_path, "dynamic")
    assert main([*arguments, "--no-certificate"]) == 0 and out.exists()


def test_static_scales_need_text(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_recipe(recipe(tmp_path, "static")).needs_text
    assert not load_recipe(recipe(tmp_path, "token")).needs_text
    monkeypatch.setattr(job_module, "bundled_text", lambda name: None)
    text = tmp_path / "text.txt"
    text.write_text("the lamp was lit and nobody in the house had seen it " * 30, encoding="utf-8")
    options = EvalOptions(Path(recipe(tmp_path, "static")), checkpoint, text)
    with pytest.raises(InvalidArgumentError, match="fixed by calibration: give --calibration"):
        simulate_recipe(options, SilentProgress())
    for more in ({"tasks": ("blimp=x.jsonl",)}, {"layers": True}, {"kv": "kv8"}):
        with pytest.raises(InvalidArgumentError, match=r"needs? a file: a recipe"):
            simulated(checkpoint, {"evaluation": text, "calibration": text}, "x.toml", **more)


# Simulated grids


def test_a_grid_takes_the_place_of_the_body(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    program = fuse(import_checkpoint(checkpoint).program)
    for name in ("nf4_double", "int8_symmetric_row", "int8_symmetric_tensor"):
        found = simulated(checkpoint, texts, recipe(tmp_path, "float", name, body="f16"))
        grid = simulated_grids()[name]
        weights = {
            one: torch.from_numpy(grid.function(load_matrix(program.tensors[one])))
            for one in body_names(program)
        }
        sizes = [program.tensors[one].shape for one in weights]
        bits = sum(grid.bits(n, k) * n * k for n, k in sizes) / sum(n * k for n, k in sizes)
        assert found.bits_per_weight_body == pytest.approx(bits)
        assert found.weights == name and {row.stored for row in found.rows} == {"not packed"}
        with torch.inference_mode():
            tokens = torch.arange(40)[None]
            one, other = execute(program, tokens), execute(program, tokens, weights=weights)
        assert float((one - other).abs().max()) > 1e-4
        kl = float(
            torch.nn.functional.kl_div(
                other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="none"
            )
            .sum(-1)
            .mean()
        )
        assert kl / 4 < found.own.quality.mean_kl < 4 * kl


def test_a_verdict_is_of_the_recipe_s_own_row(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate.toml"
    limits = "[gate]\nmean_kl = {}\np99_kl = 99\nconfidence = 0.95\nleast_windows = 1\n"
    path = recipe(tmp_path, "static", "int4_symmetric_tensor")
    text = Path(path).read_text(encoding="utf-8").split("[formats]")
    for limit, status in (("1e-9", 1), ("9", 0)):
        plain = "[formats]" + text[1].replace('grid = "int4_symmetric_tensor"', "")
        gate.write_text(text[0] + plain + limits.format(limit), encoding="utf-8")
        arguments = ["eval", path, "--against", str(checkpoint), "--quiet", "--max-tokens", "512"]
        arguments += ["--text", str(texts["evaluation"]), "--gate", str(gate)]
        assert main([*arguments, "--calibration", str(texts["calibration"])]) == status
        said = capsys.readouterr().out
        assert "int4_symmetric_tensor" in said and "not packed" in said
        assert ("verdict fail" in said) is bool(status)


# What goes into the search, and how a file is run


def test_the_length_of_calibration_sequences_is_a_key(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    digests = set()
    for length in (512, 128, 40):
        rest = f"calibration_length = {length}\n{GATE}"
        report = made(checkpoint, texts, tmp_path, rest, body="q8")
        found = section(report.file, Section.CERTIFICATE)["calibration"]
        windows = 1024 // min(length, 128)
        assert found["tokens"] == windows * min(length, 128)
        digests.add(found["windows_sha256"])
    assert len(digests) == 2  # the context is 128


def test_damping_and_order_reach_the_solver(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[GptqOptions] = []

    class Noted(SolvedCodes):
        def __init__(self, options: GptqOptions, *rest: Any, **named: Any) -> None:
            seen.append(options)
            super().__init__(options, *rest, **named)

    monkeypatch.setattr(training_module, "SolvedCodes", Noted)
    rounding = '[rounding]\nmethod = "gptq"\nsequences = 4\nlength = 40\nbatch = 2\n'
    rounding += "iterations = 1\nsweeps = 1\n"
    for more in ("", "damping = 0.5\nact_order = false\n"):
        made(checkpoint, texts, tmp_path, rounding + more, body="q4")
    assert [(one.damping, one.act_order) for one in seen] == [(0.01, True), (0.5, False)]


def test_keys_and_values_of_an_evaluation(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = made(checkpoint, texts, tmp_path, "", body="f16")
    arguments = ["eval", report.file, "--against", str(checkpoint), "--json", "--quiet"]
    arguments += ["--text", str(texts["evaluation"]), "--max-tokens", "512"]
    kl = {}
    for kv in ("f16", "kv8", "k8v4"):
        capsys.readouterr()
        assert main([*arguments, "--kv", kv]) == 0
        kl[kv] = json.loads(capsys.readouterr().out)["mean_kl"]
    assert kl["f16"] < kl["kv8"] < kl["k8v4"]


def test_budgets_of_a_recipe_are_those_of_the_command_line(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    given = {"calibration": texts["calibration"]}
    plain = made(checkpoint, given, tmp_path, "", body="c4", bpw=5.0)
    mixed = made(checkpoint, given, tmp_path, "[budgets]\nbpw = 5.0\n", body="c4")
    assert mixed.choice is not None and plain.choice is not None
    assert mixed.formats == plain.formats and mixed.bytes == plain.bytes
    assert 4.5 < mixed.bits_per_weight_body <= 5
    keys = "[budgets]\nbpw = 5.0\nmax_ram = 9999999\n"
    less = prepared(checkpoint, given, tmp_path, keys, body="c4", bpw=3.5).options
    assert less.bpw == 3.5 and less.max_ram == 9999999 and less.max_kl is None
    assert not prepared(checkpoint, given, tmp_path, keys, body_format="q8").options.budgeted
    with pytest.raises(InvalidArgumentError, match="--bpw is 0"):
        prepared(checkpoint, given, tmp_path, "[budgets]\nbpw = 0\n", body="c4")
