# SPDX-License-Identifier: Apache-2.0
"""Pickle checkpoints are refused, and the command in the message converts them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ingot.errors import IngotError
from ingot_compressor.importers.checkpoint import Checkpoint


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def command_in(message: str, folder: Path) -> list[str]:
    found = re.search(r"cd (\S+) && (python -c .*)$", message)
    assert found is not None and found[1] == str(folder)
    return [sys.executable, *shlex.split(found[2])[1:]]


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": weight, "tied": weight, "b": weight.T}, tmp_path / "pytorch_model.bin")
    torch.save({"c": weight[0]}, tmp_path / "training_args.bin")
    with pytest.raises(IngotError, match=r"only safetensors.*pytorch_model\.bin is a pickle") as e:
        Checkpoint(tmp_path)
    subprocess.run(command_in(str(e.value), tmp_path), cwd=tmp_path, check=True)
    converted = load_file(tmp_path / "model.safetensors")
    assert set(converted) == {"a", "tied", "b"} and torch.equal(converted["b"], weight.T)
    assert set(Checkpoint(tmp_path).shapes) == {"a", "tied", "b"}


def test_the_way_to_convert_runs_no_program(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "exploded")}, tmp_path / "model.pt")
    with pytest.raises(IngotError, match="is a pickle") as caught:
        Checkpoint(tmp_path)
    command = command_in(str(caught.value), tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0 and not (tmp_path / "exploded").exists()


def test_a_folder_without_weights_is_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(IngotError, match=r"only safetensors are read$"):
        Checkpoint(tmp_path)
