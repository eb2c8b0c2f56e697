# SPDX-License-Identifier: Apache-2.0
"""`ingot bench --replay`: the transcript is followed, and a bad one refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.cli import main

TRANSCRIPTS = Path(__file__).parents[1] / "benchmarks" / "transcripts"


def replay(path: Path, transcript: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    options = ["--threads", "1", "--repeat", "1", "--json"]
    status = main(["bench", str(path), "--replay", str(transcript), *options])
    captured = capsys.readouterr()
    return status, captured.out or captured.err


def test_an_edited_copy_accepts_what_free_prose_does_not(
    lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for name in ("copy_edit", "free_prose"):
        record = json.loads((TRANSCRIPTS / f"{name}.json").read_text(encoding="utf-8"))
        prompt = record["prompt"]
        record["prompt"], record["output"] = prompt[:160] + prompt[-4:], record["output"][:120]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        status, text = replay(lantern_ingot, path, capsys)
        assert status == 0
        report = json.loads(text)
        assert report["passes"] == report["tokens"] - report["accepted"]
        found[name] = report["accepted"]
    assert found["copy_edit"] > 3 * found["free_prose"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"prompt": [1]}', '{"prompt": [1], "output": [2]}', '{"prompt": 1}']
)
def test_a_bad_transcript_is_refused(
    text: str, lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    status, message = replay(lantern_ingot, path, capsys)
    assert status == 1 and "expected" in message


def test_ids_beyond_the_vocabulary_are_refused(
    lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.json"
    path.write_text('{"prompt": [99999999], "output": [1, 2]}', encoding="utf-8")
    status, message = replay(lantern_ingot, path, capsys)
    assert status == 1 and "99999999" in message
