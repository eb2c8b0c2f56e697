# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder: config.json and one or many safetensors files, read lazily."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ingot.errors import IngotError, StorageError
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.ir import FloatArray, Weight

__all__ = ["Checkpoint", "is_text", "read_configuration", "read_json"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = ("BF16", "F16", "F32")
LISTED = 8  # names that an error message shows


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises: StorageError if it cannot be read; IngotError if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise IngotError(f"{path}: not valid JSON ({error}); copy the file again") from error


def is_text(value: Any) -> bool:
    """Whether a value of a JSON file is a string that UTF-8 can hold: no lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def read_configuration(path: Path) -> Configuration:
    """Read config.json of a checkpoint.

    Raises: StorageError if the folder or the file is not there.
    """
    if not path.is_dir():
        raise StorageError(f"{path}: no such folder; expected a Hugging Face checkpoint")
    return Configuration(_object(path / "config.json"))


class Checkpoint:
    """The tensors of a checkpoint by name; opening reads only the headers of the shards.

    Raises: IngotError or StorageError naming the file when one is missing, cut short or no
        safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for shard, promised in _shards(path).items():
            self._open(shard, promised)

    def _open(self, shard: Path, promised: Iterable[str]) -> None:
        for name, shape in _headers(shard).items():
            self.files[name] = shard
            self.shapes[name] = shape
        absent = [name for name in promised if self.files.get(name) != shard]
        if absent:
            raise IngotError(
                f"{shard}: tensor {absent[0]!r} is not in it, though {INDEX} says so; "
                "copy the shard again"
            )

    def check(
        self, expected: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]
    ) -> None:
        """Compare the checkpoint with the tensors that the model needs.

        Raises: IngotError listing what is missing, unknown or of another shape.
        """
        missing = [name for name in expected if name not in self.shapes]
        if missing:
            raise IngotError(f"{self.path}: the checkpoint lacks {_listed(missing)}")
        unknown = [name for name in self.shapes if name not in expected and not ignored(name)]
        if unknown:
            raise IngotError(
                f"{self.path}: the model as config.json describes it has no {_listed(unknown)}"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise IngotError(
                    f"{self.files[name]}: tensor {name!r} has shape {self.shapes[name]}, "
                    f"config.json gives {shape}"
                )

    def array(self, name: str) -> FloatArray:
        """Read one tensor as float32.

        Raises: IngotError if an element is NaN or infinite.
        """
        values = _read(self.files[name], name)
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            raise IngotError(
                f"{self.files[name]}: tensor {name!r} has {bad} of {values.size} values that are "
                "NaN or infinite; the checkpoint is damaged"
            )
        return values

    def weight(self, name: str) -> Weight:
        """Return a matrix that is read when its `load` is called."""
        n, k = self.shapes[name]
        return Weight(name, (n, k), partial(self.array, name))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return "tensor " + ", ".join(repr(name) for name in names[:LISTED]) + more


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise IngotError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _shards(path: Path) -> dict[Path, list[str]]:
    """Return each weight file with the tensors that the index promises in it."""
    if not (path / INDEX).exists():
        if (path / SINGLE).exists():
            return {path / SINGLE: []}
        raise IngotError(_without_safetensors(path))
    mapping = _object(path / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise IngotError(f"{path / INDEX}: no weight_map; copy the file again")
    shards: dict[Path, list[str]] = {}
    for name, file in mapping.items():
        shards.setdefault(path / str(file), []).append(name)
    for shard in shards:
        if shard.parent != path:
            raise IngotError(f"{path / INDEX}: shard {shard} lies outside of the checkpoint")
        if not shard.exists():
            raise IngotError(
                f"{path}: shard {shard.name!r} is missing; {INDEX} lists {len(shards)} shards"
            )
    return shards


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file({k: v.clone().contiguous() for f in sys.argv[2:] for k, v in "
    "torch.load(f, map_location='cpu', weights_only=True).items()}, sys.argv[1], "
    "{'format': 'pt'})"
)


def _without_safetensors(path: Path) -> str:
    """Say why a folder is refused, and how its pickles become safetensors."""
    message = f"{path}: neither {SINGLE} nor {INDEX}; only safetensors are read"
    found = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    weights = [name for name in found if not name.startswith(("training_args", "optimizer"))]
    if not weights:
        return message
    found_text = f"{weights[0]} is a pickle" if len(weights) == 1 else "The weights are pickles"
    return (
        f"{message}. {found_text}, which can run any program while it is read. Convert it where "
        f'you trust them: cd {path} && python -c "{CONVERT}" {SINGLE} {" ".join(weights)}'
    )


def _headers(shard: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor; safetensors checks the header against the file's size."""
    try:
        with safe_open(shard, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: piece.get_dtype() for name, piece in slices.items()}
            shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
    except (SafetensorError, OSError) as error:
        raise IngotError(
            f"{shard}: cut short or no safetensors file ({error}); download the shard again"
        ) from error
    for name, kind in kinds.items():
        if kind not in DTYPES and not name.endswith("inv_freq"):
            raise IngotError(
                f"{shard}: tensor {name!r} is {kind}; supported: {', '.join(DTYPES)}. "
                "Compress from the checkpoint before quantization"
            )
    return shapes


def _read(shard: Path, name: str) -> FloatArray:
    # numpy has no bfloat16, so that torch does the reading
    try:
        with safe_open(shard, framework="pt") as file:
            values: FloatArray = file.get_tensor(name).float().numpy()
    except (SafetensorError, OSError) as error:
        raise IngotError(
            f"{shard}: tensor {name!r} cannot be read ({error}); download the shard again"
        ) from error
    return values
