# SPDX-License-Identifier: Apache-2.0
"""The native reader, under ASan and UBSan, names the same rule as the Python reader."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingot.container import validate, writer
from ingot.errors import FormatError
from ingot.format import Header, Rule, Section, SectionRecord
from tests.must_fail.image import Image, repaired_size
from tests.must_fail.make_corpus import valid_file, write_corpus
from tests.must_fail.random_program import (
    breaks_liveness,
    random_program,
    wide_program,
)
from tests.must_fail.tiny_file import Builder, contents

CORE = ("error", "layout", "crc32c", "sha256", "file", "sort", "bit_tree")
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 15, 16, 19, 21, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256)
Verdict = tuple[Rule, int]


@pytest.fixture(scope="module")
def driver(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the validators alone, with the sanitizers."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "a C compiler is needed"
    native = repo_root / "native"
    sources = [native / "core" / f"{name}.c" for name in CORE]
    sources += sorted(native.glob("core/validate*.c"))
    sources += [native / "platform" / f"{name}.c" for name in ("guard", "linux")]
    sources.append(repo_root / "tests" / "native" / "validate_driver.c")
    program = tmp_path_factory.mktemp("driver") / "validate_driver"
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    includes = [f"-I{native}", f"-I{native / 'include'}"]
    command = [compiler, *flags, *includes, *map(str, sources), "-o", str(program)]
    done = subprocess.run(
        [*command, "-lpthread", "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return program


@pytest.fixture(scope="module")
def native_verdict(driver: Path) -> Iterator[Callable[[Path], Verdict]]:
    """Return a function that asks the driver, one process for all files."""
    with subprocess.Popen([driver], stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None

        def ask(path: Path) -> Verdict:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, process.stderr.read()[-4000:]
            rule, status, message = line.rstrip("\n").split(" ", 2)
            assert (rule == "0") == (message == "")
            return Rule(int(rule)), int(status)

        yield ask
        process.stdin.close()
        assert process.wait() == 0, process.stderr.read()[-4000:]


def python_verdict(data: bytes) -> Verdict:
    try:
        validate(memoryview(data))
    except FormatError as error:
        return error.rule, error.status
    return Rule.NONE, 0


def test_corpus(native_verdict: Callable[[Path], Verdict], tmp_path: Path) -> None:
    expected = write_corpus(tmp_path)
    assert len(expected) > 400
    wrong = []
    for name, rule in expected.items():
        native, python = (
            native_verdict(tmp_path / name),
            python_verdict((tmp_path / name).read_bytes()),
        )
        if native[0] != rule or python != native:
            wrong.append(f"{name}: expected {rule!r}, native {native}, Python {python}")
    assert wrong == []


def _change(data: bytearray, noise: random.Random) -> None:
    """Put a small or a random number of 1, 2, 4 or 8 bytes somewhere, mostly aligned."""
    code, size = noise.choice((("B", 1), ("<H", 2), ("<I", 4), ("<Q", 8)))
    if len(data) < size:
        return
    at = noise.randrange(len(data) - size + 1)
    at -= at % size
    top = (1 << 8 * size) - 1
    value = noise.choice((noise.choice(INTERESTING), top, noise.randrange(top + 1), 1 << 30))
    struct.pack_into(code, data, at, value & top)


def _mutant(valid: bytes, noise: random.Random) -> bytes:
    """Change the header, the table or one small section; repair checksums."""
    place = noise.randrange(6)
    if place < 4:
        image = Image(valid)
        part = image.part(list(Section)[place])
        for _ in range(noise.choice((1, 1, 1, 2, 4))):
            _change(part.data, noise)
        if noise.random() < 0.05 and part.data:
            del part.data[noise.randrange(len(part.data)) :]
        return image.to_bytes()
    count = Header.unpack(valid).section_count
    head = bytearray(valid[: Header.SIZE + SectionRecord.SIZE * count])
    region = bytearray(head[8:40] if place == 4 else head[64:])
    _change(region, noise)
    start = 8 if place == 4 else 64
    head[start : start + len(region)] = region
    data = bytes(head) + valid[len(head) :]
    return repaired_size(data) if noise.random() < 0.8 else data


@pytest.mark.parametrize("seed", range(4))
def test_both_readers_agree_on_noise(
    native_verdict: Callable[[Path], Verdict], tmp_path: Path, seed: int
) -> None:
    noise = random.Random(seed)
    valid = valid_file()
    path = tmp_path / "noise.ingot"
    rules: set[Rule] = set()
    for count in range(300):
        data = _mutant(valid, noise)
        path.write_bytes(data)
        native, python = native_verdict(path), python_verdict(data)
        if native != python:
            kept = tmp_path / f"seed{seed}_{count}.ingot"
            kept.write_bytes(data)
            pytest.fail(f"{kept}: native {native}, Python {python}")
        rules.add(native[0])
    assert len(rules) > 20, "the noise reaches few rules"


def test_noise_that_only_checksums_find(
    native_verdict: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    """A flipped bit in anything that open reads is found without any repair."""
    valid = valid_file()
    noise = random.Random(11)
    path = tmp_path / "flipped.ingot"
    end = SectionRecord.unpack(valid, Header.SIZE + SectionRecord.SIZE * 3)
    for _ in range(60):
        data = bytearray(valid)
        at = noise.randrange(end.offset + end.size)
        data[at] ^= 1 << noise.randrange(8)
        path.write_bytes(data)
        native = native_verdict(path)
        assert native == python_verdict(bytes(data))
        assert native[0] != Rule.NONE or valid[at] == 0  # padding is for verify


def _file_of(program: Builder, valid: bytes) -> bytes:
    """Return a file with this program, sound or not."""
    given = contents(program)
    image = Image(valid)
    image.part(Section.TENSORS).data = bytearray(writer._tensors_section(given))
    image.part(Section.PROGRAM).data = bytearray(writer._program_section(given))
    image.part(Section.REQUIRED).data = bytearray(writer._required_section(given))
    image.part(Section.PLAN).data = bytearray(writer._plan_section(given))
    image.part(Section.WEIGHTS).data = bytearray(given.weights_size)
    return image.to_bytes()


def test_liveness_against_its_definition(
    native_verdict: Callable[[Path], Verdict], tmp_path: Path
) -> None:
    """Programs with activations at random places: both readers and the plain definition agree."""
    noise = random.Random(5)
    valid = valid_file()
    path = tmp_path / "program.ingot"
    verdicts: list[bool] = []
    for _ in range(300):
        program = random_program(noise)
        data = _file_of(program, valid)
        path.write_bytes(data)
        broken = breaks_liveness(program)
        expected = Rule.OPERAND_ALIASED if broken else Rule.NONE
        native = native_verdict(path)
        assert native == python_verdict(data)
        assert native[0] == expected
        verdicts.append(broken)
    assert 50 < sum(verdicts) < 250, "too few of one kind to say anything"


def test_many_live_activations(native_verdict: Callable[[Path], Verdict], tmp_path: Path) -> None:
    """Enough of them for every level of the native reader's set, and one that is misplaced."""
    noise = random.Random(3)
    count = 4500  # 64 * 64 is where the third level starts
    program = wide_program(count)
    path = tmp_path / "wide.ingot"
    image = Image(_file_of(program, valid_file()))
    path.write_bytes(image.to_bytes())
    assert native_verdict(path)[0] == Rule.NONE
    for _ in range(12):
        name, other = noise.sample(range(1, count), 2)
        kept = image.record(f"{name}").offset
        shift = noise.choice((-192, -64, 0, 64, 192))
        image.tensor(f"{name}", offset=image.record(f"{other}").offset + shift)
        path.write_bytes(image.to_bytes())
        assert native_verdict(path)[0] == Rule.OPERAND_ALIASED, (name, other, shift)
        image.tensor(f"{name}", offset=kept)
    assert python_verdict(path.read_bytes())[0] == Rule.OPERAND_ALIASED
