# SPDX-License-Identifier: Apache-2.0
"""The PyTorch executor against transformers, the NumPy reference, and formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.container import Container
from ingot.errors import IngotError
from ingot.format import (
    ActivationKind,
    ActivationParameters,
    Dtype,
    LinearParameters,
    NormParameters,
    Opcode,
    Parameters,
    Role,
    RopeParameters,
    RopeStyle,
    Rows,
    ScalarParameters,
)
from ingot.packing import quantize_activations
from ingot.reference import ReferenceSession
from ingot_compressor.execute import TensorStore, execute, quantize_activation
from ingot_compressor.importers import Imported, import_checkpoint
from ingot_compressor.ir import Operation, Program, Tensor, Weight
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from tests.compressor.tiny_models import CASES, LLAMA, in_f16, write_checkpoint

POSITIONS = 40
TOLERANCE = 1e-4


def tokens_of(program: Program, batch: int, positions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, program.vocabulary, (batch, positions), generator=generator)


def load(folder: Path, case: str, deviation: float = 0.2) -> Imported:
    write_checkpoint(folder, CASES[case], deviation=deviation)
    beyond = POSITIONS if case == "llama_dynamic_beyond" else None
    return import_checkpoint(folder, beyond)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    imported = load(tmp_path, case)
    tokens = tokens_of(imported.program, 2, POSITIONS)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        unfused = execute(imported.program, tokens)
        fused = execute(fuse(imported.program), tokens)
    assert float(expected.std()) > 0.3  # else the tolerance would mean nothing
    assert float((unfused - expected).abs().max()) < TOLERANCE
    assert float((fused - expected).abs().max()) < TOLERANCE


@pytest.mark.parametrize("case", ["llama_tied_shared_heads", "llama_biases", "llama_relu", "qwen3"])
@pytest.mark.parametrize("fused", [False, True])
def test_logits_equal_those_of_the_numpy_reference(case: str, fused: bool, tmp_path: Path) -> None:
    # small weights: a key that rounds to the other f16 neighbour must not move the logits
    imported = load(tmp_path / "model", case, deviation=0.05)
    program = in_f16(fuse(imported.program) if fused else imported.program)
    path = tmp_path / "tiny.ingot"
    emit(program, path, imported.tokenizer_json, imported.chat, imported.meta)
    tokens = tokens_of(program, 1, 12)
    with Container(path) as container:
        container.verify()
        expected = ReferenceSession(container).eval([int(t) for t in tokens[0]], 12)
    # as the reference, this keeps keys and values in f16; inputs of f16 weights stay float32
    with torch.no_grad():
        logits = execute(program, tokens, quantize_activations=True)[0].numpy()
    assert float(np.abs(expected).std()) > 0.1
    assert float(np.abs(logits - expected).max()) < TOLERANCE


def test_stories260k_gives_its_expected_text(shared_dir: Path) -> None:
    folder = shared_dir / "models" / "stories260k"
    expected = json.loads((folder / "expected_greedy.json").read_text(encoding="utf-8"))
    program = fuse(import_checkpoint(folder).program)
    store = TensorStore()
    for prompt, answer in expected.items():
        if prompt.startswith("_"):
            continue
        ids, start = answer["prompt_ids"] + answer["greedy_ids"], len(answer["prompt_ids"])
        with torch.no_grad():
            logits = execute(program, torch.tensor([ids[:-1]]), store=store)
        assert logits[0, start - 1 :].argmax(-1).tolist() == answer["greedy_ids"]
    with torch.no_grad():
        first = execute(program, torch.tensor([[1]]), store=store)[0, 0]
    given = torch.tensor(expected["_first_logits_after_bos"])
    assert float((first - given).abs().max()) < TOLERANCE


def test_lantern_gives_its_expected_text(repo_root: Path) -> None:
    folder = repo_root / "examples" / "models" / "lantern"
    expected = json.loads((folder / "expected_greedy.json").read_text(encoding="utf-8"))
    program = fuse(import_checkpoint(folder).program)
    for answer in expected.values():
        ids, start = answer["prompt_ids"] + answer["greedy_ids"], len(answer["prompt_ids"])
        with torch.no_grad():
            logits = execute(program, torch.tensor([ids[:-1]]))
        assert logits[0, start - 1 :].argmax(-1).tolist() == answer["greedy_ids"]


def test_a_later_token_changes_no_earlier_logits(tmp_path: Path) -> None:
    program = fuse(load(tmp_path, "qwen2").program)
    tokens = tokens_of(program, 1, 9)
    with torch.no_grad():
        whole, start = execute(program, tokens), execute(program, tokens[:, :5])
    assert torch.allclose(whole[:, :5], start, atol=1e-5)


def test_observe_sees_the_input_of_every_weight(tmp_path: Path) -> None:
    program = fuse(load(tmp_path, "llama").program)
    seen: dict[str, tuple[int, ...]] = {}
    with torch.no_grad():
        execute(
            program,
            tokens_of(program, 2, 5),
            observe=lambda name, x: seen.update({name: tuple(x.shape)}),
        )
    weights = {tensor.name: tensor for tensor in program.weights()}
    del weights[program.embedding()]
    assert seen == {name: (2, 5, tensor.shape[1]) for name, tensor in weights.items()}


@pytest.mark.parametrize("quantized", [False, True])
def test_gradients_reach_replaced_weights(quantized: bool, tmp_path: Path) -> None:
    program = fuse(load(tmp_path, "llama_tied_shared_heads").program)
    store = TensorStore()
    replaced = {t.name: store.get(t).clone().requires_grad_() for t in program.weights()}
    tokens = tokens_of(program, 1, 6)
    logits = execute(program, tokens, weights=replaced, quantize_activations=quantized)
    gradients = torch.autograd.grad(logits.square().mean(), list(replaced.values()))
    for name, gradient in zip(replaced, gradients, strict=True):
        assert float(gradient.abs().max()) > 0, name


def test_quantized_activations_move_the_logits_a_little(tmp_path: Path) -> None:
    program = fuse(load(tmp_path, "llama").program)
    tokens = tokens_of(program, 1, 8)
    with torch.no_grad():
        exact = execute(program, tokens)
        rounded = execute(program, tokens, quantize_activations=True)
    difference = float((exact - rounded).abs().max())
    assert 1e-4 < difference < 0.1 * float(exact.abs().max())


def test_quantize_activation_is_the_runtime_s_rule() -> None:
    x = torch.randn((3, 70), generator=torch.Generator().manual_seed(1))
    x[1, 32:64] = 0.0
    codes, scales, *_ = quantize_activations(x.numpy())
    groups = np.asarray(codes, np.float32).reshape(3, -1, 32) * np.asarray(scales)[..., None]
    expected = groups.reshape(3, -1)[:, :70]
    assert np.array_equal(quantize_activation(x).numpy(), expected) or np.allclose(
        quantize_activation(x).numpy(), expected, rtol=0, atol=1e-6
    )


def test_store_reads_once_and_follows_a_new_source() -> None:
    reads: list[str] = []

    def weight(value: float) -> Tensor:
        def read() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            reads.append("w")
            return np.full((2, 3), value, np.float32)

        return Tensor("w", Role.WEIGHT, (2, 3), source=Weight("w", (2, 3), read))

    store, first = TensorStore(), weight(1.0)
    assert store.get(first) is store.get(first)
    assert reads == ["w"]
    assert float(store.get(weight(2.0))[0, 0]) == 2.0


def test_more_positions_than_the_context_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LLAMA)
    program = import_checkpoint(tmp_path, 8).program
    with pytest.raises(IngotError, match="9 positions are more than the program's context 8"):
        execute(program, torch.zeros((1, 9), dtype=torch.int64))
    with pytest.raises(IngotError, match="outside of the table's 301 rows"):
        execute(program, torch.tensor([[301]]))
    with pytest.raises(IngotError, match="expected \\(batch, positions\\)"):
        execute(program, torch.zeros((1, 0), dtype=torch.int64))


def run_one(
    opcode: Opcode,
    table: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    constants: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
    parameters: Parameters | None,
) -> torch.Tensor:
    """Run one operation on the rows of a table; two activations get the same rows."""
    width = table.shape[1]
    names = {Opcode.ROPE: ("x", "x"), Opcode.MUL: ("x", "x")}.get(opcode, ("x",))
    outputs = ("y", "z") if opcode is Opcode.ROPE else ("y",)
    tensors = [
        Tensor("tokens", Role.ACTIVATION, (0,), Rows.TOKENS, Dtype.I32),
        Tensor(
            "table", Role.WEIGHT, table.shape, source=Weight("t", (len(table), width), table.copy)
        ),
        *(Tensor(name, Role.ACTIVATION, (0, width), Rows.TOKENS) for name in ("x", *outputs)),
        *(Tensor(f"c{i}", Role.CONSTANT, c.shape, source=c) for i, c in enumerate(constants)),
    ]
    inputs = (*names, *(f"c{i}" for i in range(len(constants))))
    program = Program(
        tensors={tensor.name: tensor for tensor in tensors},
        operations=(
            Operation(Opcode.EMBED, ("tokens", "table"), ("x",)),
            Operation(opcode, inputs, outputs, parameters),
        ),
        input="tokens",
        output="y",
        context=64,
        chunk=64,
        vocabulary=len(table),
        meta={},
    )
    return execute(program, torch.arange(len(table))[None])[0]


TABLE = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)


def test_interleaved_partial_rope_turns_pairs() -> None:
    angles = np.arange(5, dtype=np.float64)[:, None] * np.array([1.0, 0.1])[None, :]
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    parameters = RopeParameters(head_size=8, rotary_size=4, style=RopeStyle.INTERLEAVED)
    got = run_one(Opcode.ROPE, TABLE, [table], parameters).numpy()
    pairs = TABLE[:, 0:4:2] + 1j * TABLE[:, 1:4:2]
    turned = pairs * np.exp(1j * angles)
    expected = TABLE.copy()
    expected[:, 0:4:2], expected[:, 1:4:2] = turned.real, turned.imag
    assert np.allclose(got, expected, atol=1e-6)


def test_layer_norm_is_over_slices() -> None:
    weight, bias = np.arange(4, dtype=np.float32), np.full(4, 0.5, np.float32)
    parameters = NormParameters(epsilon=0.25, width=4)
    got = run_one(Opcode.LAYER_NORM, TABLE, [weight, bias], parameters).numpy()
    slices = TABLE.reshape(5, 2, 4).astype(np.float64)
    centred = slices - slices.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.25) * weight + bias
    assert np.allclose(got, expected.reshape(5, 8), atol=1e-6)


@pytest.mark.parametrize(
    ("opcode", "parameters", "formula"),
    [
        (Opcode.MUL, None, lambda x: x * x),
        (Opcode.SCALE, ScalarParameters(0.5), lambda x: 0.5 * x),
        (Opcode.SOFT_CAP, ScalarParameters(2.0), lambda x: 2.0 * math.tanh(x / 2.0)),
        (
            Opcode.ACTIVATION,
            ActivationParameters(ActivationKind.SILU),
            lambda x: x / (1 + math.exp(-x)),
        ),
        (Opcode.ACTIVATION, ActivationParameters(ActivationKind.RELU), lambda x: max(x, 0.0)),
        (
            Opcode.ACTIVATION,
            ActivationParameters(ActivationKind.GELU_TANH),
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
    ],
)
def test_elementwise_operations_equal_their_formulas(
    opcode: Opcode, parameters: Parameters | None, formula: object
) -> None:
    assert callable(formula)
    got = run_one(opcode, TABLE, [], parameters).numpy()
    assert np.allclose(got, np.vectorize(formula)(TABLE.astype(np.float64)), atol=1e-6)


def test_an_operation_with_foreign_parameters_is_refused() -> None:
    with pytest.raises(IngotError, match="scale needs ScalarParameters"):
        run_one(Opcode.SCALE, TABLE, [], LinearParameters(1, 0))
