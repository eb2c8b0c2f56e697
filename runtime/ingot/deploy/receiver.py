# SPDX-License-Identifier: Apache-2.0
"""The far side of a deployment: asks for what its store lacks, checks it, tries it, switches."""

from __future__ import annotations

from pathlib import Path

from ingot.deploy.frames import (
    BANNER,
    Counted,
    Kind,
    read_frame,
    write_values,
)
from ingot.deploy.options import Options
from ingot.errors import IngotError, InvalidArgumentError, TransferError
from ingot.store.canary import Canary, command_check, no_canary
from ingot.store.incoming import Incoming
from ingot.store.profile import check_profile
from ingot.store.signing import SignedManifest
from ingot.store.store import Store

__all__ = ["receive"]


def receive(folder: Path, streams: Counted, canary: Canary, options: Options | None = None) -> bool:
    """Serve one deployment into a store, made if it is not there; return whether it was installed.

    What is refused is told to the near side; a cut leaves the partial file for the next time.
    Raises: TransferError if the near side is gone.
    """
    streams.write(BANNER)
    streams.flush()
    try:
        return _serve(folder, streams, canary, options or Options())
    except TransferError:
        raise
    except (IngotError, OSError) as error:
        write_values(streams, Kind.REFUSED, {"error": type(error).__name__, "message": str(error)})
        return False


def _serve(folder: Path, streams: Counted, canary: Canary, options: Options) -> bool:
    kind, _, data = read_frame(streams)
    if kind != Kind.MANIFEST:
        raise TransferError(f"a manifest was due, found {kind.name}")
    signed = SignedManifest.from_bytes(data)
    fit = check_profile(signed.manifest.requirements)
    if fit.problems and not options.any_target:
        raise InvalidArgumentError(f"{'; '.join(fit.problems)} (--any-target sends it anyway)")
    store = Store(folder, create=True)
    with store.locked():
        incoming = store.begin(signed, options.allow_older)
        write_values(
            streams,
            Kind.NEED,
            {
                "ranges": _ranges(incoming.missing),
                "missing_bytes": incoming.missing_bytes,
                "resumed_bytes": incoming.resumed_bytes,
                "reused_bytes": incoming.reused_bytes,
                "remarks": [*fit.problems, *fit.remarks],
            },
        )
        if not _take(streams, incoming):
            return False
        chosen = no_canary if options.no_canary else canary
        check = command_check(options.check) if options.check else None
        done = store.commit(incoming, chosen, check)
    write_values(
        streams,
        Kind.INSTALLED,
        {
            "version": done.version,
            "previous": done.previous,
            "path": str(done.path),
            "signed_by": done.signed_by,
            "canary": done.canary,
        },
    )
    return True


def _take(streams: Counted, incoming: Incoming) -> bool:
    """Take pieces until the near side is done; False if it only wanted to know."""
    while True:
        kind, number, data = read_frame(streams)
        if kind == Kind.DATA:
            incoming.put(number, data)
        elif kind == Kind.DONE:
            return number == 0
        else:
            raise TransferError(f"pieces were due, found {kind.name}")


def _ranges(numbers: list[int]) -> list[list[int]]:
    """Return ascending numbers as [first, count]."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == sum(ranges[-1]):
            ranges[-1][1] += 1
        else:
            ranges.append([number, 1])
    return ranges
