# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the runtime's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ingot.cli import main
from ingot.container import Container, replace_sections
from ingot.format import Section
from tests.runtime.fake_library import binding

# The same examples each time: a commit is judged by what it changed. A slow machine is no fault.
settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}{{ '' }}{% endif %}"
)


@pytest.fixture(scope="session")
def ffi(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The cffi binding of ingot.h, generated anew; no library behind it."""
    return binding(repo_root, tmp_path_factory.mktemp("binding"))


@pytest.fixture(scope="session")
def stories(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story model in f16, with vectors and without certificate."""
    path = tmp_path_factory.mktemp("stories") / "stories.ingot"
    source = str(shared_dir / "models/stories260k")
    formats = ["--format", "f16", "--head-format", "f16", "--no-certificate"]
    arguments = ["compress", source, "--out", str(path), "--preset", "draft", "--quiet", *formats]
    assert main(arguments) == 0
    return path


@pytest.fixture(scope="session")
def expected_greedy(shared_dir: Path) -> dict[str, Any]:
    """What greedy float32 decoding gives, by prompt; logits after <s> beside it."""
    path = shared_dir / "models/stories260k/expected_greedy.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def chatty(stories: Path) -> Path:
    """The story model with a chat template."""
    path = stories.with_name("chatty.ingot")
    with Container(stories) as container:
        chat = {**container.json(Section.CHAT), "chat_template": TEMPLATE}
    replace_sections(stories, path, {Section.CHAT: json.dumps(chat).encode()})
    return path
