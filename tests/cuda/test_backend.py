# SPDX-License-Identifier: Apache-2.0
"""The backend's table: devices that are refused, where the weights lie, graphs, candidates."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ingot import Model as CpuModel
from ingot._native import native
from ingot.backends import open_on
from ingot.container import Container
from ingot.errors import MemoryLimitError
from ingot.format import Dtype, Section
from tests.cuda import backend_driver
from tests.cuda.backend_driver import BackendError, Device, Model, Session, Table
from tests.cuda.conftest import Open
from tests.cuda.emulation.build import BACKEND, DRIVER
from tests.cuda.linear_program import linear_program
from tests.runtime.small_program import every_op

HARDWARE, MEMORY_LIMIT = 60, 41
SOFTWARE = 3
PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 3]


def device_of(table: Table) -> Device:
    info = Device()
    assert table.device_info(0, ctypes.byref(info)) == 0
    return info


def test_the_device_is_described(table: Table) -> None:
    info = device_of(table)
    assert table.device_count() == 1
    assert (info.name, info.kind, info.refused) == (b"emulated sm_87", SOFTWARE, b"")
    assert info.driver == b"CUDA 12.6"
    assert b"sm_87" in info.features and b"cubin" in info.features


@pytest.mark.parametrize(
    ("capability", "kind"), [("89", b"ptx"), ("90", b"cubin"), ("120", b"ptx")]
)
def test_other_devices_have_code(
    table: Table, monkeypatch: pytest.MonkeyPatch, capability: str, kind: bytes
) -> None:
    monkeypatch.setenv("INGOT_EMULATION_DEVICE", capability)
    info = device_of(table)
    assert info.refused == b"" and kind in info.features


def test_an_old_device_is_refused(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_EMULATION_DEVICE", "72")
    assert b"compute capability 7.2" in device_of(table).refused
    path = every_op(tmp_path / "x.ingot", Dtype.Q8, 32)
    with pytest.raises(BackendError, match=r"compute capability 7\.2") as caught:
        Model(table, Container(path), path)
    assert caught.value.status == HARDWARE


def ask(emulation: Path, **environment: str) -> str:
    """Return what a fresh process is told: number of devices, refusal, last error."""
    script = (
        "import ctypes, sys; from pathlib import Path; from tests.cuda import backend_driver as d\n"
        "t = d.load(Path(sys.argv[1])); n = t.device_count(); e = t.last_error().decode()\n"
        "i = d.Device(); n and t.device_info(0, ctypes.byref(i)); print(n, i.refused.decode(), e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(emulation / BACKEND)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    return done.stdout


def test_without_a_driver_there_is_no_device(emulation: Path, tmp_path: Path) -> None:
    import os

    base = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PATH": os.environ["PATH"]}
    said = ask(emulation, **base, INGOT_CUDA_DRIVER=str(tmp_path / "none.so"))
    assert said.startswith("0 ") and "no CUDA driver" in said and "none.so" in said
    driver = str(emulation / "libcuda_emulated.so")
    said = ask(emulation, **base, INGOT_CUDA_DRIVER=driver, INGOT_EMULATION_VERSION="11040")
    assert "the driver is for CUDA 11.4; 12.0 is needed" in said
    settings = {"INGOT_EMULATION_VERSION": "12020", "INGOT_EMULATION_DEVICE": "89"}
    said = ask(emulation, **base, INGOT_CUDA_DRIVER=driver, **settings)
    assert "no code for compute capability 8.9, and a driver for CUDA 12.2" in said
    said = ask(emulation, **base, INGOT_CUDA_DRIVER=driver, INGOT_EMULATION_COUNT="0")
    assert said.startswith("0 ") and "shows no device" in said


def resident_bytes(model: Model) -> int:
    """Return how much of the file's weights lies in memory, by mincore of the mapping."""
    page = mmap.PAGESIZE
    start = model.record.weights // page * page
    length = model.record.weights + model.record.weights_size - start
    room = (ctypes.c_ubyte * (-(-length // page)))()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert libc.mincore(start, length, room) == 0
    return page * sum(flag & 1 for flag in room)


@pytest.mark.parametrize("registering", ["", "fail", "slow"])
def test_weights_of_an_integrated_device_exist_once(
    open_session: Open,
    lantern_ingot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registering: str,
) -> None:
    monkeypatch.setenv("INGOT_EMULATION_REGISTER", registering)
    path = tmp_path / "own.ingot"  # pages that another test has mapped stay in the page cache
    path.write_bytes(lantern_ingot.read_bytes())
    with path.open("rb") as file:
        os.fsync(file.fileno())
    session = open_session(path, chunk=8)
    size = session.model.record.weights_size
    memory = session.memory()
    expected = (size, 0) if registering else (0, size)
    assert (memory.weights_bytes, memory.imported_bytes) == expected
    assert list(session.model.progress) == ([size, size] if registering else [0, 0])
    if registering:  # read in chunks: what lies in the page cache as well counts twice
        total = memory.weights_bytes + resident_bytes(session.model)
        print(f"resident plus device bytes: {total / size:.3f} of the weights")
        assert total <= 1.05 * size
    session.run(PROMPT[:3])
    assert np.isfinite(session.read(session.model.record.output, 1)).all()


def test_a_device_with_memory_of_its_own_gets_a_copy(
    open_session: Open, lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_EMULATION_DISCRETE", "1")
    session = open_session(lantern_ingot, chunk=8)
    memory, size = session.memory(), session.model.record.weights_size
    assert list(session.model.progress) == [size, size]
    assert memory.imported_bytes == 0 and memory.weights_bytes > 1_000_000
    assert memory.arena_bytes and memory.scratch_bytes and memory.state_bytes


def test_the_memory_limit_is_kept(
    table: Table, lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Model(table, Container(lantern_ingot), lantern_ingot, limit=1000).close()  # imported
    monkeypatch.setenv("INGOT_EMULATION_DISCRETE", "1")
    with pytest.raises(BackendError, match="the limit is 1000") as caught:
        Model(table, Container(lantern_ingot), lantern_ingot, limit=1000)
    assert caught.value.status == MEMORY_LIMIT


def test_passes_of_few_tokens_are_graphs(
    open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    session = open_session(every_op(tmp_path / "x.ingot", Dtype.Q8, 32), chunk=32, capacity=64)
    monkeypatch.setenv("INGOT_EMULATION_LOG", str(log))
    for tokens in ([1], [2], [3], [4, 5, 6], [7, 8, 9]):
        session.run(tokens)
        session.position += len(tokens)
    lines = log.read_text().splitlines()
    assert lines.count("graph captured") == 2
    assert lines.count("graph launched") == 5
    assert not [line for line in lines if line.startswith("launch ")]
    session.run(PROMPT)
    launched = [line for line in log.read_text().splitlines() if line.startswith("launch ")]
    assert {"launch prompt_q8", "launch attend_prompt_kv8"} <= set(launched)


def logits_of(session: Session, tokens: list[int], alone: bool) -> bytes:
    """Run a pass, whole or one instruction after the other, and return the logits' bytes."""
    count = session.model.record.instruction_count
    for first in range(count) if alone else (0,):
        session.run(tokens, first=first, count=1 if alone else count)
    session.position += len(tokens)
    return session.read(session.model.record.output, 1).tobytes()


def same_fused(open_session: Open, path: Path, kv: str) -> bool:
    whole, single = (open_session(path, chunk=32, kv=kv) for _ in range(2))
    for tokens in ([1], [5, 6, 7], PROMPT, [2], [3]):
        if logits_of(whole, tokens, False) != logits_of(single, tokens, True):
            return False
    return whole.state_read(0) == single.state_read(0)


def test_fused_instructions_give_the_same_bits(
    open_session: Open, lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same_fused(open_session, lantern_ingot, "kv8")
    monkeypatch.setenv("INGOT_PLANT", "6")  # a scale of 16 k where there is one of 32
    assert not same_fused(open_session, lantern_ingot, "kv8")


def test_one_token_needs_few_launches(
    open_session: Open, lantern_ingot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms make the int8 rows of the linears behind them, the rope and the append are one."""
    session = open_session(lantern_ingot, chunk=8, kv="kv8")
    log = tmp_path / "log"
    monkeypatch.setenv("INGOT_EMULATION_LOG", str(log))
    session.run([1], picks=1)
    kernels = [line.split()[1] for line in log.read_text().splitlines() if "capture " in line]
    layers = 6
    # The merge makes what the output projection reads, the gate what the down projection reads.
    assert kernels.count("normalize") == layers * 2 + 1
    # Besides the linears: embed, two norms and three of attention per layer, the end.
    assert len([kernel for kernel in kernels if "gemv" not in kernel]) == 1 + layers * 5 + 2 + 2
    assert kernels.count("prepare_kv8") == layers
    assert kernels.count("attend_kv8_2") == layers


@pytest.mark.parametrize("count", [1, 5, 50, 64])
def test_candidates_are_the_best_logits(open_session: Open, tmp_path: Path, count: int) -> None:
    path = every_op(tmp_path / "x.ingot", Dtype.Q8, 32)
    session = open_session(path, rows=3, chunk=32, capacity=64)
    session.run(PROMPT, 3, picks=count)
    logits = session.read(session.model.record.output, 3)
    for row in range(3):
        order = sorted(range(50), key=lambda i: (-logits[row, i], i))[:count]
        assert session.picks(row, 64) == [(float(logits[row, i]), i) for i in order]
    with pytest.raises(BackendError, match="row 3"):
        session.picks(3, 64)


def test_candidates_that_are_no_numbers_come_first(open_session: Open, lantern_ingot: Path) -> None:
    """Ties by the lower id; NaN and infinity before all others, minus infinity last."""
    session = open_session(lantern_ingot, chunk=8)
    container = session.model.container
    head = session.model.record.instruction_count - 1
    source = container.inputs(head)[0]
    session.run(PROMPT[:4], picks=3)
    usual = session.picks(0, 64)
    assert usual[0][0] >= usual[1][0] >= usual[2][0]
    session.write(source, np.zeros((1, container.tensors[source].shape[1]), np.float32))
    session.run([1], first=head, count=1, picks=3)
    assert [pick[1] for pick in session.picks(0, 64)] == [0, 1, 2]
    broken = np.ones((1, container.tensors[source].shape[1]), np.float32)
    broken[0, 0] = np.inf
    session.write(source, broken)
    session.run([1], first=head, count=1, picks=3)
    logits = session.read(session.model.record.output, 1)[0]
    vocabulary = container.plan.vocabulary
    strange = [i for i in range(vocabulary) if not logits[i] < np.inf]
    assert len(strange) >= 3
    assert [pick[1] for pick in session.picks(0, 64)] == strange[:3]


def test_greedy_text_is_the_cpu_s(open_session: Open, lantern_ingot: Path) -> None:
    session: Session = open_session(lantern_ingot, chunk=8, kv="kv8")
    with CpuModel(lantern_ingot) as model, model.session(kv="kv8") as cpu:
        expected: list[int] = []
        logits = cpu.feed(PROMPT)
        for _ in range(8):
            expected.append(int(logits.argmax()))
            logits = cpu.feed(expected[-1:])
    assert session.greedy(PROMPT, 8) == expected


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_weights_that_the_device_reads_in_place_are_counted(
    emulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse: bool
) -> None:
    """The offsets of sparse tiles are memory of the device, and no copy of the weights."""
    monkeypatch.setenv("INGOT_CUDA_DRIVER", str(emulation / DRIVER))
    path = linear_program(tmp_path / "x.ingot", Dtype.Q8, 32, sparse)
    library = native()
    ffi, lib = library.ffi, library.lib
    config, model = library.struct("ingot_open_config"), ffi.new("ingot_model **")
    open_on(library, str(path), str(emulation / BACKEND), config, model, None)
    session, memory = ffi.new("ingot_session **"), library.struct("ingot_memory_info")
    library.check(lib.ingot_session_create(model[0], ffi.NULL, session))
    library.check(lib.ingot_session_memory(session[0], memory))
    lib.ingot_session_destroy(session[0])
    lib.ingot_model_close(model[0])
    with Container(path) as container:
        assert memory.weights_bytes == len(container.section(Section.WEIGHTS))
    assert memory.total_bytes > memory.weights_bytes


def test_the_device_s_limit_holds_for_copies_alone(
    emulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """device_memory_limit of the open configuration reaches the backend."""
    monkeypatch.setenv("INGOT_CUDA_DRIVER", str(emulation / DRIVER))
    path = linear_program(tmp_path / "x.ingot", Dtype.Q8, 32, False)
    library = native()

    def opens() -> None:
        config, model = library.struct("ingot_open_config"), library.ffi.new("ingot_model **")
        config.device_memory_limit = 1
        open_on(library, str(path), str(emulation / BACKEND), config, model, None)
        library.lib.ingot_model_close(model[0])

    opens()
    monkeypatch.setenv("INGOT_EMULATION_DISCRETE", "1")
    with pytest.raises(MemoryLimitError):
        opens()


def test_structures_are_the_header_s(repo_root: Path) -> None:
    """The table's size is what the library says; a changed header is seen here."""
    text = (repo_root / "native/include/ingot_backend.h").read_text()
    assert "#define INGOT_BACKEND_ABI 1u" in text
    assert ctypes.sizeof(backend_driver.Device) == 128 + 128 + 256 + 16 + 8 + 256
