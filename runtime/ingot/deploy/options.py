# SPDX-License-Identifier: Apache-2.0
"""What the far side is told to do. It is told on its command line, never over the streams.

So a key whose authorized_keys line forces `command="ingot store receive DIR"` can bring models that
the store trusts, tried and not older, and can do nothing else.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a version is taken; by default with every check. `check` runs after the switch."""

    any_target: bool = False
    allow_older: bool = False
    no_canary: bool = False
    check: str = ""

    def words(self) -> str:
        """Return the words for the far side's command line, quoted for its shell."""
        flags = {
            "--any-target": self.any_target,
            "--allow-older": self.allow_older,
            "--no-canary": self.no_canary,
        }
        words = [flag for flag, given in flags.items() if given]
        return shlex.join([*words, *(["--check", self.check] if self.check else [])])
