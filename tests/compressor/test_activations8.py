# SPDX-License-Identifier: Apache-2.0
"""Rounded activations against formulas, the runtime's rounding, and each other in a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot_compressor.calibration import calibrate
from ingot_compressor.evaluate import token_windows
from ingot_compressor.execute import TensorStore, execute, quantize_activation
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.activations8 import (
    ActivationScale,
    make_rounding,
    round_by_block,
    round_by_tensor,
    round_by_token,
)
from ingot_compressor.numerics.simulated import simulated_grids
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.transform import load_matrix, smooth
from ingot_compressor.simulate import (
    compare_programs,
    data_free,
    encoding_quantizer,
    simulated_weights,
)
from tests.compressor.tiny_models import CASES, in_f16, write_checkpoint


def values(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator) * torch.rand(shape[-1], generator=generator) * 3


def test_each_rounding_is_its_formula() -> None:
    x = values(3, 4, 70)
    x[1, 2] = 0
    array = x.numpy().astype(np.float64)
    rows = np.abs(array).max(axis=-1, keepdims=True) / 127
    expected = np.rint(array / np.where(rows > 0, rows, 1)) * rows
    assert np.allclose(round_by_token(x).numpy(), expected, atol=1e-6)
    for first in (0, 32, 64):
        part = array[..., first : first + 32]
        step = np.abs(part).max(axis=-1, keepdims=True) / 127
        expected = np.rint(part / np.where(step > 0, step, 1)) * step
        found = round_by_block(x)[..., first : first + 32].numpy()
        assert np.allclose(found, expected, atol=1e-6)
    step = 1.5 / 127
    expected = np.clip(np.rint(array / step), -127, 127) * step
    found = round_by_tensor(x, 1.5).numpy()
    assert np.allclose(found, expected, atol=1e-6)
    assert np.isclose(np.abs(found).max(), 1.5)  # saturated
    assert not round_by_tensor(x, 0.0).any()


@pytest.mark.parametrize("k", [32, 70, 256])
def test_blocks_are_the_runtime_s(k: int) -> None:
    x = values(5, k)
    assert torch.equal(round_by_block(x), quantize_activation(x))


def test_fixed_scales_come_from_calibration() -> None:
    x = values(2, 8)
    rounding = make_rounding(ActivationScale.TENSOR, {"a": np.array([0.5, 2.0])})
    assert torch.equal(rounding("a", x), round_by_tensor(x, 2.0))
    assert torch.equal(rounding("unseen", x), round_by_token(x))
    assert torch.equal(make_rounding(ActivationScale.TOKEN)("a", x), round_by_token(x))
    assert torch.equal(make_rounding(ActivationScale.BLOCK)("a", x), round_by_block(x))
    with pytest.raises(ValueError, match="calibration"):
        make_rounding(ActivationScale.TENSOR)


def tiny(folder: Path) -> Program:
    write_checkpoint(folder, CASES["qwen2_tied_shared_heads"])
    return import_checkpoint(folder).program


@pytest.mark.parametrize("fused", [True, False])
def test_execute_rounds_as_it_is_told(fused: bool, tmp_path: Path) -> None:
    program = fuse(tiny(tmp_path)) if fused else tiny(tmp_path)
    tokens = torch.arange(20)[None]
    names: list[str] = []

    def noted(name: str, x: torch.Tensor) -> torch.Tensor:
        names.append(name)
        return quantize_activation(x)

    with torch.no_grad():
        plain = execute(program, tokens)
        whole = execute(program, tokens, quantize_activations=True)
        hooked = execute(program, tokens, quantize_activations=True, activation=noted)
        alone = execute(program, tokens, activation=noted)
        kept = execute(program, tokens, activation=lambda name, x: x)
    assert torch.equal(hooked, whole)
    assert not torch.equal(alone, whole)  # keys and values stay float32
    assert torch.equal(kept, plain)
    assert float((alone - plain).abs().max()) > 1e-4
    linear = [
        n for op in program.operations if op.opcode.name == "LINEAR" for n in op.linear().weights
    ]
    assert names == 2 * linear


def test_inputs_of_f16_weights_are_not_rounded(tmp_path: Path) -> None:
    program = in_f16(tiny(tmp_path))
    assert {tensor.dtype for tensor in program.weights()} == {Dtype.F16}
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        plain = execute(program, tokens)
        zeroed = execute(program, tokens, activation=lambda name, x: x * 0)
    assert torch.equal(plain, zeroed)


def test_simulated_weights_are_what_would_be_packed(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    windows = [np.arange(40) + 7 * i for i in range(3)]
    statistics = calibrate(program, windows, TensorStore())
    encoding = Encoding(Dtype.C3)
    weights = simulated_weights(program, encoding_quantizer(encoding), statistics)
    assert set(weights) == set(body_names(program))
    from ingot.packing import dequantize

    for name in ("layers.0.attention.q", "layers.1.mlp.down"):
        w, h = load_matrix(program.tensors[name]), statistics.importance(name)
        weighted, plain = (dequantize(quantize_matrix(w, encoding, x)) for x in (h, None))
        assert np.array_equal(weights[name].numpy(), weighted)
        assert not np.array_equal(weighted, plain)
    grid = simulated_grids()["mxfp4"].function
    one = simulated_weights(program, data_free(grid), names=["layers.0.mlp.up"])
    assert list(one) == ["layers.0.mlp.up"]
    w = load_matrix(program.tensors["layers.0.mlp.up"])
    assert np.array_equal(one["layers.0.mlp.up"].numpy(), grid(w))


def test_a_comparison_scores_what_is_replaced(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    windows = list(token_windows(list(range(128)), 64, None))
    same = compare_programs(program, fuse(program), windows)
    assert same.mean_kl < 1e-6 and same.top1_agreement == 1
    weights = simulated_weights(program, data_free(simulated_grids()["mxfp4"].function))
    worse = compare_programs(program, program, windows, weights)
    rounded = compare_programs(
        program, program, windows, activation=make_rounding(ActivationScale.TOKEN)
    )
    assert 0 < rounded.mean_kl < worse.mean_kl
    with pytest.raises(InvalidArgumentError, match="no window"):
        compare_programs(program, program, [])


def test_roundings_of_lantern_keep_their_order(repo_root: Path) -> None:
    """Blocks lose least; with fixed scales smoothing wins back a part."""
    imported = import_checkpoint(repo_root / "examples" / "models" / "lantern")
    program = imported.program
    from ingot.tokenizer import Tokenizer

    tokenizer = Tokenizer(imported.tokenizer_json, 0, imported.chat["add_bos"])
    texts = repo_root / "examples" / "text"
    found = {}
    for purpose in ("calibration", "evaluation"):
        content = (texts / f"{purpose}.txt").read_text(encoding="utf-8")[:20000]
        ids = tokenizer.encode(content, begin=False)
        found[purpose] = list(token_windows(ids, 256, 0, 2040))
    full = [window for window in found["calibration"] if len(window) == 256]
    kl = {}
    for title, candidate in (
        ("plain", program),
        ("smoothed", smooth(program, calibrate(program, full, TensorStore()), 0.5)),
    ):
        largest = calibrate(candidate, full, TensorStore()).max_abs
        for scale in ActivationScale:
            rounding = make_rounding(scale, largest)
            quality = compare_programs(
                program, candidate, found["evaluation"][:2], activation=rounding
            )
            kl[title, scale] = quality.mean_kl
    assert 0 < kl["plain", ActivationScale.BLOCK] < kl["plain", ActivationScale.TOKEN]
    assert kl["plain", ActivationScale.TOKEN] < kl["plain", ActivationScale.TENSOR]
    assert kl["smoothed", ActivationScale.TENSOR] < kl["plain", ActivationScale.TENSOR]
