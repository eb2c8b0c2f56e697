# SPDX-License-Identifier: Apache-2.0
"""A folder that long work keeps its finished parts in, so that a killed run goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import Dtype, Layout
from ingot.packing import Quantized

__all__ = ["WorkFolder", "work_key"]

KEY = "key.json"
PARTIAL = ".partial"


def work_key(facts: Mapping[str, Any]) -> str:
    """Return a digest of everything that the parts depend on."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class WorkFolder:
    """Finished parts by name. A part is there whole or not at all."""

    def __init__(self, folder: Path, key: str) -> None:
        """Open or make it.

        Raises: InvalidArgumentError if it holds the parts of another compression; StorageError.
        """
        self._folder = folder
        path = folder / KEY
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8")).get("key")
                if found != key:
                    raise InvalidArgumentError(
                        f"{folder} holds the work of another compression (other options, text or"
                        " checkpoint): give another --work, or delete it"
                    )
            elif any(folder.iterdir()):
                raise InvalidArgumentError(f"{folder} is not empty: --work needs its own folder")
            else:
                self._write(path, json.dumps({"key": key}).encode("utf-8"))
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            raise StorageError(f"{folder}: {error}") from error

    def save_weights(self, name: str, weights: Mapping[str, Quantized]) -> None:
        """Keep quantized weights by tensor name. Raises: StorageError."""
        self.save_arrays(
            name,
            {
                f"{tensor}/{field.name}": np.asarray(getattr(quantized, field.name))
                for tensor, quantized in weights.items()
                for field in fields(quantized)
            },
        )

    def load_weights(self, name: str) -> dict[str, Quantized] | None:
        """Return what was kept under a name, None if nothing was."""
        arrays = self.load_arrays(name)
        if arrays is None:
            return None
        found: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            tensor, field = key.rsplit("/", 1)
            found.setdefault(tensor, {})[field] = array
        return {tensor: _quantized(values) for tensor, values in found.items()}

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays by name. Raises: StorageError."""
        partial = self._folder / (name + PARTIAL)
        try:
            with partial.open("wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            os.replace(partial, self._folder / f"{name}.npz")
        except OSError as error:
            raise StorageError(f"{partial}: {error.strerror}") from error

    def load_arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays kept under a name, None if there are none."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    def save_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep figures and names as JSON. Raises: StorageError."""
        path = self._folder / f"{name}.json"
        try:
            text = json.dumps(facts, default=lambda number: number.item())
            self._write(path, text.encode("utf-8"))
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error

    def load_facts(self, name: str) -> dict[str, Any] | None:
        """Return the facts kept under a name, None if there are none."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return facts

    def bind(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep a digest of what the next parts depend on, known only after the folder was opened.

        Raises: InvalidArgumentError if the parts of this folder depend on something else.
        """
        key = work_key(facts)
        found = self.load_facts(name)
        if found is None:
            self.save_facts(name, {"key": key})
        elif found.get("key") != key:
            raise InvalidArgumentError(
                f"{self._folder} holds the work of other {name}: give another --work, or delete it"
            )

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a training state. Raises: StorageError."""
        partial = self._folder / (name + PARTIAL)
        try:
            torch.save(dict(state), partial)
            os.replace(partial, self._folder / f"{name}.pt")
        except OSError as error:
            raise StorageError(f"{partial}: {error.strerror}") from error

    def load_state(self, name: str) -> dict[str, Any] | None:
        """Return the training state kept under a name, None if there is none."""
        path = self._folder / f"{name}.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state

    def _write(self, path: Path, content: bytes) -> None:
        partial = path.with_suffix(PARTIAL)
        partial.write_bytes(content)
        os.replace(partial, path)


def _quantized(values: dict[str, Any]) -> Quantized:
    plain: dict[str, Any] = {
        "dtype": Dtype(int(values["dtype"])),
        "shape": tuple(int(x) for x in values["shape"]),
        "group": int(values["group"]),
        "delta": int(values["delta"]),
        "layout": Layout(int(values["layout"])),
    }
    return Quantized(**{**values, **plain})
