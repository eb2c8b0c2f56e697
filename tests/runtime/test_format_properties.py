# SPDX-License-Identifier: Apache-2.0
"""What holds for any bytes of a weight and for any container: round trips, and single changes.

A round trip of any weight of every format is in test_packing.py.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingot.container import Container, Contents, write_container
from ingot.errors import FormatError, IngotError, InvalidArgumentError
from ingot.format import Dtype, Header, Role, Section, SectionRecord
from ingot.packing import WEIGHT_DTYPES, WEIGHT_FORMATS, pack, packed_bytes, unpack
from tests.must_fail.make_corpus import valid_file
from tests.must_fail.random_program import breaks_liveness, random_program
from tests.must_fail.tiny_file import contents
from tests.runtime.random_weights import make

FORMATS = [(dtype, group) for dtype in WEIGHT_DTYPES for group in WEIGHT_FORMATS[dtype].groups]
VALID = valid_file()
QUICK = settings(max_examples=25)


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
@QUICK
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
)
def test_any_bytes_are_refused_or_pack_again(
    dtype: Dtype, group: int, n: int, k: int, changes: list[tuple[int, int]]
) -> None:
    """What unpacking takes, packing writes in one way, which unpacks to the same."""
    for layout in WEIGHT_FORMATS[dtype].layouts:
        weight = make(dtype, group, n, k, layout=layout)
        data = pack(weight).copy()
        for place, value in changes:
            data[place % data.size] = value
        known = (dtype, (n, k), group, weight.codebook, weight.delta, layout)
        try:
            found = unpack(data, *known)
        except InvalidArgumentError:
            continue
        again = pack(found)
        assert again.size == packed_bytes(dtype, n, k, group)
        assert np.array_equal(pack(unpack(again, *known)), again)
        inside = sum(a != b for a, b in zip(data.tolist(), again.tolist(), strict=True))
        assert inside <= len(changes)  # only changed padding comes back as it was


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
@QUICK
@given(n=st.integers(1, 33), k=st.integers(1, 200), size=st.integers(0, 40000))
def test_another_size_is_refused(dtype: Dtype, group: int, n: int, k: int, size: int) -> None:
    assume(size != packed_bytes(dtype, n, k, group))
    weight = make(dtype, group, 1, 1)
    with pytest.raises(InvalidArgumentError, match="bytes"):
        unpack(np.zeros(size, np.uint8), dtype, (n, k), group, weight.codebook, weight.delta)


def written(given_contents: Contents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ingot"
        write_container(path, given_contents)
        return path.read_bytes()


@QUICK
@given(
    seed=st.integers(0, 10**6),
    blobs=st.fixed_dictionaries(
        {kind: st.binary(max_size=200) for kind in (Section.TOKENIZER, Section.VECTORS)}
    ),
)
def test_what_is_written_is_read(seed: int, blobs: dict[Section, bytes]) -> None:
    program = random_program(random.Random(seed))
    given_contents = dataclasses.replace(contents(program), blobs=blobs)
    if breaks_liveness(program):
        with pytest.raises(FormatError), tempfile.TemporaryDirectory() as folder:
            write_container(Path(folder) / "a.ingot", given_contents)
            Container(Path(folder) / "a.ingot")
        return
    assert compare(written(given_contents), given_contents)


def compare(data: bytes, expected: Contents) -> bool:
    """Whether a file holds what was given, to the byte; checks all digests on the way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ingot"
        path.write_bytes(data)
        with Container(path) as file:
            file.verify()
            stored = [t for t in file.tensors if t.role in (Role.WEIGHT, Role.CONSTANT)]
            weights = [(t.offset, bytes(file.tensor_bytes(t.id))) for t in stored]
            return (
                file.names == tuple(expected.names)
                and file.instructions == tuple(expected.instructions)
                and file.plan == expected.plan
                and weights == list(expected.weights)
                and all(bytes(file.section(k)) == v for k, v in expected.blobs.items())
            )


def places(data: bytes) -> list[int]:
    """Where sections begin and end, the header and the table among them."""
    header = Header.unpack(data)
    found = [0, Header.SIZE, Header.SIZE + SectionRecord.SIZE * header.section_count]
    for index in range(header.section_count):
        record = SectionRecord.unpack(data, Header.SIZE + SectionRecord.SIZE * index)
        found += [record.offset, record.offset + record.size]
    return found


@settings(QUICK, max_examples=150)
@given(
    near=st.sampled_from(places(VALID)),
    distance=st.integers(-70, 70),
    far=st.booleans(),
    kind=st.sampled_from(["flip", "set", "remove", "insert", "cut"]),
    value=st.integers(0, 255),
)
def test_a_single_change_is_refused_or_changes_nothing(
    near: int, distance: int, far: bool, kind: str, value: int
) -> None:
    at = max(0, near + distance * (97 if far else 1)) % len(VALID)
    old = VALID[at : at + 1]
    new = {"flip": bytes([old[0] ^ (1 << value % 8)]), "set": bytes([value]), "remove": b""}
    changed = VALID[:at] + new.get(kind, bytes([value]) + old) + VALID[at + 1 :]
    changed = VALID[:at] if kind == "cut" else changed
    try:
        equal = compare(changed, contents())
    except IngotError:
        return
    assert changed == VALID and equal


def test_a_change_behind_a_repaired_digest_is_seen() -> None:
    """The comparison can fail: other weights with a right digest are another file."""
    from tests.must_fail.image import Image

    image = Image(VALID)
    image.part(Section.WEIGHTS).data[5] ^= 1
    assert compare(VALID, contents())
    assert not compare(image.to_bytes(), contents())
