# SPDX-License-Identifier: Apache-2.0
"""Fusing, planning and writing of programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.container import Container
from ingot.errors import IngotError, InternalError
from ingot.format import Dtype, Epilogue, LinearFlag, LinearParameters, Opcode, Role, Section
from ingot.packing import Quantized, pack, packed_bytes, payload_bytes, unpack
from ingot_compressor.importers import choose_context, import_checkpoint, read_model
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder, expected_tensors, lower
from ingot_compressor.ir import FloatArray, Program, Weight
from ingot_compressor.passes.emit import contents, emit, weight_bytes_per_token
from ingot_compressor.passes.fuse import fuse, interleave_tiles
from ingot_compressor.passes.listing import format_program
from ingot_compressor.passes.plan import plan, row_bytes
from tests.compressor.tiny_models import CASES, LLAMA, in_f16, write_checkpoint

UNSUPPORTED = {"gpt2": "model_type 'gpt2'", "Qwen3-30B-A3B": "model_type 'qwen3_moe'"}


class Unread:
    """Shapes without data: constants are zeros, a matrix must not be read."""

    def __init__(self, decoder: Decoder) -> None:
        self.shapes = expected_tensors(decoder)

    def array(self, name: str) -> FloatArray:
        return np.zeros(self.shapes[name], np.float32)

    def weight(self, name: str) -> Weight:
        n, k = self.shapes[name]
        return Weight(name, (n, k), self.refuse)

    def refuse(self) -> FloatArray:
        raise AssertionError("a pass read a matrix")


def lowered(values: Mapping[str, Any], context: int | None = None) -> Program:
    _, decoder = read_model(Configuration(values))
    length = choose_context(decoder, context)
    return lower(decoder, Unread(decoder), length, 128, decoder.table_rows, {})


def check_places(program: Program) -> None:
    """Look at every pair of activations that are needed at one time, by brute force."""
    memory = plan(program)
    first: dict[str, int] = {}
    last: dict[str, int] = {program.output: len(program.operations)}
    for index, operation in enumerate(program.operations):
        for name in operation.outputs:
            first[name] = index
        for name in operation.inputs:
            last[name] = max(last.get(name, index), index)
    for index in range(len(program.operations)):
        # after this operation: what exists and is read later
        live = [n for n, made in first.items() if made <= index < last.get(n, made)]
        spans = sorted(
            (program.tensors[n].rows, memory.offsets[n], memory.offsets[n] + row)
            for n in live
            if (row := row_bytes(program.tensors[n]))
        )
        for (rows, _, end), (rows_after, begin, _) in pairwise(spans):
            assert rows != rows_after or end <= begin
    for name, offset in memory.offsets.items():
        assert offset % 64 == 0, name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), LLAMA)


def test_tiles_of_gate_and_up_alternate() -> None:
    gate = np.arange(1, 19, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    rows = interleave_tiles(gate, -gate)[:, 0]
    assert rows.shape == (64,)
    assert rows[:16].tolist() == gate[:16, 0].tolist()
    assert rows[16:32].tolist() == (-gate[:16, 0]).tolist()
    assert rows[32:34].tolist() == [17.0, 18.0] and rows[48:50].tolist() == [-17.0, -18.0]
    assert not rows[34:48].any() and not rows[50:].any()


def test_fuse_makes_nine_operations_of_a_layer() -> None:
    program = fuse(lowered(LLAMA))
    counts = Counter(operation.opcode for operation in program.operations)
    assert counts == {
        Opcode.EMBED: 1,
        Opcode.RMS_NORM: 5,
        Opcode.LINEAR: 9,
        Opcode.ROPE: 2,
        Opcode.ATTENTION: 2,
        Opcode.SELECT_LAST: 1,
    }
    shapes = [op.parameters for op in program.operations if op.opcode is Opcode.LINEAR][:4]
    assert shapes == [
        LinearParameters(3, Epilogue.NONE),
        LinearParameters(1, Epilogue.NONE),
        LinearParameters(1, Epilogue.SILU_GATE),
        LinearParameters(1, Epilogue.NONE),
    ]
    assert program.tensors["layers.0.mlp.gate_up"].shape == (96, 40)
    assert "layers.0.mlp.gate" not in program.tensors


def test_fuse_keeps_biases_with_their_weights() -> None:
    program = fuse(lowered(CASES["qwen2"]))
    first = next(op for op in program.operations if op.opcode is Opcode.LINEAR)
    operands = first.linear()
    assert first.flags == LinearFlag.BIAS
    assert operands.weights == tuple(f"layers.0.attention.{name}" for name in "qkv")
    assert operands.biases == tuple(f"layers.0.attention.{name}.bias" for name in "qkv")


def test_fuse_leaves_gates_that_no_epilogue_has() -> None:
    for case in ("llama_relu", "llama_biases"):
        program = fuse(lowered(CASES[case]))
        assert sum(op.opcode is Opcode.MUL for op in program.operations) == 2, case


def test_fuse_leaves_an_activation_that_is_read_twice() -> None:
    program = lowered(LLAMA)
    # the logits of this program are one gate: fusing it away would lose them
    gate = "layers.0.mlp.gate.out"
    index = next(i for i, op in enumerate(program.operations) if gate in op.outputs)
    kept = replace(program, output=gate, operations=program.operations[: index + 4])
    assert any(gate in op.outputs for op in fuse(kept).operations)


def test_fuse_after_quantization_is_refused(tiny: Path) -> None:
    program = in_f16(import_checkpoint(tiny).program)
    with pytest.raises(InternalError, match="fuse runs before quantization"):
        fuse(program)


@pytest.mark.parametrize("case", CASES)
def test_no_two_live_activations_share_a_place(case: str) -> None:
    program = lowered(CASES[case])
    check_places(program)
    check_places(fuse(program))


def test_arena_of_a_fused_layer_is_as_small_as_it_can_be() -> None:
    program = fuse(lowered(LLAMA))
    # widest moment: the residual, its norm, q, k and v, 40 floats each in rows of 64 bytes
    assert plan(program).arena_bytes_per_token == 5 * 192
    # norm.out lies where selected lay; the logits beside it
    assert plan(program).arena_bytes_per_selected == 192 + 1216


def test_plan_counts_states_scratch_and_peaks() -> None:
    memory = plan(lowered({**LLAMA, "max_position_embeddings": 1500}))
    assert memory.state_bytes_per_token == 2 * 2 * 40 * 2
    assert memory.scratch_bytes_per_token == 192  # 128 int8, 4 scales and sums, in rows of 64
    peaks = memory.peaks(weights_size=1000)
    assert [peak.context for peak in peaks] == [512, 1024, 1500]
    per_token = memory.arena_bytes_per_token + memory.scratch_bytes_per_token
    whole = 1000 + per_token * 128 + memory.arena_bytes_per_selected
    assert peaks[-1].peak_bytes == whole + memory.state_bytes_per_token * 1536
    assert peaks[-1].chunk == 128


def test_emitted_file_is_valid_and_says_what_it_needs(tiny: Path, tmp_path: Path) -> None:
    imported = import_checkpoint(tiny)
    program = in_f16(fuse(imported.program))
    path = tmp_path / "tiny.ingot"
    extra = {Section.CERTIFICATE: b'{"gate":"ungated"}'}
    emit(program, path, imported.tokenizer_json, imported.chat, imported.meta, extra)
    with Container(path) as container:
        container.verify()
        assert container.names[:3] == ("tokens", "embed", "embed.out")
        assert container.plan.vocabulary == 301
        assert container.json(Section.CHAT) == imported.chat
        assert container.json(Section.META)["model_type"] == "llama"
        assert container.json(Section.CERTIFICATE) == {"gate": "ungated"}
        assert bytes(container.section(Section.TOKENIZER)) == imported.tokenizer_json
        used = {(record.opcode, record.dtype) for record in container.required}
        plain = {Opcode.RMS_NORM, Opcode.ROPE, Opcode.ATTENTION, Opcode.SELECT_LAST}
        formatted = {(Opcode.EMBED, Dtype.F16), (Opcode.LINEAR, Dtype.F16)}
        assert used == formatted | {(opcode, Dtype.NONE) for opcode in plain}
        down = container.tensor_id("layers.1.mlp.down")
        record = container.tensors[down]
        assert record.size == packed_bytes(Dtype.F16, 40, 43, 0)
        data = np.frombuffer(container.tensor_bytes(down), np.uint8)
        stored = unpack(data, Dtype.F16, (40, 43), 0, np.zeros(0, np.int8), 0)
        source = program.tensors["layers.1.mlp.down"].source
        assert np.array_equal(stored.codes, source.codes)  # type: ignore[union-attr]


def test_unfused_file_is_valid_too(tiny: Path, tmp_path: Path) -> None:
    imported = import_checkpoint(tiny)
    path = tmp_path / "tiny.ingot"
    emit(in_f16(imported.program), path, imported.tokenizer_json, imported.chat, imported.meta)
    with Container(path) as container:
        container.verify()
        assert len(container.instructions) == len(imported.program.operations)


def test_bytes_per_token_leave_padding_out(tiny: Path) -> None:
    program = import_checkpoint(tiny).program
    whole = sum(tensor.shape[0] * tensor.shape[1] for tensor in program.weights())
    table = program.tensors[program.embedding()].shape
    expected = 2 * (whole - table[0] * table[1] + table[1])
    assert weight_bytes_per_token(in_f16(program)) == expected
    # the zero rows that a fused gate adds are not counted
    assert weight_bytes_per_token(in_f16(fuse(program))) == expected
    assert payload_bytes(Dtype.F16, 1, 3, 0) == 6


def test_a_weight_that_is_not_quantized_is_refused(tiny: Path, tmp_path: Path) -> None:
    imported = import_checkpoint(tiny)
    path = tmp_path / "tiny.ingot"
    with pytest.raises(IngotError, match="weight 'embed' is not quantized"):
        emit(imported.program, path, imported.tokenizer_json, imported.chat, imported.meta)
    assert not path.exists()


def test_weights_are_packed_one_at_a_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Quantized] = []

    def count(quantized: Quantized) -> NDArray[np.uint8]:
        packed.append(quantized)
        return pack(quantized)

    monkeypatch.setattr("ingot_compressor.passes.emit.pack", count)
    stream = iter(contents(in_f16(fuse(import_checkpoint(tiny).program)), {}).weights)
    assert not packed
    offset, _ = next(stream)
    assert (offset, len(packed)) == (0, 1)


def test_listing_shows_every_operation() -> None:
    program = fuse(lowered(CASES["qwen3"]))
    lines = format_program(program).splitlines()
    assert len(lines) == 1 + len(program.operations)
    assert "context 64, chunk 64, vocabulary 301" in lines[0]
    assert "layers.0.attention.q:f32[64x40]" in lines[3] and "weights=3" in lines[3]


def shared_configs() -> list[str]:
    folder = Path(__file__).resolve().parents[3] / "shared" / "configs"
    return sorted(path.stem for path in folder.glob("*.json")) or ["absent"]


@pytest.mark.parametrize("name", shared_configs())
def test_well_known_configurations(name: str, shared_dir: Path) -> None:
    values = json.loads((shared_dir / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    if name in UNSUPPORTED:
        with pytest.raises(IngotError, match=UNSUPPORTED[name]):
            lowered(values)
        return
    program = fuse(lowered(values, context=256))
    check_places(program)
    states = [t for t in program.tensors.values() if t.role is Role.STATE]
    assert len(states) == 2 * values["num_hidden_layers"]
    assert plan(program).arena_bytes_per_selected >= 4 * values["vocab_size"]
    tied = bool(values.get("tie_word_embeddings"))
    assert (program.embedding() == program.head()) is tied
