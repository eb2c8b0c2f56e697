# SPDX-License-Identifier: Apache-2.0
"""What recipes train: in phases, in any order, and ternary weights only where they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.container import Container
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Section
from ingot.packing import unpack_record
from ingot_compressor import training as training_module
from ingot_compressor.numerics.ternary import is_ternary
from ingot_compressor.passes.distill import distill
from ingot_compressor.recipe import load_recipe
from tests.compressor.recipes.recipe_cases import SHAPE, made, section
from tests.compressor.tiny_models import write_checkpoint

DISTIL = """
[distil]
train = "{parts}"
steps = 10
sequences = 24
length = 40
batch = 2
rate = 0.02
most_weights = 10000000
{then}
"""
THEN = 'then_steps = 10\nthen_rate = 0.01\nheld_out = "spread"'


def weights_of(file: str) -> dict[str, Any]:
    with Container(Path(file)) as container:
        names = [
            name for name in container.names if name.startswith("layers.") and "norm" not in name
        ]
        return {
            name: unpack_record(container, container.tensor_id(name))
            for name in names
            if container.tensors[container.tensor_id(name)].dtype == Dtype.C3
        }


@pytest.fixture(scope="module")
def two_phases(
    checkpoint: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights of a file that was trained in two phases, and its training."""
    rest = DISTIL.format(parts="weights+scales", then=THEN)
    given = {"calibration": texts["calibration"]}
    report = made(checkpoint, given, tmp_path_factory.mktemp("two"), rest, body="c3")
    return weights_of(report.file), section(report.file, Section.CERTIFICATE)["training"]


def test_scales_alone_move_in_the_second_phase(
    checkpoint: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    two_phases: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    given = {"calibration": texts["calibration"]}
    rest = DISTIL.format(parts="weights+scales", then='held_out = "spread"')
    report = made(checkpoint, given, tmp_path, rest, body="c3")
    first = section(report.file, Section.CERTIFICATE)["training"]
    one, (two, second) = weights_of(report.file), two_phases
    assert second["method"] == "trained as a whole: weights, scales; then scales alone"
    assert second["divergence_before"] == first["divergence_before"]
    assert second["divergence_after"] < first["divergence_after"] < first["divergence_before"]
    assert len(one) > 10
    assert all(np.array_equal(one[name].codes, two[name].codes) for name in one)
    assert not all(np.array_equal(one[name].sub_scales, two[name].sub_scales) for name in one)


def test_a_kill_in_the_second_phase_goes_on_there(
    checkpoint: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    two_phases: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    given = {"calibration": texts["calibration"]}
    rest = DISTIL.format(parts="weights+scales", then=THEN)
    work = tmp_path / "work"
    steps: list[int] = []

    def killed(*arguments: Any) -> Any:
        before = arguments[6]

        def count(step: int) -> None:
            steps.append(step)
            before(step)
            if len(steps) == 14:
                raise KeyboardInterrupt

        return distill(*arguments[:6], count, *arguments[7:])

    monkeypatch.setattr(training_module, "distill", killed)
    with pytest.raises(KeyboardInterrupt):
        made(checkpoint, given, tmp_path, rest, body="c3", work=work)
    assert steps == [*range(1, 11), *range(1, 5)]
    resumed = made(checkpoint, given, tmp_path, rest, body="c3", work=work)
    # from the step after the last check
    assert steps[14:] == list(range(5, 11))
    training = section(resumed.file, Section.CERTIFICATE)["training"]
    assert training == two_phases[1]
    again = weights_of(resumed.file)
    assert all(np.array_equal(x.sub_scales, again[n].sub_scales) for n, x in two_phases[0].items())


def test_the_preset_for_few_bits_has_both_phases() -> None:
    tiny = load_recipe("tiny").distil
    assert tiny is not None and tiny.moves_weights and 0 < tiny.then_steps < tiny.steps
    full = load_recipe("full").rounding
    assert full is not None and full.methods == ("trained",)
    assert (full.sequences, full.length, full.batch, full.iterations) == (128, 2048, 8, 200)


def test_weights_that_are_not_ternary_need_training(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    given = {"calibration": texts["calibration"], "body_format": "t2", "head_format": "q8"}
    for rest in ("", DISTIL.format(parts="scales", then="")):
        with pytest.raises(InvalidArgumentError, match=r"t2 for 'layers.* not ternary and not tra"):
            made(checkpoint, given, tmp_path, rest)
    allowed = made(checkpoint, given, tmp_path, "", allow_failing=True)
    assert [note for note in allowed.warnings if "not ternary and not trained" in note]
    assert allowed.formats["body"] == "t2"
    trained = made(checkpoint, given, tmp_path, DISTIL.format(parts="weights", then=""))
    assert trained.formats["body"] == "t2"
    assert not [note for note in trained.warnings if "ternary" in note]
    # the head is never trained
    given["head_format"] = "t2"
    with pytest.raises(InvalidArgumentError, match=r"format t2 for '(embed|head)'"):
        made(checkpoint, given, tmp_path, DISTIL.format(parts="weights", then=""))


def test_weights_that_are_ternary_need_none(
    texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "ternary", {**SHAPE, "num_hidden_layers": 1})
    real = training_module.weight_of

    def ternary(tensor: Any) -> Any:
        w = real(tensor)
        scale = np.float32(0.1)
        return (np.clip(np.rint(w / scale), -1, 1) * scale).astype(np.float32)

    monkeypatch.setattr(training_module, "weight_of", ternary)
    given = {"calibration": texts["calibration"], "body_format": "t2", "head_format": "q8"}
    assert made(source, given, tmp_path, "").formats["body"] == "t2"


def test_ternary_weights_are_told_from_others() -> None:
    signs = np.random.default_rng(0).integers(-1, 2, (6, 40)).astype(np.float32)
    scales = np.array([[0.01], [2.0], [0.0], [1.0], [7.0], [0.3]], np.float32)
    rounded = torch.from_numpy(signs * scales).bfloat16().float().numpy()
    assert is_ternary(rounded) and is_ternary(rounded * 1.001)
    rounded[3, 5] = 0.5
    assert not is_ternary(rounded)


@pytest.mark.parametrize("method", ["gptq+trained", "trained+gptq"])
def test_rounding_methods_come_in_any_order(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, method: str
) -> None:
    given = {"calibration": texts["calibration"]}
    keys = "sequences = 4\nlength = 40\nbatch = 2\niterations = 2\nsweeps = 1\n"
    rest = f'[rounding]\nmethod = "{method}"\n{keys}'
    report = made(checkpoint, given, tmp_path, rest, body="c3")
    training = section(report.file, Section.CERTIFICATE)["training"]
    expected = "; ".join(f"{name}, block by block" for name in method.split("+"))
    assert training["method"] == expected and len(training["blocks"]) == 6
