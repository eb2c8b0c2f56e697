# SPDX-License-Identifier: Apache-2.0
"""Recipes: what a compression does, as TOML; a key that nobody knows is an error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError, StorageError
from ingot.format import Dtype
from ingot.packing.sizes import WEIGHT_DTYPES
from ingot_compressor.numerics.simulated import simulated_grids
from ingot_compressor.recipe_passes import Prune, Transform, check_prune, check_transform
from ingot_compressor.recipe_values import check_one_of, check_ranges, only_known, read_section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DYNAMIC",
    "FLOAT",
    "HALF_QUADRATIC",
    "STATIC",
    "TOKEN",
    "Activations",
    "BudgetKeys",
    "Distil",
    "Formats",
    "Gate",
    "Method",
    "Prune",
    "Recipe",
    "Rounding",
    "Transform",
    "format_named",
    "load_recipe",
]

TARGET = "target"
OPTIONAL = ("rounding", "distil", "gate", "transform", "prune", "activations", "budgets")
PRESETS = ("draft", "balanced", "quality", "full", "tiny")
ROUNDINGS = ("gptq", "trained")
TRAINED_PARTS = ("rounding", "scales", "codebook", "weights")
HELD_OUT = ("first", "spread")
HALF_QUADRATIC = "hqq"
# The runtime rounds inputs of linear operations by blocks of 32; the others are simulated.
DYNAMIC, TOKEN, STATIC, FLOAT = "dynamic", "token", "static", "float"
_FORMATS = {dtype.name.lower(): dtype for dtype in WEIGHT_DTYPES}


@dataclass(frozen=True, slots=True)
class Formats:
    """Format names by kind of weight; "target" leaves the choice to the target's profile.

    `grid` is a grid of `simulated_grids` that the body is rounded to instead, "" for none.
    """

    body: str
    head: str
    embedding: str
    q4_group: int
    grid: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """How codes are found and on how much text. Units: tokens.

    `scales` is "hqq" for half-quadratic scales, which need no data; "" leaves it to `search`.
    Calibration runs on sequences of `calibration_length`, at most the context.
    """

    search: bool
    calibrate: bool
    calibration_tokens: int
    evaluation_tokens: int
    scales: str = ""
    calibration_length: int = 512


@dataclass(frozen=True, slots=True)
class Activations:
    """What inputs of linear operations are rounded to, always int8 but for "float".

    `scales`: "dynamic" as the runtime does, one for 32 elements; "token", one for each token;
    "static", one for each linear operation, from calibration.
    """

    scales: str = DYNAMIC


@dataclass(frozen=True, slots=True)
class BudgetKeys:
    """Limits within which the formats of the body are mixed, as the command line has them.

    Units: bits, bytes, tokens per second, nats.
    """

    bpw: float | None = None
    max_bytes: int | None = None
    max_ram: int | None = None
    min_decode: float | None = None
    min_prefill: float | None = None
    max_kl: float | None = None


@dataclass(frozen=True, slots=True)
class Rounding:
    """How codes are improved after the search, block by block.

    `method`: "nearest" leaves them, "gptq" and "trained" may be joined by "+", in any order.
    Units: sequences of `length` tokens; `iterations` of training for each block; `sweeps` of
    coordinate descent after GPTQ's own; `guided` groups of rows, for weights of 3 bits and less,
    whose tokens GPTQ weighs by the gradient of the loss (0: all tokens alike). `damping`, in mean
    diagonals, is what GPTQ first adds to a Hessian, and more where it has no factor; with
    `act_order` it visits columns by falling diagonal, groups staying where they are.
    """

    method: str
    sequences: int
    length: int
    batch: int
    iterations: int
    sweeps: int = 4
    guided: int = 0
    damping: float = 0.01
    act_order: bool = True

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods in turn."""
        return tuple(self.method.split("+"))


@dataclass(frozen=True, slots=True)
class Distil:
    """Training of the whole model against the original: what, how long, on how much text.

    `train` names parts, joined by "+"; `low_rank` above 0 adds a movement of the weights of that
    rank (LoRA), merged before they are rounded. A model of more weights than `most_weights` is left
    out. `then_steps` above 0 is a second phase, in which codes stay and scales alone move, at
    `then_rate`. `held_out` says which windows choose the best state: the "first", or a "spread".
    """

    train: str
    steps: int
    sequences: int
    length: int
    batch: int
    rate: float
    most_weights: int
    low_rank: int = 0
    then_steps: int = 0
    then_rate: float = 0.005
    held_out: str = "first"

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that are trained."""
        return tuple(self.train.split("+"))

    @property
    def moves_weights(self) -> bool:
        """Whether the weights themselves are trained, so that any grid may be their own."""
        return "weights" in self.parts or self.low_rank > 0


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits on the KL divergence (natural logarithm) and what is needed to judge them.

    `recovery` is the least ratio of the file's accuracy to the reference's, None for no limit.
    """

    mean_kl: float
    p99_kl: float
    confidence: float
    least_windows: int
    recovery: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A preset; gate None means that no verdict is given."""

    name: str
    description: str
    formats: Formats
    method: Method
    gate: Gate | None
    rounding: Rounding | None = None
    distil: Distil | None = None
    transform: Transform | None = None
    prune: Prune | None = None
    activations: Activations | None = None
    budgets: BudgetKeys | None = None

    @property
    def simulated(self) -> tuple[str, ...]:
        """The keys with values that no file can hold, as text; none where files can be written."""
        scales = (self.activations or Activations()).scales
        found = [f'formats.grid "{self.formats.grid}"'] if self.formats.grid else []
        return (*found, *([f'activations.scales "{scales}"'] if scales != DYNAMIC else []))

    @property
    def needs_text(self) -> bool:
        """Whether a calibration text is looked for where none is given."""
        searched = self.transform is not None and self.transform.searched
        prune = self.prune or Prune()
        pruned = prune.structured or prune.superblocks > 0 or bool(prune.pattern)
        static = self.activations is not None and self.activations.scales == STATIC
        return self.method.calibrate or searched or pruned or static


def format_named(name: str) -> Dtype:
    """Return the weight format of a name.

    Raises: InvalidArgumentError for an unknown one.
    """
    if name not in _FORMATS:
        raise InvalidArgumentError(
            f"unknown format '{name}'; expected one of {', '.join(_FORMATS)}"
        )
    return _FORMATS[name]


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a preset by name, or a recipe from a .toml file.

    Raises: InvalidArgumentError naming file and key; StorageError for a file that cannot be read.
    """
    name = str(name_or_path)
    if not name.endswith(".toml"):
        if name not in PRESETS:
            raise InvalidArgumentError(
                f"unknown preset '{name}'; expected one of {', '.join(PRESETS)}"
            )
        folder = resources.files("ingot_compressor") / "recipes"
        return _read(name, (folder / f"{name}.toml").read_text(encoding="utf-8"))
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{name}: {error}") from error
    recipe = _read(name, text)
    if recipe.prune is None or not recipe.prune.vocabulary:
        return recipe
    # texts lie where the recipe lies
    texts = tuple(str(Path(name).parent / one) for one in recipe.prune.vocabulary)
    return replace(recipe, prune=replace(recipe.prune, vocabulary=texts))


def _read(label: str, text: str) -> Recipe:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"recipe {label}: not valid TOML: {error}") from error
    only_known(label, "", values, ("name", "description", "formats", "method"), OPTIONAL)
    kinds = {
        "formats": Formats,
        "method": Method,
        "rounding": Rounding,
        "distil": Distil,
        "gate": Gate,
        "transform": Transform,
        "prune": Prune,
        "activations": Activations,
        "budgets": BudgetKeys,
    }
    sections = {
        key: read_section(label, values, key, kind) for key, kind in kinds.items() if key in values
    }
    formats = sections["formats"]
    for key in ("body", "head", "embedding"):
        if getattr(formats, key) != TARGET:
            format_named(getattr(formats, key))
    if formats.q4_group not in (32, 64, 128):
        raise InvalidArgumentError(
            f"recipe {label}: formats.q4_group is {formats.q4_group}, expected 32, 64 or 128"
        )
    check_ranges(label, sections)
    _check_gate(label, sections.get("gate"))
    _check_training(label, sections.get("rounding"), sections.get("distil"))
    check_transform(label, sections.get("transform"))
    check_prune(label, sections.get("prune"))
    _check_masked(label, sections)
    _check_scales(label, sections)
    for key in ("name", "description"):
        if not isinstance(values[key], str):
            raise InvalidArgumentError(f"recipe {label}: {key} is {values[key]!r}, expected a text")
    optional = {key: sections.get(key) for key in OPTIONAL}
    return Recipe(
        name=values["name"],
        description=values["description"],
        method=sections["method"],
        formats=formats,
        **optional,
    )


def _check_masked(label: str, sections: Mapping[str, Any]) -> None:
    """Refuse what would give weights back that a pattern has taken out."""
    prune = sections.get("prune")
    for key in ("rounding", "distil"):
        if prune is not None and prune.pattern and key in sections:
            raise InvalidArgumentError(
                f"recipe {label}: '{key}' would train weights back that prune.pattern takes out"
            )


def _check_scales(label: str, sections: Mapping[str, Any]) -> None:
    """Check how scales are found, and that nothing else is asked of a simulated grid."""
    formats, method = sections["formats"], sections["method"]
    if method.scales:
        check_one_of(label, "method.scales", method.scales, (HALF_QUADRATIC,))
    if method.scales and method.search:
        raise InvalidArgumentError(
            f"recipe {label}: method.scales '{method.scales}' and method.search = true both choose"
            " scales: set search = false"
        )
    if "activations" in sections:
        known = (DYNAMIC, TOKEN, STATIC, FLOAT)
        check_one_of(label, "activations.scales", sections["activations"].scales, known)
    if not formats.grid:
        return
    check_one_of(label, "formats.grid", formats.grid, tuple(simulated_grids()))
    prune = sections.get("prune") or Prune()
    others = {
        "method.search = true": method.search,
        "method.scales": bool(method.scales),
        "rounding": "rounding" in sections,
        "distil": "distil" in sections,
        "budgets": "budgets" in sections,
        "prune.superblocks": prune.superblocks > 0,
        "prune.pattern": bool(prune.pattern),
    }
    for key in (key for key, given in others.items() if given):
        raise InvalidArgumentError(
            f"recipe {label}: formats.grid takes weights to their nearest values and knows nothing"
            f" of {key}: leave it out"
        )


def _check_gate(label: str, gate: Gate | None) -> None:
    if gate is None:
        return
    if not 0.5 <= gate.confidence < 1:
        raise InvalidArgumentError(
            f"recipe {label}: gate.confidence is {gate.confidence:g}, expected 0.5 to below 1"
        )
    if gate.recovery is not None and not 0 < gate.recovery <= 1:
        raise InvalidArgumentError(
            f"recipe {label}: gate.recovery is {gate.recovery:g}, expected above 0 to 1"
        )


def _check_training(label: str, rounding: Rounding | None, distil: Distil | None) -> None:
    methods = rounding.methods if rounding is not None else ()
    known = set(methods) <= set(ROUNDINGS) and len(set(methods)) == len(methods)
    if methods != ("nearest",) and not known:
        raise InvalidArgumentError(
            f"recipe {label}: rounding.method is '{'+'.join(methods)}', expected nearest,"
            f" {' or '.join(ROUNDINGS)}, or both once, joined by '+' in the order wanted"
        )
    for part in distil.parts if distil is not None else ():
        if part not in TRAINED_PARTS:
            raise InvalidArgumentError(
                f"recipe {label}: distil.train names '{part}', expected some of"
                f" {', '.join(TRAINED_PARTS)}, joined by '+'"
            )
    if distil is not None:
        check_one_of(label, "distil.held_out", distil.held_out, HELD_OUT)
