# SPDX-License-Identifier: Apache-2.0
"""What drivers force: copies, staging, short bindings; limits of memory, cache, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ingot.container import Container
from ingot.format import Dtype, Section
from ingot.targets import tomllib
from tests.runtime.small_program import every_op
from tests.vulkan.backend_driver import Backend, BackendError, BackendModel, BackendSession
from tests.vulkan.linear_program import wide_program

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
MEMORY_LIMIT, HARDWARE = 41, 60
TRAPS = Path(__file__).resolve().parents[2] / "targets" / "traps" / "vulkan_devices.toml"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    return Container(every_op(tmp_path_factory.mktemp("paths") / "paths.ingot", Dtype.Q8, 32))


def results(vulkan: Backend, container: Container) -> tuple[list[np.ndarray], dict[str, int]]:
    with BackendModel(vulkan, container) as model, BackendSession(model, kv="kv8") as session:
        logits = [session.eval(TOKENS, 2), session.eval([8]), session.eval([9, 7])]
        kept = session.state(0)
        session.set_state(0, kept)
        assert session.state(0) == kept
        return [*logits, session.eval([1])], session.memory()


@pytest.mark.parametrize(
    "settings",
    [
        {"NO_IMPORT": "1"},
        {"STAGING": "1"},
        {"STAGING": "1", "NO_IMPORT": "1"},
        {"ALIGNMENT": "256"},
    ],
)
def test_same_bits_on_every_path(
    vulkan: Backend,
    container: Container,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
) -> None:
    expected, memory = results(vulkan, container)
    assert memory["imported_bytes"] == len(container.section(Section.WEIGHTS))
    assert memory["weights_bytes"] == 0
    for name, value in settings.items():
        monkeypatch.setenv(f"INGOT_VULKAN_{name}", value)
    found, memory = results(vulkan, container)
    assert ("NO_IMPORT" in settings) == (memory["imported_bytes"] == 0)
    assert ("NO_IMPORT" in settings) == (memory["weights_bytes"] > 0)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_beyond_a_binding_are_cut(
    vulkan: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bindings of 112 KiB: the table and the gate are cut into pieces, with the same bits."""
    path, found = wide_program(tmp_path / "wide.ingot"), []
    tokens = [5002, 0, 17, 1023, 4096, *range(600, 612)]
    for most in (1 << 27, 112 << 10):
        monkeypatch.setenv("INGOT_VULKAN_RANGE", str(most))
        for count in (1, 5, 17):
            with (
                Container(path) as container,
                BackendModel(vulkan, container) as model,
                BackendSession(model, chunk=count, rows=1) as session,
            ):
                logits = session.eval(tokens[:count])
                gated = session.read(container.names.index("gated"), count)
                found.append((logits, gated))
    for whole, cut in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(whole[0], cut[0])
        np.testing.assert_array_equal(whole[1], cut[1])
    monkeypatch.setenv("INGOT_VULKAN_RANGE", "1024")
    with Container(path) as container, pytest.raises(BackendError, match="in one piece"):
        BackendModel(vulkan, container)


def test_limits_of_memory(
    vulkan: Backend, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BackendModel(vulkan, container) as model:
        with pytest.raises(BackendError, match="the limit is 1000") as caught:
            BackendSession(model, memory_limit=1000)
        assert caught.value.status == MEMORY_LIMIT
        monkeypatch.setenv("INGOT_VULKAN_NO_IMPORT", "1")
        with pytest.raises(BackendError, match="the limit is 999"):
            BackendModel(vulkan, container, memory_limit=999)


def test_pipelines_are_kept_and_a_broken_cache_is_replaced(
    vulkan: Backend, container: Container, tmp_path: Path
) -> None:
    def run() -> Path:
        with (
            BackendModel(vulkan, container, cache_folder=str(tmp_path)) as model,
            BackendSession(model) as session,
        ):
            session.run([1])
        (found,) = tmp_path.iterdir()
        return found

    file = run()
    assert re.fullmatch(r"vulkan-\w{4,8}-\w{4,8}-\w{8}-\w{32}\.cache", file.name)
    good = file.read_bytes()
    assert len(good) >= 32 and good[16:32].hex() in file.name
    file.write_bytes(b"\xff" * 100)
    assert run().read_bytes()[:32] == good[:32]


def test_traps_are_data_and_a_refused_device_says_why(
    vulkan: Backend, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    traps = tomllib.loads(TRAPS.read_text(encoding="utf-8"))["trap"]
    assert any(trap["name"] == "V3D" for trap in traps)
    for trap in traps:
        assert set(trap) == {"name", "driver", "reason", "source"} and trap["source"], trap
        monkeypatch.setenv("INGOT_VULKAN_NAME", f"Some {trap['name']} device")
        (device,) = vulkan.devices()
        applies = trap["driver"] == 0 or any(
            other["driver"] == 0 and other["name"] in trap["name"] for other in traps
        )
        assert (device["refused"] != "") == applies, trap
    monkeypatch.setenv("INGOT_VULKAN_NAME", "V3D 7.1")
    with pytest.raises(BackendError, match="slower than the board's CPU") as caught:
        BackendModel(vulkan, container)
    assert caught.value.status == HARDWARE


def test_a_driver_on_the_cpu_says_so(vulkan: Backend) -> None:
    (device,) = vulkan.devices()
    assert device["kind"] == 3 and device["refused"] == ""
    assert "subgroup-" in device["features"] and device["memory_bytes"] > 1 << 20
