# SPDX-License-Identifier: Apache-2.0
"""The loader's promises: strict, guarded, nothing beyond the file, structure that cannot change."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

from ingot import Model
from ingot.cli import main
from ingot.container import Container, replace_sections
from ingot.environment import cache_path, environment, is_privileged, read_cache, write_cache
from ingot.errors import FileLostError, FormatError, StateError, StorageError, UntrustedFileError
from ingot.format import Rule, Section


@pytest.fixture
def copy(lantern_ingot: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.ingot"
    shutil.copyfile(lantern_ingot, path)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_strict_refuses_what_others_may_write(copy: Path, mode: int) -> None:
    Model(copy, strict=True).close()
    copy.chmod(mode)
    Model(copy).close()
    with pytest.raises(UntrustedFileError, match=f"mode {mode:04o}.*chmod go-w"):
        Model(copy, strict=True)
    assert main(["run", str(copy), "--prompt", "a", "--max-tokens", "1", "--strict"]) == 1
    assert main(["verify", str(copy), "--strict", "--threads", "1"]) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="giving a file away needs root")
def test_strict_refuses_another_users_file(copy: Path) -> None:
    os.chown(copy, 65534, 65534)
    with pytest.raises(UntrustedFileError, match="belongs to user 65534"):
        Model(copy, strict=True)


def test_a_guarded_file_that_is_cut_short_is_an_error(copy: Path) -> None:
    with Model(copy, guard=True) as model, model.session(threads=1) as session:
        session.feed([1, 2, 3])
        os.truncate(copy, model.info.weights_offset + 4096)
        with pytest.raises(FileLostError, match="cut short"):
            session.feed([4])
        assert session.token_count == 3
        with pytest.raises(FileLostError):
            model.section_by_name("meta")
    with pytest.raises(FormatError) as caught:
        Model(copy, guard=True)
    assert caught.value.rule == Rule.FILE_SIZE


def test_no_byte_beyond_the_file_is_mapped(copy: Path) -> None:
    with Model(copy), open("/proc/self/maps", encoding="ascii") as maps:
        found = [line.split() for line in maps if line.rstrip().endswith(copy.name)]
    ends = [int(line[0].split("-")[1], 16) - int(line[0].split("-")[0], 16) for line in found]
    offsets = [int(line[2], 16) for line in found]
    page = os.sysconf("SC_PAGE_SIZE")
    size = copy.stat().st_size
    last = max(o + length for o, length in zip(offsets, ends, strict=True))
    assert found and last <= -(-size // page) * page
    assert all(line[1].startswith("r--") for line in found)


def test_the_checked_structure_does_not_change_with_the_file(copy: Path) -> None:
    """Overwrite header, tensors, program and plan in place: the model keeps what it checked."""
    with Container(copy) as container:
        kinds = (Section.TENSORS, Section.PROGRAM, Section.REQUIRED, Section.PLAN)
        records = [record for record in container.sections if record.kind in kinds]
    with Model(copy) as model, model.session(threads=1) as session:
        expected = session.feed([1, 2, 3]).tobytes()
        session.reset()
        with copy.open("r+b") as file:
            file.write(b"\xff" * 64)
            for record in records:
                file.seek(record.offset)
                file.write(b"\xff" * record.size)
        assert session.feed([1, 2, 3]).tobytes() == expected
        assert model.plan.context == model.info.context
    with pytest.raises(ValueError, match="not an ingot file"):
        Model(copy)


def test_a_pipe_does_not_hold_the_loader_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ingot")
    with pytest.raises(StorageError, match="not a regular file"):
        Model(tmp_path / "pipe.ingot")


def test_a_file_replaced_while_open_is_noticed(copy: Path, lantern_ingot: Path) -> None:
    with Model(copy) as model:
        with Container(lantern_ingot) as container:
            meta = bytes(container.section(Section.META))
        changed = copy.with_name("other.ingot")
        replace_sections(lantern_ingot, changed, {Section.META: meta + b" "})
        os.replace(changed, copy)
        with pytest.raises(StateError, match="was replaced"):
            model.open_handle()


def vector(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("@NN", *pair) for pair in (*pairs, (0, 0)))


@pytest.mark.parametrize(("secure", "expected"), [(0, False), (1, True)])
def test_rights_are_read_from_the_kernels_vector(
    tmp_path: Path, secure: int, expected: bool
) -> None:
    path = tmp_path / "auxv"
    path.write_bytes(vector((6, 4096), (23, secure), (25, 7)))
    assert is_privileged(str(path)) is expected
    assert is_privileged(str(tmp_path / "none")) is False


def test_a_privileged_process_reads_no_variable_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path))
    assert environment("INGOT_CACHE_DIR") == str(tmp_path)
    assert write_cache("test", "key", {"a": 1}) and read_cache("test", "key") == {"a": 1}
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert is_privileged()
    monkeypatch.setattr("ingot.environment._privileged", lambda: True)
    assert environment("INGOT_CACHE_DIR") is None and cache_path("test", "key") is None
    assert read_cache("test", "key") is None and not write_cache("test", "key", {"a": 2})
