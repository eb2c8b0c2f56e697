# SPDX-License-Identifier: Apache-2.0
"""Boards as data; little memory and bad storage, on this machine and on the emulated board."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ingot.cli import main
from ingot.targets import list_targets, load_target
from targets.lab.boards import Storage, boards, load_board, load_storage, storages
from targets.lab.conditions import SOURCE, Conditions, limited
from targets.lab.process import LabError
from targets.lab.script import Outcome, run_script

Leave = Callable[[str, str], NoReturn]
MEGABYTE = 1 << 20
ALLOCATE = """
import os
held = []
try:
    while len(held) < 400:
        held.append(bytearray(1 << 20))
except MemoryError:
    pass
count = len(held)
del held
pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
print(count, pages >> 20, open("/proc/meminfo").readline().split()[1])
"""
# What a script sees of one file: seconds to read it, bytes, and the error; then of a new one.
PROBE = """
import errno, json, mmap, os, sys, time
path, out = sys.argv[1:]
start = time.monotonic()
got, error = 0, ""
with open(path, "rb", buffering=0) as file:
    try:
        while block := file.read(16384):
            got += len(block)
    except OSError as problem:
        error = errno.errorcode[problem.errno]
read_s = time.monotonic() - start
wrote, write_error = 0, ""
with open(out, "wb", buffering=0) as file:
    try:
        while wrote < 200000:
            wrote += file.write(bytes(50000))
    except OSError as problem:
        write_error = errno.errorcode[problem.errno]
print(json.dumps([read_s, got, error, wrote, write_error]))
"""
MAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(data[65535 - 4096], flush=True)
print(data[65536 + 4096], flush=True)
"""

# Fills the memory up to 128 KiB, opens a session, and opens it again with room.
SQUEEZE = """
import mmap, resource, sys
from ingot import Model
model = Model(sys.argv[1])
model.session(512, 1, logits_rows=128).close()  # what Python loads for it is loaded
# Two megabytes stay for the emulator, and are less than the session's block. It counts as well.
lines = open("/proc/self/status").read().splitlines()
data = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
room = resource.getrlimit(resource.RLIMIT_DATA)[0] - data - (2 << 20)
held = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    model.session(512, 1, logits_rows=128)
except MemoryError as error:
    held.close()
    print(type(error).__name__, error)
with model.session(512, 1, logits_rows=128):
    print("a session")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return storage.c compiled for this machine: the same source as on the board."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("gcc on Linux is needed to compile storage.c")
    library = tmp_path_factory.mktemp("shim") / "storage.so"
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, SOURCE, "-ldl", "-o", library], check=True)
    return library


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Return a folder with a file of 200 kB."""
    folder = tmp_path / "card"
    folder.mkdir()
    (folder / "file").write_bytes(bytes([7]) * 200_000)
    return folder


def probe(shim: Path, card: Path, storage: Storage, folder: Path) -> list[object]:
    environment = {**os.environ, **storage.environment(folder), "LD_PRELOAD": str(shim)}
    command = [sys.executable, "-I", "-c", PROBE, str(card / "file"), str(card / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_boards_agree_with_the_profiles_of_their_name() -> None:
    found = boards()
    assert {"aarch64", "armv7"} == {board.architecture for board in found.values()}
    for name in set(found) & set(list_targets()):
        target = load_target(name)
        assert found[name].memory_bytes == target.memory.bytes, name
        assert found[name].levels == target.isa, name


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[boards.a]\ncpu = "x"\nspeed = 3\n[storage]\n', "speed"),
        ('[boards.a]\ncpu = "x"\n[storage]\n', "architecture .missing"),
        ("[boards]\n[storage.a]\ndescription = 'x'\nrate = 3\n", "rate"),
        ("boards = ", "boards.toml"),
    ],
)
def test_boards_refuse_what_they_do_not_know(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(table, encoding="utf-8")
    with pytest.raises(LabError, match=message):
        boards(path)
        storages(path)


def test_unknown_names_are_answered_with_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "run", "--board", "rpi9", "script.py"]) == 1
    assert "rpi5" in capsys.readouterr().err
    assert main(["lab", "run", "--board", "rpi5", "--storage", "disk", "script.py"]) == 1
    assert "worn-card" in capsys.readouterr().err
    assert main(["lab", "run", "--board", "rpi5"]) == 2
    assert main(["lab", "run", "--board", "rpi5", "--memory", "much", "script.py"]) == 2
    capsys.readouterr()
    assert main(["lab", "boards", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [board["name"] for board in listed["boards"]] == list(boards())


def test_storage_is_as_it_is_where_nothing_is_set(shim: Path, card: Path, tmp_path: Path) -> None:
    assert probe(shim, card, Storage(), card)[1:] == [200_000, "", 200_000, ""]
    worn = Storage(read_fails_at=65536, write_fails_after=65536)
    # The folder's neighbours are left alone, those whose name begins like it too.
    (tmp_path / "car").mkdir()
    assert probe(shim, card, worn, tmp_path / "car")[1:] == [200_000, "", 200_000, ""]


def test_slow_storage_takes_its_time(shim: Path, card: Path) -> None:
    # 200 kB at 1 MB/s and 14 reads of 16 KiB with 5 ms each; the end of the file is a read too.
    read_s, got, *rest = probe(shim, card, Storage(bytes_per_s=1_000_000, delay_us=5_000), card)
    assert got == 200_000
    assert float(str(read_s)) >= 0.2 + 14 * 0.005
    assert rest == ["", 200_000, ""]


def test_worn_storage_fails_reads_and_full_storage_writes(shim: Path, card: Path) -> None:
    assert probe(shim, card, load_storage("worn-card"), card)[1:3] == [65536, "EIO"]
    assert probe(shim, card, load_storage("full-card"), card)[1:] == [200_000, "", 65536, "ENOSPC"]


def test_worn_storage_fails_in_a_mapping(shim: Path, card: Path) -> None:
    """The pages before the fault are the file's; touching one after it is SIGBUS."""
    environment = {**os.environ, **load_storage("worn-card").environment(card)}
    environment["LD_PRELOAD"] = str(shim)
    command = [sys.executable, "-I", "-c", MAP, str(card / "file")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["7"]
    assert done.returncode == -7


def test_memory_limit_is_of_data(tmp_path: Path) -> None:
    command = limited([sys.executable, "-I", "-c", ALLOCATE], 150 * MEGABYTE)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 100 < int(done.stdout.split()[0]) < 150


@pytest.fixture(scope="module")
def on_board(skip_or_fail: Leave) -> Callable[..., Outcome]:
    """Return run_script for rpi5; skip by name where the board cannot be built."""
    if shutil.which("qemu-aarch64") is None:
        skip_or_fail("arm", "qemu-aarch64 is not installed (qemu-user)")

    def run(words: list[object], conditions: Conditions) -> Outcome:
        try:
            return run_script(load_board("rpi5"), [str(word) for word in words], conditions)
        except LabError as error:
            skip_or_fail("arm", str(error))

    return run


def test_board_has_the_memory_that_it_is_given(on_board: Callable[..., Outcome]) -> None:
    outcome = on_board(["-I", "-c", ALLOCATE], Conditions(memory_bytes=128 * MEGABYTE))
    assert outcome.status == 0, outcome.errors
    count, pages, meminfo = (int(word) for word in outcome.output.split())
    assert 90 < count < 128
    assert pages == 128
    assert meminfo == 128 * 1024


def test_model_on_a_worn_card(
    on_board: Callable[..., Outcome], lantern_ingot: Path, tmp_path: Path
) -> None:
    """Reading the whole file ends in the bus error that a dying card gives, not in wrong text."""
    card = tmp_path / "card"
    card.mkdir()
    file = shutil.copy(lantern_ingot, card / "model.ingot")
    words = ["-m", "ingot", "run", file, "--prompt", "It", "--max-tokens", "2", "--threads", "1"]
    outcome = on_board(words, Conditions(storage=load_storage("worn-card"), storage_folder=card))
    assert outcome.status != 0
    assert "It" not in outcome.output
    calm = on_board(words, Conditions(storage=Storage(), storage_folder=card))
    assert calm.status == 0, calm.errors


def test_session_in_little_memory(on_board: Callable[..., Outcome], lantern_ingot: Path) -> None:
    """A session that does not fit is an error with the bytes, and fits once there is room again."""
    outcome = on_board(["-c", SQUEEZE, lantern_ingot], Conditions(memory_bytes=96 * MEGABYTE))
    assert outcome.status == 0, outcome.errors
    first, second = outcome.output.splitlines()
    assert first.startswith("OutOfMemoryError the system gave no ")
    assert second == "a session"


def test_copy_to_a_full_card(
    on_board: Callable[..., Outcome], lantern_ingot: Path, tmp_path: Path
) -> None:
    copy = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
    full = Conditions(storage=load_storage("full-card"), storage_folder=tmp_path)
    outcome = on_board(["-I", "-c", copy, lantern_ingot, tmp_path / "copy.ingot"], full)
    assert outcome.status == 1
    assert "No space left on device" in outcome.errors
    assert (tmp_path / "copy.ingot").stat().st_size == 65536
