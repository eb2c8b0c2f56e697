# SPDX-License-Identifier: Apache-2.0
"""What `ingot compress` refuses, and that no failure leaves a file behind."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ingot.cli import main
from ingot.errors import StorageError
from ingot_compressor import compress as compress_module
from ingot_compressor import draft as draft_module
from tests.compressor.tiny_models import LLAMA, write_checkpoint


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", LLAMA, deviation=0.1)


def run(checkpoint: Path, out: Path, *options: str) -> int:
    return main(
        ["compress", str(checkpoint), "--out", str(out), "--quiet", "--threads", "1", *options]
    )


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.ingot"
    old.write_bytes(b"as it was")
    with file_size_limit(1 << 16):
        assert run(checkpoint, old, "--preset", "draft") == 1
    assert "cannot write" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["old.ingot"]
    assert old.read_bytes() == b"as it was"


@pytest.mark.parametrize("step", ["write_draft", "compute_vectors", "replace_sections"])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (StorageError("the disk is full"), 1),
        (MemoryError(), 1),
    ],
)
def test_a_failure_at_any_step_leaves_nothing(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    failure: BaseException,
    status: int,
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(compress_module, step, fail)
    assert run(checkpoint, tmp_path / "x.ingot", "--preset", "draft") == status
    assert list(tmp_path.iterdir()) == []
    message = capsys.readouterr().err
    assert message.startswith("ingot: error: ") and message.count("\n") == 1


def test_an_interrupt_while_quantizing_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = draft_module.emit

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(draft_module, "emit", interrupted)
    assert run(checkpoint, tmp_path / "x.ingot", "--preset", "draft") == 130
    assert list(tmp_path.iterdir()) == []


def damage(checkpoint: Path, folder: Path, what: str) -> Path:
    """Copy a checkpoint with one thing wrong."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    shards = sorted(folder.glob("*.safetensors"))
    if what == "nan":
        tensors = load_file(shards[0])
        name = next(n for n in tensors if tensors[n].ndim == 2 and "layers.0" in n)
        tensors[name] = tensors[name].copy()
        tensors[name][3, 4] = np.nan
        save_file(tensors, shards[0])
    elif what == "missing":
        shards[-1].unlink()
    else:
        data = shards[-1].read_bytes()
        shards[-1].write_bytes(data[: len(data) // 2])
    return folder


@pytest.mark.parametrize(
    ("what", "words"), [("nan", "NaN"), ("missing", "safetensors"), ("short", "safetensors")]
)
def test_damaged_checkpoints_are_refused(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: str,
    words: str,
) -> None:
    source = damage(checkpoint, tmp_path / "source", what)
    out = tmp_path / "out"
    out.mkdir()
    assert run(source, out / "x.ingot", "--preset", "draft") == 1
    assert words in capsys.readouterr().err
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--format", "c9"], 2, "unknown format 'c9'"),
        (["--head-format", "q2"], 2, "unknown format 'q2'"),
        (["--preset", "best"], 2, "unknown preset 'best'"),
        (["--format", "int4"], 2, "unknown format 'int4'"),
        (["--target", "toaster"], 2, "unknown target 'toaster'"),
        (["--bpw", "5", "--format", "c4"], 2, "leave out --format"),
        (["--bpw", "0.5"], 2, "--bpw is 0.5, expected 1 to 16"),
        (["--group", "48"], 2, "--group is 48, expected 32, 64 or 128"),
        (["--chunk", "0"], 2, "--chunk is 0"),
        (["--context", "0"], 1, "context 0"),
        (["--calibration", "absent.txt"], 1, "absent.txt"),
        (["--bits", "4"], 2, "unrecognized arguments"),
    ],
)
def test_options_that_make_no_sense_are_named(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    assert run(checkpoint, tmp_path / "x.ingot", *options) == status
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_place_to_write_is_checked_first(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, tmp_path, "--preset", "draft") == 1
    assert "is a folder" in capsys.readouterr().err
    assert run(checkpoint, tmp_path / "no" / "x.ingot", "--preset", "draft") == 1
    assert "no such folder" in capsys.readouterr().err
