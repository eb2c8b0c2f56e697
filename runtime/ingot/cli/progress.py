# SPDX-License-Identifier: Apache-2.0
"""Progress of long work on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["moving_line"]


def moving_line() -> Callable[[int, int], None]:
    """Return what shows progress on standard error: a line that moves, or one every 5 seconds."""
    moves = sys.stderr.isatty()
    state = {"next": time.monotonic() + (0.2 if moves else 5.0)}

    def show(sent: int, total: int) -> None:
        now = time.monotonic()
        if now < state["next"] and not (moves and sent == total):
            return
        state["next"] = now + (0.2 if moves else 5.0)
        end = "\r" if moves and sent < total else "\n"
        share = 100 * sent / max(total, 1)
        text = f"{sent / 1e6:8.1f} of {total / 1e6:.1f} MB ({share:.0f} %)"
        print(text, end=end, file=sys.stderr, flush=True)

    return show
