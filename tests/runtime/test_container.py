# SPDX-License-Identifier: Apache-2.0
"""The Python reader refuses every broken file by its rule, and the writer is all or nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BufferedWriter, FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ingot.container import Container, replace_sections, validate, write_container, writer
from ingot.container.crc32c import crc32c
from ingot.errors import FormatError, InvalidArgumentError, StateError, StorageError
from ingot.format import Buffer, Opcode, Role, Rule, Section
from tests.must_fail.image import Image
from tests.must_fail.make_corpus import faults, valid_file, variants
from tests.must_fail.tiny_file import contents

VALID = valid_file()
FAULTS = {fault.name: fault for fault in faults(VALID)}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.ingot"
    path.write_bytes(VALID)
    return path


def test_crc32c_known_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_names_of_faults_are_unique_and_every_rule_is_reached() -> None:
    assert len(FAULTS) == sum(1 for _ in faults(VALID))
    assert {f.rule for f in FAULTS.values()} == set(Rule) - {Rule.NONE, Rule.PADDING}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_reader_refuses(name: str) -> None:
    fault = FAULTS[name]
    with pytest.raises(FormatError) as caught:
        validate(memoryview(fault.make(VALID)))
    assert caught.value.rule == fault.rule, f"{caught.value} ({caught.value.rule.name})"
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize("name", [name for name, _ in variants(VALID)])
def test_reader_takes(name: str) -> None:
    validate(memoryview(dict(variants(VALID))[name]))


def test_writer_is_deterministic() -> None:
    assert valid_file() == VALID


def test_round_trip(tiny: Path) -> None:
    given = contents()
    with Container(tiny) as file:
        file.verify()
        assert file.names == tuple(given.names)
        assert file.size == len(VALID)
        for index, record in enumerate(file.tensors):
            expected = dataclasses.replace(
                given.tensors[index], name_offset=record.name_offset, name_size=record.name_size
            )
            assert record == expected
        assert file.instructions == tuple(given.instructions)
        assert file.required == tuple(given.required)
        assert (file.plan, file.peaks) == (given.plan, tuple(given.peaks))
        assert file.entries["step"] == given.entries[0]
        stored = [t for t in file.tensors if t.role in (Role.WEIGHT, Role.CONSTANT)]
        for record, (offset, data) in zip(stored, given.weights, strict=True):
            assert record.offset == offset
            assert bytes(file.tensor_bytes(record.id)) == data


def test_lookups(tiny: Path) -> None:
    with Container(tiny) as file:
        rope = next(i for i, item in enumerate(file.instructions) if item.opcode == Opcode.ROPE)
        names = [file.names[i] for i in (*file.inputs(rope), *file.outputs(rope))]
        expected = ["attn.q.normed", "attn.k", "rope.table", "attn.q.turned", "attn.k.turned"]
        assert names == expected
        parameters: Any = file.parameters(rope)
        assert parameters.head_size == 16
        assert file.tensor_id("logits") == len(file.names) - 1
        assert file.json(Section.META) == {}
        assert file.json(Section.CERTIFICATE) is None
        assert len(file.section(Section.VECTORS)) == 0
        with pytest.raises(InvalidArgumentError, match="no tensor 'nothing'"):
            file.tensor_id("nothing")
        with pytest.raises(InvalidArgumentError, match="no stored bytes"):
            file.tensor_bytes(file.tensor_id("logits"))
        view = file.tensor_bytes(file.tensor_id("rope.table"))
    assert len(bytes(view)) == 24 * 16 * 4  # a view outlives the container
    with pytest.raises(StateError, match="closed"):
        file.section(Section.META)


def test_bad_json_is_a_format_error(tmp_path: Path) -> None:
    given = contents()
    blobs = {**given.blobs, Section.CHAT: b"{"}
    write_container(tmp_path / "a.ingot", dataclasses.replace(given, blobs=blobs))
    with Container(tmp_path / "a.ingot") as file, pytest.raises(FormatError, match="chat"):
        file.json(Section.CHAT)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        Container(tmp_path / "nothing.ingot")
    with pytest.raises(StorageError, match="cannot write"):
        write_container(tmp_path / "nowhere" / "a.ingot", contents())


def test_verify_finds_what_open_does_not_read(tiny: Path) -> None:
    image = Image(VALID)
    with Container(tiny) as file:
        sections = {record.kind: record for record in file.sections}
        last = [t for t in file.tensors if t.role in (Role.WEIGHT, Role.CONSTANT)]
        gap = next(a.offset + a.size for a, b in pairwise(last) if a.offset + a.size < b.offset)
    weights = sections[Section.WEIGHTS]
    meta = sections[Section.META]
    _expect_verify(tiny, _flipped(VALID, weights.offset + 100), Rule.SECTION_DIGEST)
    _expect_verify(tiny, _flipped(VALID, meta.offset), Rule.SECTION_DIGEST)
    _expect_verify(tiny, _flipped(VALID, meta.offset + meta.size), Rule.PADDING)
    _expect_verify(tiny, _flipped(VALID, weights.offset - 1), Rule.PADDING)
    image.part(Section.WEIGHTS).data[gap] = 1
    _expect_verify(tiny, image.to_bytes(), Rule.PADDING)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _expect_verify(path: Path, data: bytes, rule: Rule) -> None:
    path.write_bytes(data)
    with Container(path) as file, pytest.raises(FormatError) as caught:
        file.verify()
    assert caught.value.rule == rule


def test_replace_sections(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ingot"
    certificate = json.dumps({"kl": 0.5}).encode()
    replace_sections(tiny, copy, {Section.CERTIFICATE: certificate, Section.META: b'{"a": 1}'})
    with Container(copy) as file:
        file.verify()
        assert file.json(Section.CERTIFICATE) == {"kl": 0.5}
        assert file.json(Section.META) == {"a": 1}
    replace_sections(copy, copy, {Section.VECTORS: b"[]"})
    with Container(copy) as file, Container(tiny) as before:
        file.verify()
        assert file.json(Section.VECTORS) == []
        assert file.section(Section.WEIGHTS) == before.section(Section.WEIGHTS)
        kinds = [record.kind for record in file.sections]
    assert kinds == [1, 2, 3, 4, 6, 7, 8, 5, 9, 10]
    assert tiny.read_bytes() == VALID


def test_replace_sections_keeps_damage_visible(tiny: Path) -> None:
    """A copy must not give damaged weights a new, right digest."""
    with Container(tiny) as file:
        weights = next(record for record in file.sections if record.kind == Section.WEIGHTS)
    tiny.write_bytes(_flipped(VALID, weights.offset))
    replace_sections(tiny, tiny, {Section.META: b"{}"})
    with Container(tiny) as file, pytest.raises(FormatError, match="weights"):
        file.verify()


def test_replace_sections_keeps_unknown_ones(tiny: Path) -> None:
    tiny.write_bytes(dict(variants(VALID))["unknown_optional"])
    replace_sections(tiny, tiny, {Section.META: b"{}"})
    with Container(tiny) as file:
        file.verify()
        assert file.sections[-1].kind == 77


def test_structural_sections_are_no_blobs(tiny: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        replace_sections(tiny, tiny, {Section.PLAN: b""})


def _nothing_changed(path: Path, before: bytes) -> None:
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_invalid_contents_are_not_written(tiny: Path) -> None:
    given = contents()
    plan = dataclasses.replace(given.plan, vocabulary=1000)
    with pytest.raises(FormatError, match="not written") as caught:
        write_container(tiny, dataclasses.replace(given, plan=plan))
    assert caught.value.rule == Rule.PLAN_VALUE
    _nothing_changed(tiny, VALID)


@pytest.mark.parametrize("size", [-128, 256])
def test_weights_of_another_size_are_not_written(tiny: Path, size: int) -> None:
    given = contents()
    offset, data = list(given.weights)[-1]
    last = (offset, bytes(len(data) + size))
    weights = [*list(given.weights)[:-1], last, last]
    with pytest.raises(InvalidArgumentError, match="weight of"):
        write_container(tiny, dataclasses.replace(given, weights=weights))
    _nothing_changed(tiny, VALID)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_interrupt_while_writing_leaves_nothing(tiny: Path, error: type[BaseException]) -> None:
    def broken() -> Iterator[tuple[int, Buffer]]:
        yield next(iter(contents().weights))
        raise error

    with pytest.raises(error):
        write_container(tiny, dataclasses.replace(contents(), weights=broken()))
    _nothing_changed(tiny, VALID)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_fault_of_a_system_call_leaves_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(writer.os, name, fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError
    with pytest.raises(expected):
        write_container(tiny, contents())
    _nothing_changed(tiny, VALID)


class FullDisk(FileIO):
    """A disk with room for some bytes; a write may be short, as the system's may."""

    room = 0

    def write(self, data: Any) -> int:
        if FullDisk.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = memoryview(data).cast("B")[: FullDisk.room]
        FullDisk.room -= len(part)
        return super().write(part)


@pytest.mark.parametrize("room", [0, 1, 64, 4096, 65536, 70000, 98000])
def test_full_disk(tiny: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    FullDisk.room = room
    monkeypatch.setattr(
        writer, "open", lambda path, mode: BufferedWriter(FullDisk(path, mode)), raising=False
    )
    with pytest.raises(StorageError, match="disk is full"):
        write_container(tiny, contents())
    _nothing_changed(tiny, VALID)


def test_limit_of_the_system(tiny: Path) -> None:
    """A real failing write, in a process that may write 64 KiB to a file."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from ingot.container import replace_sections\n"
        "from ingot.errors import StorageError\n"
        "from ingot.format import Section\n"
        "try:\n"
        "    replace_sections(sys.argv[1], sys.argv[1], {Section.META: b'{}'})\n"
        "except StorageError:\n"
        "    sys.exit(7)\n"
    )
    paths = [str(Path(writer.__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", program, str(tiny)], env=environment, check=False)
    assert done.returncode == 7
    _nothing_changed(tiny, VALID)


def test_new_file_has_the_usual_permissions(tiny: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    replace_sections(tiny, tiny, {})
    assert tiny.stat().st_mode == plain.stat().st_mode
