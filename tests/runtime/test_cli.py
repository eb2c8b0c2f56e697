# SPDX-License-Identifier: Apache-2.0
"""The command: output, exit statuses, one-line errors."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import bench, main
from ingot.cli.dispatch import COMMANDS
from ingot.container import Container, replace_sections
from ingot.format import Section

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line: (status, output, errors)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def _said(errors: str) -> str:
    """Return the one line of an error."""
    lines = errors.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ingot: error: "), errors
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_examples(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"\n  ingot {name} " in out or f"\n  ingot {name}\n" in out


def test_help_lists_every_command(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and all(f"    {name}" in out for name in COMMANDS)
    assert run("--version")[1].startswith("ingot 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk"],
        ["run"],
        ["run", "f", "--bogus"],
        ["run", "f", "--max-tokens", "many"],
        ["run", "f", "--prompt", "x", "--top-p", "0"],
        ["run", "f", "--prompt", "x", "--max-tokens", "0"],
        ["bench", "f", "--repeat", "0"],
        ["verify", "f", "--backend", "opencl"],
        ["bench", "f", "--device", "first"],
    ],
)
def test_usage_errors_and_what_is_not_built_exit_with_2(run: Run, arguments: list[str]) -> None:
    status, out, errors = run(*arguments)
    assert (status, out) == (2, "")
    assert errors


def test_a_backend_that_is_not_there_is_named(run: Run, stories: Path) -> None:
    status, _, errors = run("bench", str(stories), "--backend", "./libingot_none.so")
    assert status == 1
    assert "backend ./libingot_none.so is not installed" in _said(errors)
    assert "cpu, vulkan, cuda, auto" in " ".join(run("run", "f", "--backend", "opencl")[2].split())


def test_run_prints_one_json_object(
    run: Run, stories: Path, expected_greedy: dict[str, Any]
) -> None:
    prompt = "Tom and Mia went to the park"
    arguments = [
        "--max-tokens",
        "100",
        "--temperature",
        "0",
        "--seed",
        "3",
        "--json",
        "--kv",
        "f16",
    ]
    status, out, errors = run("run", stories, "--prompt", prompt, *arguments)
    assert (status, errors) == (0, "")
    found = json.loads(out)
    assert found["token_ids"] == expected_greedy[prompt]["greedy_ids"][:100]
    assert expected_greedy[prompt]["text"].startswith(found["text"])
    assert found["prompt_token_ids"] == expected_greedy[prompt]["prompt_ids"]
    assert found["stats"]["decode_tokens"] == 99 and found["finish_reason"] == "length"


def test_run_reads_standard_input(run: Run, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time\n"))
    status, out, errors = run("run", stories, "--max-tokens", "5")
    assert status == 0 and out.startswith(", there was") and "tok/s" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x", "--context", "513"], "planned for at most 512"),
        (["--prompt", "x " * 600], "do not fit"),
        (["--prompt", "x", "--threads", "100"], "threads 100"),
    ],
)
def test_bad_input_exits_with_1(
    run: Run, stories: Path, arguments: Sequence[str], message: str
) -> None:
    status, out, errors = run("run", stories, *arguments)
    assert (status, out) == (1, "")
    assert message in _said(errors)


def test_a_file_that_is_not_there_or_no_ingot(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.ingot"
    other.write_bytes(b"GGUF" + bytes(200))
    for command in ("run", "inspect", "verify", "bench"):
        extra = ["--prompt", "x"] if command == "run" else []
        assert run(command, tmp_path / "nothing", *extra)[0] == 1
        status, _, errors = run(command, other, *extra)
        assert status == 1 and "not an ingot" in _said(errors)


def test_inspect_describes_the_whole_file(run: Run, stories: Path) -> None:
    status, out, _ = run("inspect", stories, "--json")
    found = json.loads(out)
    assert status == 0 and set(found) >= {"sections", "tensors", "program", "plan", "certificate"}
    assert found["certificate"] is None
    assert found["program"][0]["op"] == "embed"
    assert found["plan"]["peaks"][-1]["bytes"] > 500_000
    with Container(stories) as container:
        assert len(found["tensors"]) == len(container.tensors)
    status, out, _ = run("inspect", stories, "--tensors", "--program")
    assert "RAM at context 512" in out and "= attention(" in out and "no certificate" in out


def test_verify_says_what_it_did(run: Run, stories: Path) -> None:
    status, out, _ = run("verify", stories, "--against", "reference", "--backend", "cpu")
    assert status == 0, out
    assert "conformance vectors: 3 prompts" in out
    assert "worst is instruction" in out and "of its bound" in out
    assert "ops executed: cpu " in out and "cpu 0" not in out


def test_verify_fails_on_damage_wrong_vectors_and_a_missing_certificate(
    run: Run, stories: Path, tmp_path: Path
) -> None:
    assert run("verify", stories, "--require", "pass")[0] == 1
    damaged = tmp_path / "damaged.ingot"
    data = bytearray(stories.read_bytes())
    data[-100_000] ^= 64
    damaged.write_bytes(data)
    assert run("verify", damaged)[0] == 1
    wrong = tmp_path / "wrong.ingot"
    with Container(stories) as container:
        vectors = container.json(Section.VECTORS)
    vectors["prompts"][0]["top_logits"][0] += 1.0
    replace_sections(stories, wrong, {Section.VECTORS: json.dumps(vectors).encode()})
    status, out, _ = run("verify", wrong)
    assert status == 1 and "FAIL  conformance vectors" in out


def test_verify_knows_a_certificate_of_another_file(
    run: Run, stories: Path, tmp_path: Path
) -> None:
    with Container(stories) as container:
        digests = {Section(s.kind).name.lower(): s.sha256.hex() for s in container.sections}
    measured = {name: digests[name] for name in ("tensors", "program", "weights")}
    for verdict, sections, expected in (
        ("pass", measured, 0),
        ("fail", measured, 1),
        ("pass", {**measured, "weights": "00"}, 1),
        ("pass", {}, 1),
    ):
        path = tmp_path / "certified.ingot"
        certificate = json.dumps({"verdict": verdict, "sections": sections}).encode()
        replace_sections(stories, path, {Section.CERTIFICATE: certificate})
        assert run("verify", path, "--require", "pass")[0] == expected


BENCH_KEYS = {
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "weight_bytes_per_token",
    "stream_gigabytes_per_second",
    "decode_fraction_of_stream",
    "threads",
    "isa",
    "peak_rss_bytes",
}


def test_bench_reports_the_keys_and_shortens_prefill(run: Run, stories: Path) -> None:
    arguments = ["--threads", "1", "--repeat", "1", "--prefill", "600", "--json"]
    status, out, errors = run("bench", stories, *arguments)
    report = json.loads(out)
    assert status == 0 and report.keys() >= BENCH_KEYS
    assert report["threads"] == 1 and report["decode_tokens_per_second"] > 0
    assert report["alternations"] >= 10
    assert report["peak_rss_bytes"] > 10_000_000
    assert "prefill shortened from 600 to 512" in errors
    assert report["prefill_tokens"] == 512


def test_a_fraction_above_the_ceiling_voids_a_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench._judge(1.02) == 0
    assert capsys.readouterr().err == ""
    assert bench._judge(1.03) == 1
    assert "void" in capsys.readouterr().err


def test_chat_answers_each_line_and_resets(
    run: Run, chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\n/reset\nOnce\n/what\n/quit\nOnce\n"))
    status, out, errors = run("chat", chatty, "--temperature", "0", "--max-tokens", "8")
    first, second = out.splitlines()
    assert status == 0 and first == second != ""
    assert "unknown command /what" in errors


def test_chat_without_a_template_says_what_to_do(
    run: Run, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\n"))
    status, _, errors = run("chat", stories)
    assert status == 1 and "use 'ingot run'" in _said(errors)


def test_compress_without_its_extra_names_our_own_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.setattr(importlib, "import_module", missing)
    status, _, errors = run("compress", "src", "--out", "x")
    assert status == 1 and 'pip install "ingot[compress]"' in _said(errors)


def test_targets(run: Run) -> None:
    status, out, _ = run("targets")
    assert status == 0 and "rpi5" in out and "host" in out
    assert json.loads(run("targets", "rpi5", "--json")[1])["name"] == "rpi5"
    assert "neon_dotprod" in run("targets", "rpi5")[1]
    status, _, errors = run("targets", "toaster")
    assert status == 1 and "toaster" in _said(errors)


def _process(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ingot", *map(str, arguments)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_an_interrupt_exits_with_130(chatty: Path) -> None:
    process = _process("chat", chatty, "--max-tokens", "1", stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write("Once\n/what\n")
    process.stdin.flush()
    assert "unknown command" in process.stderr.readline()  # it waits for the next line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert _said(errors) == "ingot: error: interrupted"


def test_a_reader_that_leaves_is_no_traceback(stories: Path) -> None:
    process = _process("inspect", stories, "--json", env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(120) == 1 and "Traceback" not in errors


class _Interrupting(io.StringIO):
    """What Ctrl-C at the first piece of an answer does."""

    def write(self, text: str) -> int:
        if not self.tell():
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_in_chat_ends_the_answer_alone(
    run: Run, chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("chat", chatty, "--temperature", "0", "--max-tokens", "200")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\n/quit\n"))
    _, whole, _ = run(*arguments)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\n/quit\n"))
    interrupted = _Interrupting()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", interrupted)
        assert run(*arguments)[0] == 0
    answer = interrupted.getvalue()
    assert whole.startswith(answer.rstrip("\n")) and len(answer) < len(whole) / 2
