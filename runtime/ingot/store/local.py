# SPDX-License-Identifier: Apache-2.0
"""Installing a file that is on this machine."""

from __future__ import annotations

from pathlib import Path

from ingot.container import Container
from ingot.errors import FormatError
from ingot.store.canary import Canary
from ingot.store.signing import SignedManifest
from ingot.store.store import Installed, Store

__all__ = ["install_file"]


def install_file(
    store: Store,
    file: Path,
    signed: SignedManifest,
    canary: Canary,
    check: Canary | None = None,
    allow_older: bool = False,
) -> Installed:
    """Copy what the store lacks of a file, try it, and switch to it.

    Raises: FormatError if the file is not the manifest's; as Store.begin and Store.commit.
    """
    with store.locked(), Container(file) as container:
        if container.size != signed.manifest.size:
            raise FormatError(f"{file}: not the file that its manifest describes")
        incoming = store.begin(signed, allow_older)
        for number in incoming.missing:
            piece = signed.manifest.pieces[number]
            incoming.put(number, container.data[piece.offset : piece.offset + piece.size])
        return store.commit(incoming, canary, check)
