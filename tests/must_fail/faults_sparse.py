# SPDX-License-Identifier: Apache-2.0
"""Faults of the lists of a weight that is sparse by superblock, and files with new formats."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from ingot.format import Dtype, Layout, RequiredRecord, Rule, Section, Sparsity
from ingot.packing import WEIGHT_FORMATS, Quantized, pack, packed_bytes
from tests.must_fail.fault import Fault, edit
from tests.must_fail.image import Image

# A weight of four tiles and three superblocks, the last of them short.
WEIGHT = "ffn.down.weight"
STORED = ((1, 1, 0), (0, 0, 0), (1, 0, 0), (0, 0, 1))
Action = Callable[[Image], None]


def sparse(image: Image) -> None:
    """Turn the weight into a sparse one, in its place."""
    record = image.record(WEIGHT)
    shape = (record.shape[0], record.shape[1])
    codes = np.ones(shape, np.float16)
    tiles = np.array(STORED, np.bool_)
    data = pack(Quantized(Dtype.F16, shape, 0, codes, present=tiles))
    image.part(Section.WEIGHTS).data[record.offset : record.offset + data.size] = data.tobytes()
    image.tensor(WEIGHT, sparsity=Sparsity.SUPERBLOCK, size=data.size)


def _write(at: int, form: str, value: int) -> Action:
    """Overwrite a number at a byte of the sparse weight."""

    def act(image: Image) -> None:
        data = image.part(Section.WEIGHTS).data
        struct.pack_into(form, data, image.record(WEIGHT).offset + at, value)

    return act


def _resize(by: int) -> Action:
    def act(image: Image) -> None:
        image.tensor(WEIGHT, size=image.record(WEIGHT).size + by)

    return act


def _short(image: Image) -> None:
    image.tensor(WEIGHT, size=3)


def sparse_faults() -> Iterator[Fault]:
    rule = Rule.TENSOR_SUPERBLOCKS
    yield edit("superblocks_of_dense", rule, lambda i: i.tensor(WEIGHT, sparsity=1))
    yield edit("superblocks_count", rule, sparse, _write(0, "<I", 4))
    yield edit("superblocks_count_huge", rule, sparse, _write(0, "<I", 0xFFFFFFFF))
    yield edit("superblocks_twice", rule, sparse, _write(6, "<H", 0))
    yield edit("superblocks_falling", rule, sparse, _write(4, "<H", 1))
    yield edit("superblocks_beyond", rule, sparse, _write(6, "<H", 3))
    yield edit("superblocks_padding", rule, sparse, _write(63, "<B", 1))
    yield edit("superblocks_fewer", rule, sparse, _write(0, "<I", 1), _write(6, "<H", 0))
    yield edit("superblocks_longer", rule, sparse, _resize(64))
    yield edit("superblocks_shorter", rule, sparse, _resize(-64))
    yield edit("superblocks_cut_list", rule, sparse, _short)
    yield edit("sparse_constant", Rule.TENSOR_SPARSITY, lambda i: i.tensor("attn.norm", sparsity=1))
    yield edit("sparsity_beyond", Rule.TENSOR_SPARSITY, lambda i: i.tensor(WEIGHT, sparsity=2))


def _as_format(dtype: Dtype, layout: Layout = Layout.T16) -> Action:
    """Give the f16 weight, the largest for its elements, another format in its place."""

    def act(image: Image) -> None:
        record, known = image.record(WEIGHT), WEIGHT_FORMATS[dtype]
        group = known.groups[0]
        size = packed_bytes(dtype, record.shape[0], record.shape[1], group)
        fields = {"dtype": dtype, "scale_kind": known.scale_kind, "group": group, "size": size}
        image.tensor(WEIGHT, layout=layout, **fields)
        _require(image, dtype, layout)

    return act


def _require(image: Image, dtype: Dtype, layout: Layout) -> None:
    data = image.part(Section.REQUIRED).data
    kind = WEIGHT_FORMATS[dtype].scale_kind
    data += RequiredRecord(4, 0, dtype, kind, layout).pack()
    count = struct.unpack_from("<I", data)[0]
    struct.pack_into("<I", data, 0, count + 1)


def _fill_codebook(image: Image) -> None:
    image.tensor(WEIGHT, codebook=(1,) * 32)


def format_variants() -> dict[str, Action]:
    """Return changes that give a valid file: every format, both layouts, a sparse weight."""
    found: dict[str, Action] = {"sparse": sparse}
    for number, known in WEIGHT_FORMATS.items():
        dtype = Dtype(number)
        for layout in known.layouts:
            if dtype != Dtype.F16:
                found[f"{dtype.name.lower()}_{layout.name.lower()}"] = _as_format(dtype, layout)
    return found


def format_faults() -> Iterator[Fault]:
    for number, known in WEIGHT_FORMATS.items():
        dtype, name = Dtype(number), Dtype(number).name.lower()
        if dtype == Dtype.F16:
            continue
        to = _as_format(dtype)
        rule = Rule.TENSOR_GROUP
        yield edit(f"group_beside_{name}", rule, to, lambda i: i.tensor(WEIGHT, group=96))
        if Layout.T16_K8 not in known.layouts:
            rule = Rule.TENSOR_LAYOUT
            yield edit(f"layout_of_{name}", rule, to, lambda i: i.tensor(WEIGHT, layout=2))
        else:
            rule = Rule.REQUIRED_MISSING
            yield edit(f"layout_unlisted_{name}", rule, to, lambda i: i.tensor(WEIGHT, layout=2))
        rule = Rule.TENSOR_SCALE_KIND
        yield edit(f"scales_beside_{name}", rule, to, lambda i: i.tensor(WEIGHT, scale_kind=0))
        rule = Rule.TENSOR_RESERVED
        if known.entries < 32:
            yield edit(f"codebook_beside_{name}", rule, to, _fill_codebook)
        if not known.entries:
            yield edit(f"delta_beside_{name}", rule, to, lambda i: i.tensor(WEIGHT, delta=1))
