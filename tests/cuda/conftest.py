# SPDX-License-Identifier: Apache-2.0
"""The emulation, built once, and the backend over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingot.container import Container
from tests.cuda import backend_driver
from tests.cuda.backend_driver import Model, Session, Table
from tests.cuda.emulation.build import BACKEND, DRIVER, build_emulation

Open = Callable[..., Session]


@pytest.fixture(scope="session")
def emulation(repo_root: Path) -> Path:
    return build_emulation(repo_root / "build" / "cuda-emulation")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE", "VERSION", "DISCRETE", "COUNT", "REGISTER", "LOG", "ORDER"):
        monkeypatch.delenv(f"INGOT_EMULATION_{name}", raising=False)
    monkeypatch.delenv("INGOT_PLANT", raising=False)


@pytest.fixture
def table(emulation: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setenv("INGOT_CUDA_DRIVER", str(emulation / DRIVER))
    return backend_driver.load(emulation / BACKEND)


@pytest.fixture
def open_session(table: Table) -> Iterator[Open]:
    """Return a function(path, ...) that opens a file and a session of it."""
    opened: list[Session] = []

    def start(path: Path, **options: object) -> Session:
        model = Model(table, Container(path), path)
        opened.append(Session(model, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for session in opened:
        session.close()
        session.model.close()
