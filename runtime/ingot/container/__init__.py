# SPDX-License-Identifier: Apache-2.0
"""The ingot file: a reader that checks everything, and an atomic writer."""

from __future__ import annotations

from ingot.container.parts import Parts
from ingot.container.reader import Container, validate
from ingot.container.writer import Contents, replace_sections, write_container

__all__ = ["Container", "Contents", "Parts", "replace_sections", "validate", "write_container"]
