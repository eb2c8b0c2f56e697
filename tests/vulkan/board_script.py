# SPDX-License-Identifier: Apache-2.0
"""Runs on a board: every op of a file on its Vulkan driver, each held to the reference's bound.

Example:
    python tests/vulkan/board_script.py ops.ingot
"""

from __future__ import annotations

import sys
from typing import Any

from ingot.container import Container
from ingot.format import Rows
from ingot.model import Model
from ingot.reference import check_operations

TOKENS = [3, 1, 4, 1, 5]


def main(path: str) -> int:
    """Print a line for the worst op and one for the split; return 1 unless all holds."""
    with (
        Container(path) as container,
        Model(path, backend="vulkan", canary=False) as model,
        model.session(kv="f16") as session,
    ):

        def read(instructions: int, tensor: int) -> Any:
            session.trace(TOKENS, instructions)
            selected = container.tensors[tensor].rows == Rows.SELECTED
            return session.read(tensor, 1 if selected else len(TOKENS))

        checks = check_operations(container, TOKENS, read)
        worst = max(checks, key=lambda check: check.ratio)
        print(f"{len(checks)} outputs, worst {worst.op} -> {worst.tensor}: {worst.ratio:.3g}")
        one = [session.feed([token]).argmax() for token in TOKENS]
        print(f"cpu {session.executed('cpu')}, vulkan {session.executed('vulkan')}, {one}")
        return int(not worst.passed or session.executed("cpu") != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
