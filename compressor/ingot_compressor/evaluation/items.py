# SPDX-License-Identifier: Apache-2.0
"""Items of tasks from JSON lines: each of a declared kind, its fields bound by a declared task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ingot.errors import InvalidArgumentError, StorageError

__all__ = [
    "KINDS",
    "TASKS",
    "Choice",
    "Generate",
    "Item",
    "LastWord",
    "Pair",
    "TaskSpec",
    "read_items",
    "read_task",
]

MATCHES = ("text", "line", "number")


@dataclass(frozen=True, slots=True)
class Pair:
    """A minimal pair: solved where the good sentence is likelier than the bad one."""

    task: str
    line: int
    good: str
    bad: str


@dataclass(frozen=True, slots=True)
class LastWord:
    """Solved where every token of the continuation is the likeliest one."""

    task: str
    line: int
    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Solved where choice number `gold` (from 0) has the highest likelihood per character."""

    task: str
    line: int
    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, slots=True)
class Generate:
    """A prompt to go on from. Units: max_tokens tokens.

    `answer` is what the text should be: as a whole (match "text"), its first line ("line"), or its
    last number ("number"). With `json` the text should be JSON; with `chat` the prompt is a user's
    message in the file's chat template. `stop` are strings that end the text.
    """

    task: str
    line: int
    prompt: str
    answer: str | None = None
    match: str = "text"
    json: bool = False
    chat: bool = False
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


Item: TypeAlias = "Pair | LastWord | Choice | Generate"
KINDS: Mapping[str, type[Any]] = {
    "pair": Pair,
    "last_word": LastWord,
    "choice": Choice,
    "generate": Generate,
}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """How the lines of a published data set become items.

    `needed` are the fields that a line must have; `bind` makes the item's fields of them.
    """

    kind: str
    needed: tuple[str, ...]
    bind: Callable[[Mapping[str, Any]], dict[str, Any]]


def _lambada(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"context": line["context"], "continuation": f" {line['continuation']}"}


def _arc(line: Mapping[str, Any]) -> dict[str, Any]:
    choices = [f" {choice}" for choice in line["choices"]]
    return {"query": f"{line['query']}\nAnswer:", "choices": choices, "gold": line["gold"]}


def _gsm8k(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": f"Question: {line['question']}\nAnswer:",
        "answer": line["answer"].rpartition("####")[2].strip(),
        "match": "number",
        "stop": ["Question:"],
    }


# Prompts as lm-evaluation-harness has them, so that figures can be compared.
TASKS: Mapping[str, TaskSpec] = {
    "blimp": TaskSpec(
        "pair", ("good", "bad"), lambda line: {"good": line["good"], "bad": line["bad"]}
    ),
    "lambada": TaskSpec("last_word", ("context", "continuation"), _lambada),
    "arc": TaskSpec("choice", ("query", "choices", "gold"), _arc),
    "gsm8k": TaskSpec("generate", ("question", "answer"), _gsm8k),
}


def read_task(argument: str, most: int | None = None) -> list[Item]:
    """Read FILE, or TASK=FILE for a file of a published task: what `--tasks` takes.

    Raises: as read_items; InvalidArgumentError for an unknown task.
    """
    name, mark, file = argument.partition("=")
    if not mark or "/" in name or Path(argument).is_file():
        return read_items(Path(argument), None, most)
    if name not in TASKS:
        raise InvalidArgumentError(
            f"unknown task '{name}' in '{argument}'; expected one of {', '.join(TASKS)}, or a file"
            " whose lines name their kind"
        )
    return read_items(Path(file), name, most)


def read_items(path: Path, task: str | None = None, most: int | None = None) -> list[Item]:
    """Read a file of items; `most` of them, spread evenly over the file.

    Without a task each line is an object with a "kind" and the fields of that kind; the file's
    name is the task's.
    Raises: StorageError; InvalidArgumentError with file, line and the fields expected.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 text: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InvalidArgumentError(f"{path}: no items")
    if most is not None and most < len(numbered):
        picked = np.linspace(0, len(numbered) - 1, most).round().astype(int)
        numbered = [numbered[index] for index in picked]
    return [_item(_Line(path, number), line, task) for number, line in numbered]


@dataclass(frozen=True, slots=True)
class _Line:
    """Where an item stands, for messages."""

    path: Path
    number: int

    def error(self, message: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"{self.path}:{self.number}: {message}")


def _item(where: _Line, text: str, task: str | None) -> Item:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise where.error(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise where.error("expected an object")
    if task is None:
        name, kind, bound = where.path.stem, *_of_user(where, value)
    else:
        name, kind, bound = task, TASKS[task].kind, _of_task(where, value, task)
    checked = {
        one.name: _checked(where, one, bound[one.name])
        for one in _fields(kind)
        if one.name in bound
    }
    item: Item = KINDS[kind](name, where.number, **checked)
    _check_item(where, item)
    return item


def _fields(kind: str) -> list[Field[Any]]:
    """Return what a line of a kind may have besides the kind itself."""
    return [one for one in fields(KINDS[kind]) if one.name not in ("task", "line")]


def _of_user(where: _Line, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise where.error(
            f'"kind" is {kind!r}, expected one of {", ".join(KINDS)}; for a published data set give'
            f" TASK=FILE with one of {', '.join(TASKS)}"
        )
    known = _fields(kind)
    needed = [one.name for one in known if one.default is MISSING]
    missing = [name for name in needed if name not in value]
    strange = [key for key in value if key not in ("kind", *(one.name for one in known))]
    if missing or strange:
        optional = [one.name for one in known if one.default is not MISSING]
        also = f", optional {', '.join(optional)}" if optional else ""
        found = f"no '{missing[0]}'" if missing else f"unknown field '{strange[0]}'"
        raise where.error(f"{found}; an item of kind {kind} has {', '.join(needed)}{also}")
    return kind, value


def _of_task(where: _Line, value: dict[str, Any], task: str) -> dict[str, Any]:
    spec = TASKS[task]
    missing = [name for name in spec.needed if name not in value]
    if missing:
        raise where.error(f"no '{missing[0]}'; a line of task {task} has {', '.join(spec.needed)}")
    try:
        return spec.bind(value)
    except (TypeError, AttributeError) as error:
        raise where.error(
            f"not a line of task {task} with {', '.join(spec.needed)}: {error}"
        ) from error


def _checked(where: _Line, field: Field[Any], value: Any) -> Any:
    """Return a value that has the type of the field's annotation; lists become tuples."""
    kind = str(field.type).removesuffix(" | None")
    if kind == "tuple[str, ...]":
        if isinstance(value, list) and all(isinstance(one, str) and one for one in value):
            return tuple(value)
        raise where.error(f"'{field.name}' is {value!r}, expected a list of texts")
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str)):
        return value
    raise where.error(f"'{field.name}' is {value!r}, expected {kind}")


def _check_item(where: _Line, item: Item) -> None:
    """Check what types do not say."""
    if isinstance(item, Choice):
        if len(item.choices) < 2:
            raise where.error(f"'choices' has {len(item.choices)}, expected at least 2")
        if not 0 <= item.gold < len(item.choices):
            raise where.error(
                f"'gold' is {item.gold}, expected 0 to {len(item.choices) - 1}: the index of the"
                " right choice"
            )
    elif isinstance(item, Generate):
        if item.match not in MATCHES:
            raise where.error(f"'match' is {item.match!r}, expected one of {', '.join(MATCHES)}")
        if item.max_tokens < 1:
            raise where.error(f"'max_tokens' is {item.max_tokens}, expected at least 1")
    texts = [value for one in fields(item) if isinstance(value := getattr(item, one.name), str)]
    if not all(text.strip() for text in texts):
        raise where.error("a text is empty")
