# SPDX-License-Identifier: Apache-2.0
"""Formats for tensors: who gets which and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS, Statistics, calibrate, pick_windows
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import (
    Choices,
    assign,
    body_names,
    measure_sizes,
    quantize,
    quantize_tensor,
    stored_bytes,
)
from ingot_compressor.recipe import format_named, load_recipe
from ingot_compressor.spool import Spool
from tests.compressor.tiny_models import LLAMA, write_checkpoint

C4, Q4, Q8 = Encoding(Dtype.C4), Encoding(Dtype.Q4), Encoding(Dtype.Q8)
CHOICES = Choices(C4, Q8, Q4)


def load(folder: Path, tied: bool) -> Program:
    path = write_checkpoint(folder, {**LLAMA, "tie_word_embeddings": tied})
    return fuse(import_checkpoint(path).program)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return load(tmp_path_factory.mktemp("untied") / "m", tied=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return load(tmp_path_factory.mktemp("tied") / "m", tied=True)


def test_each_kind_of_weight_gets_its_format(untied: Program, tied: Program) -> None:
    found = assign(untied, CHOICES)
    assert found[untied.head()] == Q8 and found[untied.embedding()] == Q4
    assert {found[name] for name in body_names(untied)} == {C4}
    assert len(body_names(untied)) == 2 * 6  # q, k, v, o, gate with up, down
    assert tied.head() == tied.embedding()
    assert assign(tied, CHOICES)[tied.head()] == Q8


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_sizes_are_stored_bytes_over_true_weights(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Against a count written out by hand; the gate's 43 rows are not 48."""
    program: Program = request.getfixturevalue(kind)
    sizes = measure_sizes(program, assign(program, CHOICES))
    stored = {True: 0, False: 0}
    for tensor in program.weights():
        inside = tensor.name in body_names(program)
        encoding = assign(program, CHOICES)[tensor.name]
        stored[inside] += stored_bytes(tensor.shape, encoding)
    body = 2 * (4 * 40 * 40 + 3 * 43 * 40)
    tables = 301 * 40 * (1 if kind == "tied" else 2)
    assert sizes.bits_per_weight_body == pytest.approx(8 * stored[True] / body)
    total = stored[True] + stored[False]
    assert sizes.weight_bytes == total
    assert sizes.bits_per_weight_total == pytest.approx(8 * total / (body + tables))


def test_stored_bytes_count_padding_and_codebook() -> None:
    # one tile of 16 rows: 64 bytes of row scales, then 2 groups padded: 64 + 2 * 256
    assert stored_bytes((10, 40), C4) == 64 + 64 + 2 * 16 * 16 + 17
    assert stored_bytes((16, 64), Q8) == 64 + 16 * 64


def test_quantized_program_computes_nearly_the_same(untied: Program) -> None:
    import torch

    encodings = assign(untied, Choices(Q8, Q8, Q8))
    seen: list[str] = []
    result = quantize(
        untied, encodings, NO_STATISTICS, progress=lambda tensor: seen.append(tensor.name)
    )
    assert seen == [tensor.name for tensor in untied.weights()]
    assert all(isinstance(tensor.source, Quantized) for tensor in result.weights())
    assert all(tensor.dtype is Dtype.Q8 for tensor in result.weights())
    tokens = torch.arange(12)[None]
    exact, rounded = execute(untied, tokens), execute(result, tokens)
    assert 0 < float((exact - rounded).abs().max()) < 0.05 * float(exact.abs().max())
    assert all(isinstance(tensor.source, Weight) for tensor in untied.weights())


def test_bad_values_name_the_tensor(untied: Program) -> None:
    tensor = untied.tensors[body_names(untied)[0]]
    bad = np.full(tensor.shape, np.nan, np.float32)
    broken = replace(tensor, source=Weight("model.layers.0.q", tensor.shape, lambda: bad))
    with pytest.raises(InvalidArgumentError, match=r"'model.layers.0.q': .* NaN or infinite"):
        quantize_tensor(broken, C4, NO_STATISTICS)
    done = quantize(untied, assign(untied, CHOICES), NO_STATISTICS)
    with pytest.raises(InvalidArgumentError, match="already quantized"):
        quantize_tensor(done.tensors[tensor.name], C4, NO_STATISTICS)


def test_statistics_are_mean_squares_of_the_inputs(untied: Program) -> None:
    import torch

    windows = [np.arange(start, start + 20, dtype=np.int64) for start in (0, 50, 90)]
    seen: list[int] = []
    statistics = calibrate(untied, windows, TensorStore(), seen.append)
    assert statistics.tokens == 60 and seen[-1] == 60 and statistics.few
    names = {tensor.name for tensor in untied.weights()} - {untied.embedding()}
    assert set(statistics.mean_squares) == names
    inputs: dict[str, list[torch.Tensor]] = {}
    for window in windows:
        execute(
            untied,
            torch.from_numpy(window)[None],
            observe=lambda name, x: inputs.setdefault(name, []).append(x[0].double()),
        )
    for name, parts in inputs.items():
        expected = torch.cat(parts).square().mean(dim=0).numpy()
        assert statistics.mean_squares[name] == pytest.approx(expected, rel=1e-4)
    assert statistics.importance(untied.embedding()) is None
    assert calibrate(untied, [], TensorStore()) is NO_STATISTICS


def test_statistics_change_the_codes(untied: Program) -> None:
    tensor = untied.tensors[body_names(untied)[0]]
    h = np.linspace(0.01, 10, tensor.shape[1]) ** 2
    plain = quantize_tensor(tensor, C4, NO_STATISTICS)
    weighted = quantize_tensor(tensor, C4, Statistics({tensor.name: h}, 1))
    assert not np.array_equal(dequantize(plain), dequantize(weighted))


def test_windows_are_spread_over_the_text() -> None:
    windows = [np.full(10, i) for i in range(9)] + [np.full(4, 9)]
    assert [int(w[0]) for w in pick_windows(windows, 30)] == [0, 4, 8]
    assert [int(w[0]) for w in pick_windows(windows, 1000)] == list(range(9))
    assert pick_windows([], 30) == []


def test_spool_gives_back_the_same_codes(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((1024, 1100)).astype(np.float32)
    large, small = (quantize_matrix(x, Encoding(Dtype.Q8, search=False)) for x in (w, w[:9]))
    with Spool(tmp_path) as spool:
        held = spool.hold(large)
        assert isinstance(held.codes, np.memmap) and spool.hold(small).codes is small.codes
        assert np.array_equal(held.codes, large.codes)
        again = spool.hold(replace(large, codes=large.codes[::-1]))
        assert np.array_equal(again.codes, large.codes[::-1])
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="choose another place"):
        Spool(tmp_path / "absent")


def test_formats_are_named_and_unknown_ones_refused() -> None:
    assert format_named("c4") is Dtype.C4 and format_named("q4z") is Dtype.Q4Z
    with pytest.raises(InvalidArgumentError, match="unknown format 'iq4'; expected one of f16"):
        format_named("iq4")


def test_presets_that_are_built() -> None:
    balanced, draft = load_recipe("balanced"), load_recipe("draft")
    assert balanced.gate is not None and balanced.method.search and balanced.method.calibrate
    assert draft.gate is None and not draft.method.search and not draft.method.calibrate
    assert balanced.rounding is None and balanced.distil is None
    quality, tiny = load_recipe("quality"), load_recipe("tiny")
    assert quality.rounding is not None and quality.rounding.methods == ("gptq", "trained")
    assert quality.distil is not None and "rounding" in quality.distil.parts
    assert tiny.distil is not None and "weights" in tiny.distil.parts and tiny.formats.body == "c3"
    with pytest.raises(InvalidArgumentError, match="unknown preset 'best'"):
        load_recipe("best")


BALANCED = Path(__file__).parents[2] / "compressor/ingot_compressor/recipes/balanced.toml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("q4_group = 32", "q4_groups = 32", "unknown key 'formats.q4_groups'"),
        ("q4_group = 32", "q4_group = 48", "q4_group is 48"),
        ("q4_group = 32", "", "'formats.q4_group' is missing"),
        ("mean_kl = 0.08", "mean_kl = -1", "must be positive"),
        ("mean_kl = 0.08", 'mean_kl = "low"', "'gate.mean_kl' is 'low', expected float"),
        ("confidence = 0.95", "confidence = 1.5", "gate.confidence is 1.5"),
        ("search = true", "search = 1", "'method.search' is 1, expected bool"),
        ("least_windows = 8", "least_windows = true", "'gate.least_windows' is True"),
        ('body = "target"', 'body = "c9"', "unknown format 'c9'"),
        ('name = "balanced"', 'name = "balanced"\nspeed = 1', "unknown key 'speed'"),
        ("[gate]", "[gate", "not valid TOML"),
        ("mean_kl = 0.08", "mean_kl = nan", "gate.mean_kl is nan, expected a finite number"),
        ("p99_kl = 0.8", "p99_kl = inf", "gate.p99_kl is inf, expected a finite number"),
        ("least_windows = 8", "least_windows = 0", "gate.least_windows is 0, expected at least 1"),
        ("evaluation_tokens = 16384", "evaluation_tokens = 0", "evaluation_tokens is 0"),
        ("calibration_tokens = 16384", "calibration_tokens = -1", "calibration_tokens is -1"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = BALANCED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "r.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=message.replace("[", r"\[")):
        load_recipe(path)


QUALITY = BALANCED.with_name("quality.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((f"{key} = {old}", f"{key} = 0") for key, old in (("steps", 500), ("iterations", 120))),
        *((f"{key} = 4", f"{key} = -1") for key in ("sweeps", "guided")),
        ("rate = 0.004", "rate = -1"),
        ("rate = 0.004", "rate = 0"),
        ("rate = 0.004", "rate = nan"),
        ("rate = 0.004", "rate = 0.004\nlow_rank = -2"),
        ("most_weights = 60000000", "most_weights = -1"),
        ("rate = 0.004", "rate = 0.004\nthen_steps = -1"),
        ("rate = 0.004", "rate = 0.004\nthen_rate = 0"),
        ("rate = 0.004", 'rate = 0.004\nheld_out = "middle"'),
        ("sequences = 64", "sequences = 0"),
        ("length = 256", "length = 0"),
        ("batch = 4", "batch = 0"),
    ],
)
def test_numbers_of_a_training_are_checked(tmp_path: Path, old: str, new: str) -> None:
    text = QUALITY.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "r.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    key = new.rsplit("\n", 1)[-1].split(" = ")[0]
    with pytest.raises(InvalidArgumentError, match=rf"recipe .*(rounding|distil)\.{key} "):
        load_recipe(path)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    text = BALANCED.read_text(encoding="utf-8")
    path.write_text(text.replace('"balanced"', '"mine"').replace("0.08", "1"), encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.name == "mine" and recipe.gate is not None and recipe.gate.mean_kl == 1.0
    with pytest.raises(StorageError, match=r"absent\.toml"):
        load_recipe(tmp_path / "absent.toml")
