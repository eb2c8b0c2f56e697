# SPDX-License-Identifier: Apache-2.0
"""Every example runs and does what its first lines promise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingot import Model
from ingot._native import native
from ingot.cli import main
from ingot.container import Container, replace_sections
from ingot.format import Section

EXAMPLES = {"chat", "robot_script", "c_embed"}


@pytest.fixture(scope="module")
def lantern(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, quickly made."""
    path = tmp_path_factory.mktemp("examples") / "lantern.ingot"
    source = repo_root / "examples/models/lantern"
    arguments = ["--preset", "draft", "--no-certificate", "--quiet"]
    assert main(["compress", str(source), "--out", str(path), *arguments]) == 0
    return path


def _run(*command: Any, text: str = "") -> subprocess.CompletedProcess[str]:
    arguments = [str(part) for part in command]
    return subprocess.run(
        arguments, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_no_example_is_left_out(repo_root: Path) -> None:
    folders = {path.name for path in (repo_root / "examples").iterdir() if path.is_dir()}
    assert folders - {"models", "text"} == EXAMPLES


def test_the_robot_speaks(repo_root: Path, lantern: Path) -> None:
    done = _run(sys.executable, repo_root / "examples/robot_script/robot.py", lantern, "It was")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "tok/s" in done.stderr


def test_the_chat_answers_each_line(repo_root: Path, lantern: Path, tmp_path: Path) -> None:
    path = tmp_path / "chat.ingot"
    with Container(lantern) as container:
        chat = container.json(Section.CHAT)
    chat["chat_template"] = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    replace_sections(lantern, path, {Section.CHAT: json.dumps(chat).encode()})
    script = repo_root / "examples/chat/chat.py"
    done = _run(sys.executable, script, path, "Speak.", text="It was a dark night.\nAnd then?\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10


def test_the_c_program_gives_the_tokens_of_the_python_api(
    repo_root: Path, lantern: Path, tmp_path: Path
) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    with Model(lantern) as model, model.session() as session:
        expected = session.generate("It was a dark and stormy night, and", max_tokens=24)
    folder = Path(native().path).parent
    source, program = repo_root / "examples/c_embed/stream.c", tmp_path / "stream"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    include = ["-I", repo_root / "native/include"]
    link = ["-L", folder, "-lingot", f"-Wl,-rpath,{folder}"]
    built = _run(compiler, *flags, *include, source, "-o", program, *link)
    assert built.returncode == 0, built.stderr
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(" ".join(map(str, expected.prompt_token_ids)))
    done = _run(program, lantern, prompt, 24)
    assert done.returncode == 0, done.stderr
    assert tuple(map(int, done.stdout.split())) == expected.token_ids
    refused = _run(program, prompt, prompt, 24)
    assert refused.returncode == 1 and "expected at least 64" in refused.stderr
