# SPDX-License-Identifier: Apache-2.0
"""Faults of the program section: records, operands, parameters, liveness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ingot.format import EntryRecord, Opcode, ProgramHeader, Rule, Section
from tests.must_fail.fault import Fault, edit
from tests.must_fail.image import Image

Action = Callable[[Image], None]


def _head(**fields: Any) -> Action:
    return lambda image: image.head(Section.PROGRAM, **fields)


def _instruction(opcode: int, nth: int = 0, /, **fields: Any) -> Action:
    return lambda image: image.instruction(image.find(opcode, nth), **fields)


def _operand(opcode: int, position: int, value: int | str, nth: int = 0) -> Action:
    return lambda image: image.operand(image.find(opcode, nth), position, value)


def _parameters(opcode: int, nth: int = 0, /, **fields: Any) -> Action:
    return lambda image: image.parameters(image.find(opcode, nth), **fields)


def _entry(**fields: Any) -> Action:
    return lambda image: image.entry(0, **fields)


def _keep(size: int) -> Action:
    def act(image: Image) -> None:
        del image.part(Section.PROGRAM).data[size:]

    return act


def _longer(image: Image) -> None:
    image.part(Section.PROGRAM).data += bytes(8)


def _second_entry(name: bytes, /, **fields: Any) -> Action:
    """Add a copy of the entry under another name, with fields replaced."""

    def act(image: Image) -> None:
        data = image.part(Section.PROGRAM).data
        first = EntryRecord.unpack(data, ProgramHeader.SIZE)
        values = {"first": first.first, "count": first.count}
        values |= {"input": first.input, "output": first.output} | fields
        record = EntryRecord(name.ljust(16, b"\0"), **values)
        data[64:64] = record.pack()
        image.head(Section.PROGRAM, entry_count=2)

    return act


def record_faults() -> Iterator[Fault]:
    rule = Rule.PROGRAM_SIZE
    yield edit("program_empty", rule, _keep(0))
    yield edit("program_short", rule, _keep(31))
    yield edit("program_headed_only", rule, _keep(32))
    yield edit("program_longer", rule, _longer)
    for name in ("entry_count", "instruction_count", "operand_count", "parameters_size"):
        yield edit(f"{name}_max", rule, _head(**{name: 0xFFFFFFFF}))
        yield edit(f"{name}_zero", rule, _head(**{name: 0}))
    yield edit("entries_65", rule, _many_entries)
    rule = Rule.PROGRAM_RESERVED
    yield edit("program_reserved", rule, _head(reserved=bytes(15) + b"\1"))
    yield edit("operand_padding", rule, _odd_operands)
    yield edit("instruction_reserved", rule, _instruction(Opcode.ADD, reserved=bytes(35) + b"\1"))
    rule = Rule.ENTRY
    names = {"empty": b"", "other": b"stop", "space": b"st ep", "control": b"st\x1bep"}
    names |= {"not_ascii": "stüp".encode(), "inner_zero": b"st\0ep", "delete": b"step\x7f"}
    for name, text in names.items():
        yield edit(f"entry_name_{name}", rule, _entry(name=text.ljust(16, b"\0")))
    yield edit("entry_no_instructions", rule, _entry(count=0))
    yield edit("entry_beyond", rule, _entry(count=1000))
    yield edit("entry_first_beyond", rule, _entry(first=0xFFFFFFFF))
    yield edit("entry_overflows", rule, _entry(first=0xFFFFFFFF, count=0xFFFFFFFF))
    yield edit("entry_twice", rule, _second_entry(b"step"))
    yield edit("entry_missing", rule, _no_entry)
    rule = Rule.ENTRY_OPERAND
    yield edit("entry_input_id", rule, _entry(input=1000))
    yield edit("entry_input_role", rule, _entry(input=2))
    yield edit("entry_input_float", rule, _entry(input=1))
    yield edit("entry_output_id", rule, _entry(output=0xFFFFFFFF))
    yield edit("entry_output_tokens", rule, _entry(output=1))
    yield edit("entry_output_integer", rule, _entry(output=0))
    yield edit("entry_output_weight", rule, _entry(output=2))
    yield edit("second_entry_input", rule, _second_entry(b"other", input=1))


def _many_entries(image: Image) -> None:
    data = image.part(Section.PROGRAM).data
    record = bytes(data[32:64])
    data[64:64] = record * 64
    image.head(Section.PROGRAM, entry_count=65)


def _odd_operands(image: Image) -> None:
    """Add one operand, or two, so that there is padding, and set a byte of it."""
    p = image.program
    data = image.part(Section.PROGRAM).data
    end = ProgramHeader.SIZE + 32 * p.entry_count + 64 * p.instruction_count + 4 * p.operand_count
    if p.operand_count % 2 == 0:
        data[end:end] = bytes(8)
        image.head(Section.PROGRAM, operand_count=p.operand_count + 1)
        end += 4
    data[end + 3] = 1


def _no_entry(image: Image) -> None:
    del image.part(Section.PROGRAM).data[32:64]
    image.head(Section.PROGRAM, entry_count=0)


def instruction_faults() -> Iterator[Fault]:
    for opcode in (0, 13, 0xFFFF):
        yield edit(f"opcode_{opcode}", Rule.OPCODE, _instruction(Opcode.ADD, opcode=opcode))
    yield edit("op_version", Rule.OP_VERSION, _instruction(Opcode.ATTENTION, version=1))
    rule = Rule.OP_FLAGS
    yield edit("flags_of_add", rule, _instruction(Opcode.ADD, flags=1))
    yield edit("flags_of_linear", rule, _instruction(Opcode.LINEAR, flags=5))
    yield edit("residual_of_three", rule, _instruction(Opcode.LINEAR, flags=3))
    yield edit("gate_with_bias", rule, _instruction(Opcode.LINEAR, 2, flags=1))
    rule = Rule.OPERAND_RANGE
    yield edit("operands_beyond", rule, _instruction(Opcode.ADD, first_operand=10000))
    yield edit("operands_overflow", rule, _instruction(Opcode.ADD, first_operand=0xFFFFFFFF))
    yield edit("operands_many", rule, _instruction(Opcode.ADD, inputs=0xFFFF))
    rule = Rule.OPERAND_COUNT
    yield edit("inputs_few", rule, _instruction(Opcode.ADD, inputs=1))
    yield edit("inputs_none", rule, _instruction(Opcode.RMS_NORM, inputs=0))
    yield edit("outputs_none", rule, _instruction(Opcode.ROPE, outputs=0))
    yield edit("linear_inputs", rule, _instruction(Opcode.LINEAR, inputs=2))
    yield edit("linear_outputs", rule, _instruction(Opcode.LINEAR, outputs=1))
    rule = Rule.OPERAND_ID
    yield edit("operand_id", rule, _operand(Opcode.ADD, 0, 1000))
    yield edit("operand_id_max", rule, _operand(Opcode.SOFT_CAP, 1, 0xFFFFFFFF))
    rule = Rule.PARAMETERS_RANGE
    yield edit("parameters_beyond", rule, _instruction(Opcode.ROPE, parameters_offset=1 << 20))
    top = (1 << 64) - 4
    yield edit("parameters_overflow", rule, _instruction(Opcode.ROPE, parameters_offset=top))
    yield edit("parameters_misaligned", rule, _instruction(Opcode.ROPE, parameters_offset=2))
    yield edit("parameters_small", rule, _instruction(Opcode.ROPE, parameters_size=12))
    yield edit("parameters_of_add", rule, _instruction(Opcode.ADD, parameters_size=4))
    yield edit("parameters_offset_of_add", rule, _instruction(Opcode.ADD, parameters_offset=4))


def role_faults() -> Iterator[Fault]:
    rule = Rule.OPERAND_ROLE
    yield edit("embed_of_float", rule, _operand(Opcode.EMBED, 0, "embedding"))
    yield edit("embed_of_weight", rule, _operand(Opcode.EMBED, 0, "embedding.weight"))
    yield edit("embed_of_constant", rule, _operand(Opcode.EMBED, 1, "rope.table"))
    yield edit("embed_into_tokens", rule, _operand(Opcode.EMBED, 2, "tokens"))
    yield edit("norm_by_weight", rule, _operand(Opcode.RMS_NORM, 1, "attn.q.weight"))
    yield edit("norm_of_state", rule, _operand(Opcode.RMS_NORM, 0, "attn.k.state"))
    yield edit("linear_of_tokens", rule, _operand(Opcode.LINEAR, 0, "tokens"))
    yield edit("linear_by_constant", rule, _operand(Opcode.LINEAR, 1, "rope.table"))
    yield edit("linear_bias_weight", rule, _operand(Opcode.LINEAR, 4, "attn.q.weight"))
    yield edit("linear_residual_constant", rule, _operand(Opcode.LINEAR, 2, "rope.table", 1))
    yield edit("attention_state", rule, _operand(Opcode.ATTENTION, 3, "attn.v"))
    yield edit("attention_into_state", rule, _operand(Opcode.ATTENTION, 5, "attn.k.state"))
    yield edit("add_into_weight", rule, _operand(Opcode.ADD, 2, "embedding.weight"))


def value_faults() -> Iterator[Fault]:
    rule = Rule.PARAMETERS_VALUE
    bad = {"zero": 0.0, "negative": -1.0, "infinite": math.inf, "nan": math.nan}
    for name, value in bad.items():
        yield edit(f"epsilon_{name}", rule, _parameters(Opcode.RMS_NORM, epsilon=value))
        yield edit(f"cap_{name}", rule, _parameters(Opcode.SOFT_CAP, value=value))
        yield edit(f"attention_scale_{name}", rule, _parameters(Opcode.ATTENTION, scale=value))
    yield edit("norm_width_zero", rule, _parameters(Opcode.LAYER_NORM, width=0))
    for value in (math.inf, -math.inf, math.nan):
        yield edit(f"factor_{value}", rule, _parameters(Opcode.SCALE, value=value))
    yield edit("linear_no_weights", rule, _parameters(Opcode.LINEAR, weights=0))
    yield edit("linear_four_weights", rule, _parameters(Opcode.LINEAR, weights=4))
    yield edit("linear_many_weights", rule, _parameters(Opcode.LINEAR, weights=0xFFFFFFFF))
    yield edit("linear_epilogue", rule, _parameters(Opcode.LINEAR, 2, epilogue=3))
    yield edit("gate_of_three", rule, _parameters(Opcode.LINEAR, epilogue=1))
    rope = {
        "head_size": (0, 1025, 8),
        "rotary_size": (0, 1, 3, 18),
        "style": (2,),
        "reserved": (1,),
    }
    for field, values in rope.items():
        for number in values:
            name = f"rope_{field}_{number}"
            yield edit(name, rule, _parameters(Opcode.ROPE, **{field: number}))
    attention = {"heads": (0, 3, 65538), "kv_heads": (0, 3), "head_size": (0, 1025)}
    attention |= {"sinks": (1,), "reserved": (1,)}
    for field, values in attention.items():
        for number in values:
            name = f"attention_{field}_{number}"
            yield edit(name, rule, _parameters(Opcode.ATTENTION, **{field: number}))
    yield edit("attention_soft_cap", rule, _parameters(Opcode.ATTENTION, soft_cap=1.0))
    yield edit("attention_cap_nan", rule, _parameters(Opcode.ATTENTION, soft_cap=math.nan))
    for kind in (0, 4):
        yield edit(f"activation_kind_{kind}", rule, _parameters(Opcode.ACTIVATION, kind=kind))


def shape_faults() -> Iterator[Fault]:
    rule = Rule.OPERAND_SHAPE
    yield edit("embed_rows", rule, _operand(Opcode.EMBED, 2, "last"))
    yield edit("embed_width", rule, _operand(Opcode.EMBED, 2, "ffn.hidden"))
    yield edit("norm_width", rule, _operand(Opcode.RMS_NORM, 2, "ffn.hidden"))
    yield edit("norm_rows", rule, _operand(Opcode.RMS_NORM, 2, "last"))
    yield edit("norm_slice", rule, _parameters(Opcode.RMS_NORM, width=48))
    yield edit("norm_constant", rule, _operand(Opcode.RMS_NORM, 1, "attn.k.bias"))
    yield edit("norm_table", rule, _operand(Opcode.RMS_NORM, 1, "rope.table"))
    yield edit("layer_norm_bias", rule, _operand(Opcode.LAYER_NORM, 2, "attn.k.bias"))
    yield edit("linear_k", rule, _operand(Opcode.LINEAR, 0, "ffn.hidden"))
    yield edit("linear_n", rule, _operand(Opcode.LINEAR, 1, "attn.k.weight"))
    yield edit("linear_rows", rule, _operand(Opcode.LINEAR, 0, "last"))
    yield edit("linear_rows_out", rule, _operand(Opcode.LINEAR, 7, "last"))
    yield edit("linear_bias", rule, _operand(Opcode.LINEAR, 4, "attn.k.bias"))
    yield edit("linear_bias_table", rule, _operand(Opcode.LINEAR, 4, "rope.table"))
    yield edit("linear_residual", rule, _operand(Opcode.LINEAR, 2, "ffn.hidden", 1))
    yield edit("gate_width", rule, _operand(Opcode.LINEAR, 2, "attn.norm", 2))
    yield edit("rope_rows", rule, _operand(Opcode.ROPE, 0, "last"))
    yield edit("rope_width", rule, _operand(Opcode.ROPE, 3, "attn.k"))
    yield edit("rope_head", rule, _parameters(Opcode.ROPE, head_size=24))
    yield edit("rope_vector", rule, _operand(Opcode.ROPE, 2, "attn.q.norm"))
    yield edit("rope_rotary", rule, _parameters(Opcode.ROPE, rotary_size=8))
    yield edit("rope_short_table", rule, lambda i: i.head(Section.PLAN, context=25))
    yield edit("attention_rows", rule, _operand(Opcode.ATTENTION, 2, "last"))
    for position, name in ((0, "k"), (1, "q"), (2, "q"), (5, "k")):
        yield edit(
            f"attention_width_{position}",
            rule,
            _operand(Opcode.ATTENTION, position, f"attn.{name}"),
        )
    yield edit("attention_state_heads", rule, _state((1, 0, 32, 0)))
    yield edit("attention_state_size", rule, _state((2, 0, 32, 0), 128, 192))
    yield edit("activation_width", rule, _operand(Opcode.ACTIVATION, 1, "ffn.down"))
    yield edit("scale_rows", rule, _operand(Opcode.SCALE, 1, "last"))
    yield edit("mul_width", rule, _operand(Opcode.MUL, 1, "ffn.down"))
    yield edit("add_rows", rule, _operand(Opcode.ADD, 1, "last"))
    yield edit("cap_width", rule, _operand(Opcode.SOFT_CAP, 0, "last"))
    yield edit("select_rows", rule, _operand(Opcode.SELECT_LAST, 1, "attn.norm"))
    yield edit("select_of_selected", rule, _operand(Opcode.SELECT_LAST, 0, "last.norm"))
    yield edit("select_width", rule, _operand(Opcode.SELECT_LAST, 1, "logits"))


def _state(shape: tuple[int, ...], size: int = 64, total: int = 128) -> Action:
    def act(image: Image) -> None:
        image.tensor("attn.k.state", shape=shape, size=size)
        image.head(Section.PLAN, state_bytes_per_token=total)

    return act


def _swap(image: Image) -> None:
    """Exchange the two instructions activation and scale."""
    data = image.part(Section.PROGRAM).data
    start = image._starts()[0]
    a = start + 64 * image.find(Opcode.ACTIVATION)
    b = start + 64 * image.find(Opcode.SCALE)
    data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]


def _over(name: str, other: str, by: int = 0) -> Action:
    """Place an activation where another one lies."""
    return lambda image: image.tensor(name, offset=image.record(other).offset + by)


def _second_tokens(image: Image) -> None:
    """Turn a constant into token ids that no entry has as its input."""
    data = image.part(Section.TENSORS).data
    at = 32 + 128 * image.names.index("attn.norm.weight")
    tokens = bytearray(data[32:160])
    tokens[0:12] = data[at : at + 12]
    data[at : at + 128] = tokens
    image.operand(image.find(Opcode.EMBED), 0, "attn.norm.weight")
    image.operand(image.find(Opcode.RMS_NORM), 1, "ffn.norm.weight")


def liveness_faults() -> Iterator[Fault]:
    rule = Rule.OPERAND_UNWRITTEN
    yield edit("cyclic", rule, _operand(Opcode.RMS_NORM, 0, "ffn.out"))
    yield edit("reads_itself", rule, _operand(Opcode.ADD, 0, "ffn.out"))
    yield edit("order", rule, _swap)
    yield edit("other_tokens", rule, _second_tokens)
    yield edit("output_unwritten", rule, _entry(count=17))
    yield edit("first_missing", rule, _entry(first=1, count=17))
    yield edit("second_entry_unwritten", rule, _second_entry(b"other", first=1, count=17))
    rule = Rule.OPERAND_ALIASED
    yield edit("state_twice", rule, _operand(Opcode.ATTENTION, 4, "attn.k.state"))
    yield edit("over_residual", rule, _over("attn.norm", "embedding"))
    yield edit("over_residual_later", rule, _over("ffn.down", "embedding"))
    yield edit("over_gate_input", rule, _over("ffn.hidden", "ffn.norm"))
    yield edit("over_linear_input", rule, _over("ffn.down", "ffn.product"))
    yield edit("over_attention_input", rule, _over("attn.mixed", "attn.q"))
    yield edit("outputs_overlap", rule, _over("attn.k", "attn.q", 64))
    yield edit("output_over_other", rule, _over("attn.v", "attn.k"))
    yield edit("same_output_twice", rule, _operand(Opcode.LINEAR, 9, "attn.k"), _v_is_k)
    yield edit("rope_crossed", rule, _over("attn.k.turned", "attn.q"))
    yield edit("in_place_shifted", rule, _over("ffn.scaled", "ffn.hidden", 64))
    yield edit("overlap_before", rule, _over("attn.q.turned", "attn.v", -64))
    yield edit("overlap_after", rule, _over("attn.k.turned", "attn.v", 64))
    yield edit("residual_shifted", rule, _over("attn.out", "embedding", 64))
    yield edit("logits_over_input", rule, _over("logits.raw", "last.norm"))
    yield edit("dead_output_over_live", rule, _operand(Opcode.ACTIVATION, 1, "ffn.scaled"), _dead)


def _v_is_k(image: Image) -> None:
    image.operand(image.find(Opcode.ATTENTION), 2, "attn.k")


def _dead(image: Image) -> None:
    """Let the result of activation be read by nobody, but lie over the residual."""
    image.operand(image.find(Opcode.SCALE), 0, "ffn.hidden")
    image.operand(image.find(Opcode.ACTIVATION), 1, "ffn.other")
    image.tensor("ffn.other", offset=image.record("embedding").offset)


def program_faults() -> Iterator[Fault]:
    """Yield all faults of the section."""
    for group in (
        record_faults,
        instruction_faults,
        role_faults,
        value_faults,
        shape_faults,
        liveness_faults,
    ):
        yield from group()
