# SPDX-License-Identifier: Apache-2.0
"""The command `ingot`."""

from __future__ import annotations

from ingot.cli.dispatch import main

__all__ = ["main"]
