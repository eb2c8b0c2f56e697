# SPDX-License-Identifier: Apache-2.0
"""The checks find faults: shaders of a broken build, one fault at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.format import Dtype, Opcode
from tests.conftest import REPOSITORY
from tests.runtime.small_program import VOCABULARY, every_op
from tests.vulkan.backend_driver import Backend, BackendModel, BackendSession, opcodes
from tests.vulkan.linear_program import check_session

PLANTS = {
    1: "scales of the wrong rows",
    2: "the last block of a GEMV left out",
    3: "the last stage of a GEMM left out",
    4: "the row behind the token's embedded",
    5: "activations cut instead of rounded",
    6: "another epsilon",
    7: "angles of the next position",
    8: "a key in its neighbour's place",
    9: "a row that does not see itself",
    10: "one pick too few",
    11: "the last split of a context left out",
    12: "activation scales of the neighbouring token",  # 13 and 14: matrix_script.py
}

pytestmark = pytest.mark.slow


def agrees(backend: Backend, container: Container) -> bool:
    """Whether ops, picks and a context of two splits are what they should be."""
    with (
        BackendModel(backend, container) as model,
        BackendSession(model, capacity=640, chunk=64, rows=3) as session,
    ):
        for count in (1, 17):
            tokens = [(7 * i + count) % VOCABULARY for i in range(count)]
            checks = check_session(container, session, tokens, 1)
            if not all(check.passed for check in checks):
                return False
        session.run([1, 2, 3], 1, picks=8, keep=False)
        logits = session.read(container.entries["step"].output, 1)[0]
        best = [int(i) for i in np.argsort(-logits, kind="stable")[:8]]
        if [token for _, token in session.picks(0, 8)] != best:
            return False
        for _ in range(5):
            session.run([5] * 64)
        index = opcodes(container).index(Opcode.ATTENTION) + container.entries["step"].first
        mixed = container.outputs(index)[0]
        session.run([3], keep=False)  # split over the context
        split = session.read(mixed, 1)[0]
        session.run([3] + [1] * 8, keep=False)  # in one piece
        return bool(np.allclose(split, session.read(mixed, 1)[0], rtol=1e-3, atol=1e-5))


def test_sound_shaders_agree(
    broken: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_VULKAN_PLANT", "0")
    path = every_op(tmp_path / "plant.ingot", Dtype.Q8, 32, context=640)
    with Container(path) as container:
        assert agrees(broken, container)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: PLANTS[plant].replace(" ", "-"))
def test_a_fault_is_found(
    broken: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: int
) -> None:
    monkeypatch.setenv("INGOT_VULKAN_PLANT", str(plant))
    path = every_op(tmp_path / "plant.ingot", Dtype.Q8, 32, context=640)
    with Container(path) as container:
        assert not agrees(broken, container)


LEAK = """
import sys
from pathlib import Path
from ingot.container import Container
from tests.vulkan.backend_driver import Backend, BackendError, BackendModel, BackendSession

backend = Backend(Path(sys.argv[1]))
with Container(sys.argv[2]) as container, BackendModel(backend, container) as model:
    BackendSession(model).close()
try:
    backend.devices()
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("plant", "message"), [(0, ""), (20, "the validation layer has 1 messages")]
)
def test_the_layer_is_heard(
    broken: Backend, native_build: Path, tmp_path: Path, plant: int, message: str
) -> None:
    """A fence that nobody destroys is reported by the first call after; in a process of its own."""
    path = every_op(tmp_path / "leak.ingot", Dtype.Q8, 32)
    library = native_build / "libingot_vulkan_broken.so"
    command = [sys.executable, "-c", LEAK, str(library), str(path)]
    environment = {**os.environ, "INGOT_VULKAN_PLANT": str(plant)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert message in done.stdout and bool(message) == bool(done.stdout.strip())
