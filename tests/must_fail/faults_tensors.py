# SPDX-License-Identifier: Apache-2.0
"""Faults of the tensors section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ingot.format import Dtype, Layout, Rows, Rule, Section, TensorsHeader
from tests.must_fail.fault import Fault, edit
from tests.must_fail.image import Image

WEIGHT, CONSTANT, ACTIVATION = "attn.o.weight", "attn.norm.weight", "attn.norm"
STATE, TOKENS, TABLE = "attn.k.state", "tokens", "rope.table"
HUGE = 1 << 62


def _set(name: str, /, **fields: Any) -> Callable[[Image], None]:
    return lambda image: image.tensor(name, **fields)


def _head(**fields: Any) -> Callable[[Image], None]:
    return lambda image: image.head(Section.TENSORS, **fields)


def _resize(by: int) -> Callable[[Image], None]:
    def act(image: Image) -> None:
        data = image.part(Section.TENSORS).data
        image.part(Section.TENSORS).data = data + bytes(by) if by > 0 else data[:by]

    return act


def _keep(size: int) -> Callable[[Image], None]:
    def act(image: Image) -> None:
        del image.part(Section.TENSORS).data[size:]

    return act


def tensor_section_faults() -> Iterator[Fault]:
    rule = Rule.TENSORS_SIZE
    yield edit("tensors_short", rule, _keep(31))
    yield edit("tensors_headed_only", rule, _keep(32))
    yield edit("tensors_empty", rule, _keep(0))
    yield edit("tensors_longer", rule, _resize(1))
    yield edit("tensors_shorter", rule, _resize(-1))
    yield edit("tensor_count_max", rule, _head(count=0xFFFFFFFF))
    yield edit("tensor_count_million", rule, _head(count=1 << 20, names_offset=32 + (128 << 20)))
    yield edit("tensor_count_above", rule, _head(count=(1 << 20) + 1))
    yield edit("tensor_record_size", rule, _head(record_size=64))
    yield edit("names_offset", rule, _head(names_offset=32))
    yield edit("names_size", rule, _head(names_size=1))
    yield edit("names_size_overflows", rule, _head(names_size=(1 << 64) - 1))
    yield edit("tensors_reserved", Rule.TENSOR_RESERVED, _head(reserved=1))
    yield edit("no_tensors", Rule.OPERAND_ID, _no_tensors, _no_state)


def _no_tensors(image: Image) -> None:
    image.part(Section.TENSORS).data[:] = TensorsHeader(0, 128, 32, 0).pack()


def _no_state(image: Image) -> None:
    image.head(Section.PLAN, state_bytes_per_token=0)


def _rename(name: str, text: bytes) -> Callable[[Image], None]:
    """Overwrite a name in place with bytes of the same length."""

    def act(image: Image) -> None:
        record = image.record(name)
        data = image.part(Section.TENSORS).data
        start = TensorsHeader.unpack(data).names_offset + record.name_offset
        data[start : start + record.name_size] = text.ljust(record.name_size, b"x")

    return act


def name_faults() -> Iterator[Fault]:
    rule = Rule.TENSOR_NAME
    yield edit("tensor_id", Rule.TENSOR_ID, _set(WEIGHT, id=3))
    yield edit("name_empty", rule, _set(WEIGHT, name_size=0))
    yield edit("name_long", rule, _set(WEIGHT, name_size=256))
    yield edit("name_beyond", rule, _set(WEIGHT, name_offset=1 << 20))
    yield edit("name_ends_beyond", rule, _set("logits", name_size=255))
    yield edit("name_offset_overflows", rule, _set(WEIGHT, name_offset=0xFFFFFFFF))
    yield edit("name_twice", rule, _same_name)
    bad = {
        "continuation": b"\x80",
        "overlong_two": b"\xc0\xaf",
        "overlong_three": b"\xe0\x80\x80",
        "overlong_four": b"\xf0\x80\x80\x80",
        "surrogate": b"\xed\xa0\x80",
        "too_large": b"\xf4\x90\x80\x80",
        "never": b"\xf5\x80\x80\x80",
        "broken_two": b"\xc3(",
        "broken_three": b"\xe2\x82(",
        "broken_four": b"\xf0\x9f\x98(",
    }
    for name, text in bad.items():
        yield edit(f"utf8_{name}", rule, _rename(WEIGHT, text))
    size = len(WEIGHT)
    yield edit("utf8_cut", rule, _rename(WEIGHT, b"x" * (size - 1) + b"\xc3"))


def _same_name(image: Image) -> None:
    record = image.record("attn.k.weight")
    image.tensor("attn.q.weight", name_offset=record.name_offset, name_size=record.name_size)


def kind_faults() -> Iterator[Fault]:
    rule = Rule.TENSOR_ROLE
    yield edit("role_zero", rule, _set(WEIGHT, role=0))
    yield edit("role_unknown", rule, _set(WEIGHT, role=5))
    yield edit("rows_of_weight", rule, _set(WEIGHT, rows=Rows.TOKENS))
    yield edit("rows_missing", rule, _set(ACTIVATION, rows=Rows.NONE))
    yield edit("rows_unknown", rule, _set(ACTIVATION, rows=3))
    yield edit("state_kind_missing", rule, _set(STATE, state_kind=0))
    yield edit("state_kind_ring", rule, _set(STATE, state_kind=2))
    yield edit("state_kind_of_weight", rule, _set(WEIGHT, state_kind=1))
    rule = Rule.TENSOR_DTYPE
    for dtype in (0, Dtype.F32, Dtype.T2 + 1, 255):
        yield edit(f"weight_dtype_{int(dtype)}", rule, _set(WEIGHT, dtype=dtype))
    yield edit("constant_dtype", rule, _set(CONSTANT, dtype=Dtype.F16))
    yield edit("activation_dtype", rule, _set(ACTIVATION, dtype=Dtype.F16))
    yield edit("state_dtype", rule, _set(STATE, dtype=Dtype.F32))
    yield edit("tokens_selected", rule, _set(TOKENS, rows=Rows.SELECTED))
    rule = Rule.TENSOR_SCALE_KIND
    yield edit("scale_kind_weight", rule, _set(WEIGHT, scale_kind=1))
    yield edit("scale_kind_unknown", rule, _set(WEIGHT, scale_kind=9))
    yield edit("scale_kind_constant", rule, _set(CONSTANT, scale_kind=1))
    yield edit("scale_kind_f16", rule, _set("ffn.down.weight", scale_kind=1))
    rule = Rule.TENSOR_LAYOUT
    yield edit("layout_plain", rule, _set(WEIGHT, layout=Layout.PLAIN))
    yield edit("layout_unknown", rule, _set(WEIGHT, layout=Layout.T16_K8 + 1))
    yield edit("layout_of_constant", rule, _set(CONSTANT, layout=Layout.T16))
    yield edit("layout_of_state", rule, _set(STATE, layout=Layout.T16))
    yield edit("sparsity_unknown", Rule.TENSOR_SPARSITY, _set(ACTIVATION, sparsity=7))


def shape_faults() -> Iterator[Fault]:
    rule = Rule.TENSOR_RANK
    for name, rank in ((WEIGHT, 1), (WEIGHT, 0), (CONSTANT, 0), (CONSTANT, 5), (ACTIVATION, 1)):
        yield edit(f"rank_{rank}_{name}", rule, _set(name, rank=rank))
    yield edit("rank_tokens", rule, _set(TOKENS, rank=2))
    yield edit("rank_state", rule, _set(STATE, rank=2))
    rule = Rule.TENSOR_SHAPE
    yield edit("dimension_zero", rule, _set(WEIGHT, shape=(0, 64, 0, 0)))
    yield edit("dimension_huge", rule, _set(WEIGHT, shape=(64, (1 << 30) + 1, 0, 0)))
    yield edit("dimension_wraps", rule, _set(WEIGHT, shape=(64, 1 << 63, 0, 0)))
    yield edit("dimension_beyond_rank", rule, _set(WEIGHT, shape=(64, 64, 1, 0)))
    yield edit("dimension_static", rule, _set(ACTIVATION, shape=(1, 64, 0, 0)))
    yield edit("state_static", rule, _set(STATE, shape=(2, 1, 16, 0)))
    yield edit("tokens_static", rule, _set(TOKENS, shape=(1, 0, 0, 0)))
    rule = Rule.TENSOR_GROUP
    yield edit("group_c4", rule, _set(WEIGHT, group=64))
    yield edit("group_q8", rule, _set("embedding.weight", group=64))
    yield edit("group_q4", rule, _set("attn.q.weight", group=48))
    yield edit("group_f16", rule, _set("ffn.down.weight", group=32))
    yield edit("group_constant", rule, _set(CONSTANT, group=32))
    yield edit("group_activation", rule, _set(ACTIVATION, group=32))
    rule = Rule.TENSOR_RESERVED
    yield edit("tensor_reserved", rule, _set(WEIGHT, reserved=bytes(19) + b"\1"))
    yield edit("delta_of_q4", rule, _set("attn.q.weight", delta=1))
    yield edit("delta_large", rule, _set(WEIGHT, delta=128))
    yield edit("delta_small", rule, _set(WEIGHT, delta=-(1 << 31)))
    yield edit("codebook_tail", rule, _set(WEIGHT, codebook=(0,) * 31 + (1,)))
    yield edit("codebook_of_f16", rule, _set("ffn.down.weight", codebook=(1,) + (0,) * 31))
    yield edit("offset_of_state", rule, _set(STATE, offset=64))
    yield edit("offset_of_tokens", rule, _set(TOKENS, offset=64))


def place_faults() -> Iterator[Fault]:
    rule = Rule.TENSOR_SIZE
    for name in (WEIGHT, CONSTANT, ACTIVATION, STATE, TOKENS):
        yield edit(f"size_zero_{name}", rule, _set(name, size=0))
        yield edit(f"size_huge_{name}", rule, _set(name, size=HUGE))
    top = 1 << 30
    yield edit("shape_overflows", rule, _set(CONSTANT, rank=4, shape=(top, top, top, top), size=0))
    wraps = {"rank": 4, "shape": (top, top, 4, 1), "size": 0}
    yield edit("shape_wraps_to_zero", rule, _set(CONSTANT, **wraps))
    huge = {"shape": (top, top, 0, 0), "size": 0}
    yield edit("weight_huge", rule, _set(WEIGHT, **huge))
    rule = Rule.TENSOR_ALIGNMENT
    yield edit("weight_misaligned", rule, lambda i: _move(i, WEIGHT, 64))
    yield edit("constant_misaligned", rule, lambda i: _move(i, CONSTANT, 4))
    yield edit("activation_misaligned", rule, lambda i: _move(i, ACTIVATION, 32))
    rule = Rule.TENSOR_RANGE
    top_offset = (1 << 64) - 256
    for name in (WEIGHT, CONSTANT, ACTIVATION, "logits"):
        yield edit(f"offset_beyond_{name}", rule, _set(name, offset=1 << 20))
        yield edit(f"offset_overflows_{name}", rule, _set(name, offset=top_offset))
    yield edit("weights_cut", rule, _cut_weights)
    yield edit("huge_constant", rule, _set(CONSTANT, shape=(top, 0, 0, 0), size=4 << 30))
    yield edit("tensors_overlap", Rule.TENSOR_OVERLAP, lambda i: _move(i, WEIGHT, -256))
    yield edit("tensors_same_place", Rule.TENSOR_OVERLAP, _set(WEIGHT, offset=0))


def _move(image: Image, name: str, by: int) -> None:
    image.tensor(name, offset=image.record(name).offset + by)


def _cut_weights(image: Image) -> None:
    del image.part(Section.WEIGHTS).data[-1:]


def tensor_faults() -> Iterator[Fault]:
    """Yield all faults of the section."""
    for group in (tensor_section_faults, name_faults, kind_faults, shape_faults, place_faults):
        yield from group()
