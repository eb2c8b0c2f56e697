# SPDX-License-Identifier: Apache-2.0
"""Changes one value of a JSON document; the result is JSON again, so that a fuzzer gets past it."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

__all__ = ["VALUES", "mutate", "mutate_text"]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308),
    *(float("inf"), float("nan"), "", "a", "\x00", "../x", "\ud800", "é" * 9, "llama", "F16"),
    *([], [[]], [0], ["a"], {}, {"a": 1}, {"content": 3}, [None, {}], "default", "dynamic"),
)
_CHOICES = ("replace", "replace", "scale", "remove", "copy", "wrap", "rename", "text")


def mutate(document: Any, rng: random.Random) -> Any:
    """Return a copy with one change at a random place."""
    root = [copy.deepcopy(document)]
    parent, key = rng.choice(_places(root))
    value, choice = parent[key], rng.choice(_CHOICES)
    if choice == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
        parent[key] = rng.choice((value + 1, value - 1, value * 2, -value, value // 2))
    elif choice == "remove" and parent is not root:
        del parent[key]
    elif choice == "copy":
        other, place = rng.choice(_places(root))
        parent[key] = copy.deepcopy(other[place])
    elif choice == "wrap":
        parent[key] = [value] if rng.random() < 0.5 else {"a": value}
    elif choice == "rename" and isinstance(parent, dict):
        parent[str(rng.choice(VALUES))] = parent.pop(key)
    elif choice == "text" and isinstance(value, str) and value:
        at = rng.randrange(len(value))
        parent[key] = value[:at] + chr(rng.choice((0, 9, 34, 92, 127, 0x10FFFF))) + value[at + 1 :]
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Return (container, key or index) of every value."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        box = waiting.pop()
        keys = list(box) if isinstance(box, dict) else range(len(box))
        for key in keys:
            found.append((box, key))
            if isinstance(box[key], (dict, list)):
                waiting.append(box[key])
    return found


def mutate_text(text: bytes, rng: random.Random) -> bytes:
    """Return the text of a mutated document on one line; what is no JSON comes back as it is."""
    try:
        document = json.loads(text)
        changed = json.dumps(mutate(document, rng), ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError, TypeError, OverflowError):
        return text
    return changed.encode("utf-8", "surrogatepass")
