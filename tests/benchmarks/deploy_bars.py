# SPDX-License-Identifier: Apache-2.0
"""Deploy 100 MB over loopback: cut in the middle, resumed, then one section changed.

Example:
    python tests/benchmarks/deploy_bars.py FILE.ingot       # exits 1 if a bar is missed
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingot.container import Container, replace_sections
from ingot.deploy import Connection, Deployment, Destination, Options, deploy
from ingot.errors import TransferError
from ingot.format import Section
from ingot.store import Store, make_manifest, unsigned
from tests.runtime.loopback_ssh import NoServer, Server

SIZE = 100_000_000
CUT_AT = 60_000_000
MOST_RESENT = 0.01
# What is in pipes and sockets when a link breaks is lost; the rest must not go again.
KEPT = 0.8


def large_file(model: Path, out: Path) -> None:
    """Write a working file of 100 MB: a model that runs, noise after its tokenizer."""
    with Container(model) as container:
        tokenizer = bytes(container.section(Section.TOKENIZER))
        noise = random.Random(7).randbytes(SIZE - container.size)
    replace_sections(model, out, {Section.TOKENIZER: tokenizer + noise})


def measure(model: Path, folder: Path, server: Server) -> dict[str, object]:
    """Return the figures of all three deployments. Units: bytes."""
    old, new, far = folder / "old.ingot", folder / "new.ingot", folder / "far"
    large_file(model, old)
    with Container(old) as container:
        chat = container.json(Section.CHAT)
    replace_sections(old, new, {Section.CHAT: json.dumps({**chat, "note": "changed"}).encode()})
    there = Destination(server.host, str(far))
    plain = Connection(server.ssh, server.remote_ingot, 0)

    def send(file: Path, connection: Connection) -> Deployment:
        return deploy(file, unsigned(make_manifest(file, "big")), there, connection, Options())

    try:
        send(old, Connection(server.cut_after(CUT_AT), server.remote_ingot, 0))
        raise SystemExit("the cut did not cut")
    except TransferError as error:
        said = str(error)
    after_cut = Store(far).current("big")
    resumed, changed = send(old, plain), send(new, plain)
    moved = changed.sent_bytes + changed.received_bytes
    return {
        "file_bytes": resumed.total_bytes,
        "cut_after": CUT_AT,
        "cut_said": said,
        "current_after_cut": after_cut,
        "resumed_bytes": resumed.resumed_bytes,
        "sent_after_cut": resumed.sent_bytes,
        "seconds_after_cut": round(resumed.seconds, 2),
        "moved_for_one_section": moved,
        "share_for_one_section": moved / changed.total_bytes,
        "seconds_for_one_section": round(changed.seconds, 2),
        "canary": changed.canary,
        "same_bytes": Path(changed.path).read_bytes() == new.read_bytes(),
    }


def missed(found: dict[str, object]) -> list[str]:
    """Return the bars that are missed."""
    bars = {
        "the file has 100 MB": abs(int(str(found["file_bytes"])) - SIZE) < 0.01 * SIZE,
        "nothing is current after the cut": found["current_after_cut"] == "",
        "the second attempt goes on": int(str(found["sent_after_cut"])) < SIZE - KEPT * CUT_AT,
        "one section moves under 1 %": float(str(found["share_for_one_section"])) < MOST_RESENT,
        "the far file is the near one": found["same_bytes"] is True,
        "the canary ran the vectors": "prompts" in str(found["canary"]),
    }
    return [name for name, holds in bars.items() if not holds]


def main(argv: list[str] | None = None) -> int:
    """Measure with a model file; print the figures; 1 if a bar is missed, 3 without a server."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: deploy_bars.py FILE.ingot", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            server = Server(folder)
        except NoServer as error:
            print(f"no server: {error}", file=sys.stderr)
            return 3
        try:
            found = measure(Path(arguments[0]), folder, server)
        finally:
            server.stop()
    print(json.dumps(found, indent=2))
    below = missed(found)
    for name in below:
        print(f"missed: {name}", file=sys.stderr)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
