# SPDX-License-Identifier: Apache-2.0
"""The near side of a deployment: sends only what the far store lacks, and goes on after cuts."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ingot import errors
from ingot.container import Container
from ingot.deploy.frames import (
    Counted,
    Kind,
    read_frame,
    read_values,
    wait_for_banner,
    write_frame,
)
from ingot.deploy.options import Options
from ingot.errors import (
    FormatError,
    IngotError,
    InvalidArgumentError,
    StateError,
    TransferError,
)
from ingot.store.signing import SignedManifest

__all__ = ["Connection", "Deployment", "Destination", "deploy"]

_DESTINATION = re.compile(
    r"(?:(?P<user>[^@:/\s]+)@)?(?P<host>\[[^\]\s]+\]|[^@:/\s]+):(?P<folder>.+)"
)
_ALIVE = ("-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_NOT_FOUND = 127
_LONGEST_WAIT_S = 10.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a model goes: what ssh is told, and the folder of the store there."""

    host: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read [user@]host:DIR. Raises: InvalidArgumentError."""
        found = _DESTINATION.fullmatch(text)
        if found is None or text.startswith("-"):
            raise InvalidArgumentError(f"'{text}' is not [user@]host:DIR, such as pi@board:models")
        host = found["host"].strip("[]")
        # ssh starts in the home folder, and a quoted ~ would be a folder of that name.
        folder = re.sub(r"^~/", "", found["folder"])
        return cls(f"{found['user']}@{host}" if found["user"] else host, folder)


@dataclass(frozen=True, slots=True)
class Connection:
    """How the far side is reached. `ssh` is the start of a command, as rsync's -e takes it."""

    ssh: str = "ssh"
    remote_ingot: str = "ingot"
    retries: int = 3

    def command(self, destination: Destination, options: Options) -> list[str]:
        """Return the whole command."""
        words = shlex.split(self.ssh)
        if not words:
            raise InvalidArgumentError("the ssh command is empty")
        alive = _ALIVE if Path(words[0]).name == "ssh" else ()
        remote = f"{self.remote_ingot} store receive {shlex.quote(destination.folder)}"
        remote = f"{remote} {options.words()}".rstrip()
        return [*words, *alive, "--", destination.host, remote]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deployment did. Units: bytes; sent and received are all that passed, manifest too.

    `reused_bytes` were on the device in another version, `resumed_bytes` from an earlier attempt.
    """

    name: str
    version: str
    previous: str
    installed: bool
    path: str
    canary: str
    total_bytes: int
    missing_bytes: int
    sent_bytes: int
    received_bytes: int
    reused_bytes: int
    resumed_bytes: int
    attempts: int
    seconds: float
    remarks: tuple[str, ...]


def deploy(
    file: Path,
    signed: SignedManifest,
    destination: Destination,
    connection: Connection,
    options: Options,
    progress: Progress = lambda sent, total: None,
    dry_run: bool = False,
) -> Deployment:
    """Bring a file into the store of another device, and make it current there.

    `progress(sent, total)` is called with the bytes of the pieces as they go. `dry_run` ends once
    the device has said what it lacks.
    Raises: TransferError if the connection breaks more often than `retries` says; what the far
        side refuses comes as the exception that it had there.
    """
    start, sent, received = time.monotonic(), 0, 0
    for attempt in range(1, connection.retries + 2):
        streams: Counted | None = None
        try:
            with _connected(connection.command(destination, options)) as streams:
                answers = _send(file, signed, streams, progress, dry_run)
            break
        except (TransferError, StateError):  # cut, or the store is busy with what was cut
            if streams is None or attempt > connection.retries:
                raise
            time.sleep(min(_LONGEST_WAIT_S, 0.5 * 2**attempt))
        finally:
            if streams is not None:
                sent, received = sent + streams.sent, received + streams.received
    need, done = answers
    return Deployment(
        name=signed.manifest.name,
        version=signed.manifest.version,
        previous=str(done.get("previous", "")),
        installed=bool(done),
        path=str(done.get("path", "")),
        canary=str(done.get("canary", "")),
        total_bytes=signed.manifest.size,
        missing_bytes=int(need.get("missing_bytes", 0)),
        sent_bytes=sent,
        received_bytes=received,
        reused_bytes=int(need.get("reused_bytes", 0)),
        resumed_bytes=int(need.get("resumed_bytes", 0)),
        attempts=attempt,
        seconds=time.monotonic() - start,
        remarks=tuple(str(remark) for remark in need.get("remarks", ())),
    )


@contextlib.contextmanager
def _connected(command: list[str]) -> Iterator[Counted]:
    """Run the command that leads to the far side; say why it ended if it broke."""
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
            )
        except OSError as error:
            raise InvalidArgumentError(f"{command[0]} cannot be started: {error}") from error
        try:
            if process.stdout is None or process.stdin is None:
                raise TransferError("the connection has no streams")
            streams = Counted(process.stdout, process.stdin)
            yield streams
        except TransferError as error:
            _close(process)
            raise _explained(error, process.returncode, said, command) from None
        finally:
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    """End the connection; what is still in a buffer goes nowhere."""
    if process.returncode is not None:
        return
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _explained(
    error: TransferError, status: int, said: IO[bytes], command: list[str]
) -> IngotError:
    """Return the error with what ssh said, and with what to do."""
    said.seek(0)
    lines = said.read()[-4000:].decode("utf-8", errors="replace").strip().splitlines()
    reason = f"{error}: {'; '.join(lines[-3:])}" if lines else f"{error} (status {status})"
    if status == _NOT_FOUND:
        return InvalidArgumentError(
            f"{reason}. Install the runtime there (`ingot bundle` makes an offline installer), or "
            "say where it is with --remote-ingot"
        )
    return TransferError(f"{' '.join(command[:1])}: {reason}; deploy again to go on from here")


def _send(
    file: Path, signed: SignedManifest, streams: Counted, progress: Progress, dry_run: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do one deployment; return what was needed and what was done."""
    wait_for_banner(streams)
    write_frame(streams, Kind.MANIFEST, signed.to_bytes())
    streams.flush()
    need = _answer(streams, Kind.NEED)
    if dry_run:
        write_frame(streams, Kind.DONE, number=1)
        streams.flush()
        return need, {}
    try:
        _send_pieces(file, signed, streams, need, progress)
    except TransferError:
        # It may have refused a piece and gone; then it has said why.
        with contextlib.suppress(TransferError):
            _answer(streams, Kind.INSTALLED)
        raise
    return need, _answer(streams, Kind.INSTALLED)


def _send_pieces(
    file: Path,
    signed: SignedManifest,
    streams: Counted,
    need: dict[str, Any],
    progress: Progress,
) -> None:
    pieces, sent, total = signed.manifest.pieces, 0, int(need.get("missing_bytes", 0))
    with Container(file) as container:
        if container.size != signed.manifest.size:
            raise FormatError(f"{file}: not the file that its manifest describes")
        for first, count in need["ranges"]:
            if not 0 <= first <= first + count <= len(pieces):
                raise TransferError("the far side asked for pieces that the file does not have")
            for number in range(first, first + count):
                piece = pieces[number]
                data = container.data[piece.offset : piece.offset + piece.size]
                write_frame(streams, Kind.DATA, data, number)
                sent += piece.size
                progress(sent, total)
    write_frame(streams, Kind.DONE)
    streams.flush()


def _answer(streams: Counted, due: Kind) -> dict[str, Any]:
    """Read the far side's answer. Raises: what the far side raised; TransferError."""
    kind, _, data = read_frame(streams)
    values = read_values(data)
    if kind == Kind.REFUSED:
        found = getattr(errors, str(values.get("error")), IngotError)
        known = isinstance(found, type) and issubclass(found, IngotError)
        chosen = found if known and found is not TransferError else IngotError
        raise chosen(f"the device refused: {values.get('message')}")
    if kind != due:
        raise TransferError(f"{due.name} was due, the far side sent {kind.name}")
    return values
