# SPDX-License-Identifier: Apache-2.0
"""Faults of the sections required and plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ingot.format import Dtype, Opcode, RequiredHeader, RequiredRecord, Rule, Section
from tests.must_fail.fault import Fault, edit
from tests.must_fail.image import Image

ABSURD = (1 << 32) + 64


def _required(index: int, /, **fields: Any) -> Callable[[Image], None]:
    return lambda image: image.required(index, **fields)


def _plan(**fields: Any) -> Callable[[Image], None]:
    return lambda image: image.head(Section.PLAN, **fields)


def _keep(kind: Section, size: int) -> Callable[[Image], None]:
    def act(image: Image) -> None:
        del image.part(kind).data[size:]

    return act


def _append_required(record: RequiredRecord) -> Callable[[Image], None]:
    def act(image: Image) -> None:
        data = image.part(Section.REQUIRED).data
        count = RequiredHeader.unpack(data).count
        data += record.pack()
        image.head(Section.REQUIRED, count=count + 1)

    return act


def _drop_required(opcode: int, dtype: int) -> Callable[[Image], None]:
    def act(image: Image) -> None:
        data = image.part(Section.REQUIRED).data
        for at in range(RequiredHeader.SIZE, len(data), RequiredRecord.SIZE):
            record = RequiredRecord.unpack(data, at)
            if (record.opcode, record.dtype) == (opcode, dtype):
                count = RequiredHeader.unpack(data).count
                del data[at : at + RequiredRecord.SIZE]
                image.head(Section.REQUIRED, count=count - 1)
                return

    return act


def _many_required(image: Image) -> None:
    data = image.part(Section.REQUIRED).data
    data[:] = RequiredHeader(4097).pack() + bytes(data[16:24]) * 4097


def required_faults() -> Iterator[Fault]:
    rule = Rule.REQUIRED_SIZE
    yield edit("required_short", rule, _keep(Section.REQUIRED, 15))
    yield edit("required_empty", rule, _keep(Section.REQUIRED, 0))
    yield edit("required_headed_only", rule, _keep(Section.REQUIRED, 16))
    yield edit("required_count", rule, lambda i: i.head(Section.REQUIRED, count=1))
    yield edit("required_count_max", rule, lambda i: i.head(Section.REQUIRED, count=0xFFFFFFFF))
    yield edit("required_4097", rule, _many_required)
    yield edit("required_reserved", rule, lambda i: i.head(Section.REQUIRED, reserved=b"\1" * 12))
    yield edit("required_record_reserved", rule, _required(0, reserved=1))
    rule = Rule.REQUIRED_UNSUPPORTED
    extra = {
        "opcode_0": RequiredRecord(0, 0, 0, 0, 0),
        "opcode_13": RequiredRecord(13, 0, 0, 0, 0),
        "version": RequiredRecord(Opcode.ADD, 1, 0, 0, 0),
        "dtype_q6": RequiredRecord(Opcode.LINEAR, 0, Dtype.Q6, 2, 1),
        "dtype_t2": RequiredRecord(Opcode.LINEAR, 0, Dtype.T2, 0, 1),
        "dtype_of_add": RequiredRecord(Opcode.ADD, 0, Dtype.Q8, 1, 1),
        "scale_kind": RequiredRecord(Opcode.LINEAR, 0, Dtype.C4, 1, 1),
        "layout": RequiredRecord(Opcode.EMBED, 0, Dtype.Q8, 1, 3),
        "scale_of_none": RequiredRecord(Opcode.ADD, 0, 0, 1, 0),
        "layout_of_none": RequiredRecord(Opcode.ADD, 0, 0, 0, 1),
    }
    for name, record in extra.items():
        yield edit(f"requires_{name}", rule, _append_required(record))
    yield edit("requires_many", rule, *(_append_required(r) for r in list(extra.values()) * 4))
    rule = Rule.REQUIRED_MISSING
    yield edit("unlisted_add", rule, _drop_required(Opcode.ADD, 0))
    yield edit("unlisted_c4", rule, _drop_required(Opcode.LINEAR, Dtype.C4))
    yield edit("unlisted_embed", rule, _drop_required(Opcode.EMBED, Dtype.Q8))


def _peak(**fields: int) -> Callable[[Image], None]:
    from ingot.format import PeakRecord, PlanHeader

    return lambda image: image.edit(Section.PLAN, PlanHeader.SIZE, PeakRecord, **fields)


def plan_faults() -> Iterator[Fault]:
    rule = Rule.PLAN_SIZE
    yield edit("plan_short", rule, _keep(Section.PLAN, 127))
    yield edit("plan_empty", rule, _keep(Section.PLAN, 0))
    yield edit("plan_no_peak", rule, _keep(Section.PLAN, 128))
    yield edit("peak_count_max", rule, _plan(peak_count=0xFFFFFFFF))
    yield edit("plan_reserved", rule, _plan(reserved=bytes(71) + b"\1"))
    rule = Rule.PLAN_VALUE
    bad = {"context": (0, (1 << 24) + 1), "chunk": (0, 25, 4097), "vocabulary": (0, (1 << 30) + 1)}
    for field, values in bad.items():
        for value in values:
            yield edit(f"plan_{field}_{value}", rule, _plan(**{field: value}))
    large = _plan(chunk=4097, context=1 << 20)
    yield edit("plan_chunk_large", rule, large)
    yield edit("plan_vocabulary_beyond", rule, _plan(vocabulary=41))
    yield edit("plan_vocabulary_head", rule, _narrow_logits)
    for field in ("context", "chunk"):
        for value in (0, 25):
            yield edit(f"peak_{field}_{value}", rule, _peak(**{field: value}))
    rule = Rule.PLAN_ARENA
    for field in ("arena_bytes_per_token", "arena_bytes_per_selected", "scratch_bytes_per_token"):
        yield edit(f"{field}_absurd", rule, _plan(**{field: ABSURD}))
        yield edit(f"{field}_odd", rule, _plan(**{field: 4000}))
        small = Rule.PLAN_ARENA if field.startswith("scratch") else Rule.TENSOR_RANGE
        yield edit(f"{field}_small", small, _plan(**{field: 128}))
    rule = Rule.PLAN_STATE
    for value in (0, 64, 129, ABSURD):
        yield edit(f"state_{value}", rule, _plan(state_bytes_per_token=value))
    yield edit("state_huge", rule, _huge_state)


def _narrow_logits(image: Image) -> None:
    """Take a weight of 32 rows as the head: fewer logits than the vocabulary of 40."""
    image.operand(image.find(Opcode.LINEAR, 4), 1, "attn.k.weight")
    for name in ("logits.raw", "logits"):
        image.tensor(name, shape=(0, 32, 0, 0), size=128)


def _huge_state(image: Image) -> None:
    """A state that no attention uses: only the plan can refuse it."""
    top = 1 << 30
    image.tensor("attn.k.state", shape=(top, 0, 2, 0), size=top * 4)
    image.tensor("attn.v.state", shape=(top, 0, top, 0), size=top * top * 2)
    attention = image.find(Opcode.ATTENTION)
    item = image.instruction_at(attention)
    image.instruction(
        attention, opcode=Opcode.ADD, inputs=2, outputs=1, parameters_offset=0, parameters_size=0
    )
    assert item.inputs == 5
    image.operand(attention, 0, "attn.q.turned")
    image.operand(attention, 1, "attn.q.turned")
    image.operand(attention, 2, "attn.mixed")
