# SPDX-License-Identifier: Apache-2.0
"""Commands for people who build: they need the source tree, which a wheel does not carry."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

from ingot.errors import MissingExtraError

__all__ = ["MARK", "add_source", "load_module"]

MARK = Path("targets") / "cross" / "build.py"


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add where the source tree is."""
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="Ingot's source tree; default: the one around"
    )


def load_module(name: str, source: Path | None) -> ModuleType:
    """Import a module of the source tree's folder targets/.

    Raises: MissingExtraError if no tree is found.
    """
    around = [Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents]
    places = [source] if source is not None else around
    root = next((place.resolve() for place in places if (place / MARK).is_file()), None)
    if root is None:
        where = f"{source} is not Ingot's source tree" if source else "no source tree is around"
        raise MissingExtraError(
            f"{where} (wanted {MARK}), and an installed package has none:"
            " unpack the source distribution or clone the repository; run in it or give --source"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(name)
