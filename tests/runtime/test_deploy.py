# SPDX-License-Identifier: Apache-2.0
"""Deployment: over streams, and over a real ssh server on loopback."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.container import replace_sections, write_container
from ingot.deploy import Connection, Deployment, Destination, Options, deploy, receive
from ingot.deploy.frames import (
    BANNER,
    Counted,
    Kind,
    PatientInput,
    read_frame,
    wait_for_banner,
    write_frame,
)
from ingot.errors import CanaryError, InvalidArgumentError, SignatureError, TransferError
from ingot.format import Section
from ingot.store import SignedManifest, Store, make_manifest, unsigned
from ingot.store.canary import no_canary
from ingot.store.manifest import PIECE_BYTES
from tests.must_fail.tiny_file import contents
from tests.runtime.loopback_ssh import NoServer, Server

BLOB_BYTES = 3_000_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file of 3 MB, and the same with another small section."""
    folder = tmp_path_factory.mktemp("deployed")
    tiny, old, new = (folder / f"{name}.ingot" for name in ("tiny", "old", "new"))
    write_container(tiny, contents())
    blob = random.Random(5).randbytes(BLOB_BYTES)
    replace_sections(tiny, old, {Section.TOKENIZER: blob})
    replace_sections(old, new, {Section.CHAT: b'{"version": 2}'})
    return [old, new]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        found = Server(tmp_path_factory.mktemp("sshd"))
    except NoServer as error:
        pytest.skip(f"ssh: {error}")
    yield found
    found.stop()


def manifest(path: Path) -> SignedManifest:
    return unsigned(make_manifest(path, "chat", 1))


def exchange(
    folder: Path,
    signed: SignedManifest,
    frames: list[tuple[Kind, int, bytes]],
    options: Options | None = None,
) -> list[tuple[Kind, int, bytes]]:
    """Let the far side take frames that are all there at once; return what it answers."""
    asked, said = io.BytesIO(), io.BytesIO()
    near = Counted(io.BytesIO(), asked)
    write_frame(near, Kind.MANIFEST, signed.to_bytes())
    for kind, number, data in frames:
        write_frame(near, kind, data, number)
    asked.seek(0)
    answered = None
    try:
        receive(folder, Counted(asked, said), no_canary, options)
    except TransferError as error:
        answered = error
    said.seek(0)
    streams, found = Counted(said, io.BytesIO()), []
    wait_for_banner(streams)
    while streams.received < len(said.getvalue()):
        found.append(read_frame(streams))
    if answered is not None:
        found.append((Kind.REFUSED, -1, str(answered).encode()))
    return found


def test_the_far_side_asks_for_what_it_lacks(files: list[Path], tmp_path: Path) -> None:
    signed, data = manifest(files[0]), files[0].read_bytes()
    pieces = signed.manifest.pieces
    full = [n for n, p in enumerate(pieces) if p.size == PIECE_BYTES][:5]
    content = [data[p.offset : p.offset + p.size] for p in pieces]
    cut = exchange(tmp_path / "s", signed, [(Kind.DATA, n, content[n]) for n in full])
    assert [kind for kind, _, _ in cut] == [Kind.NEED, Kind.REFUSED]
    assert b"ended in the middle" in cut[1][2]
    need = json.loads(exchange(tmp_path / "s", signed, [(Kind.DONE, 1, b"")])[0][2])
    # A file that was made at full length reads as zeros where nothing came yet.
    here = {n for n, piece in enumerate(content) if n in full or not any(piece)}
    asked = {n for first, count in need["ranges"] for n in range(first, first + count)}
    assert asked == set(range(len(pieces))) - here
    assert need["resumed_bytes"] == sum(pieces[n].size for n in here)
    assert need["missing_bytes"] == sum(pieces[n].size for n in asked)


def test_the_far_side_refuses_wrong_bytes_and_says_so(files: list[Path], tmp_path: Path) -> None:
    answers = exchange(tmp_path / "s", manifest(files[0]), [(Kind.DATA, 0, b"wrong")])
    assert answers[1][0] == Kind.REFUSED
    assert "not those of the manifest" in json.loads(answers[1][2])["message"]


def test_the_far_side_refuses_another_target(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "rpi.ingot"
    meta = json.dumps({"target": "rpi5"}).encode()
    replace_sections(files[0], path, {Section.META: meta})
    signed = manifest(path)
    kind, _, data = exchange(tmp_path / "s", signed, [(Kind.DONE, 1, b"")])[0]
    assert kind == Kind.REFUSED and b"rpi5" in data
    assert not (tmp_path / "s").exists()  # before anything is made there
    anyway = Options(any_target=True)
    kind, _, _ = exchange(tmp_path / "s", signed, [(Kind.DONE, 1, b"")], anyway)[0]
    assert kind == Kind.NEED


def test_what_a_login_shell_prints_is_skipped() -> None:
    wait_for_banner(Counted(io.BytesIO(b"Welcome!\nLast login\n" + BANNER), io.BytesIO()))
    with pytest.raises(TransferError, match="did not answer"):
        wait_for_banner(Counted(io.BytesIO(b"Welcome!\n"), io.BytesIO()))
    with pytest.raises(TransferError, match="kind 99"):
        read_frame(Counted(io.BytesIO(b"\x63" + bytes(11)), io.BytesIO()))


@pytest.mark.parametrize(
    ("text", "host", "folder"),
    [
        ("pi@board:models", "pi@board", "models"),
        ("board:/srv/m x", "board", "/srv/m x"),
        ("a@[::1]:~/m", "a@::1", "m"),
    ],
)
def test_destinations(text: str, host: str, folder: str) -> None:
    assert Destination.parse(text) == Destination(host, folder)
    quoted = Connection().command(Destination.parse(text), Options())[-1]
    assert quoted.startswith("ingot store receive ") and "~" not in quoted


def test_the_far_side_is_told_on_its_command_line_only() -> None:
    options = Options(no_canary=True, check="a 'b'; c")
    words = shlex.split(Connection().command(Destination("board", "m"), options)[-1])
    assert words == ["ingot", "store", "receive", "m", "--no-canary", "--check", "a 'b'; c"]


def test_the_far_side_does_not_wait_for_ever() -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"one\ntwo")
        patient = PatientInput(read_end, 0.05)
        assert patient.readline(100) == b"one\n"
        assert patient.read(2) == b"tw"
        with pytest.raises(TransferError, match="nothing came"):
            patient.read(2)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("text", ["board", ":x", "-oProxyCommand=x:y", "a b:c", "board:"])
def test_odd_destinations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="DIR"):
        Destination.parse(text)


def test_deploy_over_ssh_with_a_cut_and_an_update(
    server: Server, files: list[Path], tmp_path: Path
) -> None:
    folder, old, new = tmp_path / "far", manifest(files[0]), manifest(files[1])
    there = Destination(server.host, str(folder))

    unseen = Options(no_canary=True)

    def send(index: int, signed: SignedManifest, ssh: str, options: Options) -> Deployment:
        connection = Connection(ssh, server.remote_ingot, 1 if "again" in ssh else 0)
        return deploy(files[index], signed, there, connection, options)

    with pytest.raises(TransferError, match="deploy again"):
        send(0, old, server.cut_after(1_500_000, "cut"), unseen)
    assert not Store(folder).current("chat")
    first = send(0, old, server.ssh, unseen)
    assert first.resumed_bytes > 1_000_000
    assert first.sent_bytes < 2_000_000 + len(old.body)
    assert first.installed and Path(first.path).read_bytes() == files[0].read_bytes()
    # Random weights give no number: the device tries that before it switches.
    with pytest.raises(CanaryError, match=r"device refused.*not finite"):
        send(1, new, server.ssh, Options())
    assert Store(folder).current("chat") == old.manifest.version
    # The update passes over a link that breaks once by itself.
    second = send(1, new, server.cut_after(100, "again"), unseen)
    assert second.attempts == 2 and second.previous == old.manifest.version
    assert Path(second.path).read_bytes() == files[1].read_bytes()
    assert second.missing_bytes == 0  # they came with the attempt that was refused


def test_refusals_come_back_as_what_they_are(
    server: Server, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    from ingot.store.signing import make_keys

    folder = tmp_path / "far"
    Store(folder, create=True).trust(make_keys(tmp_path / "key"))
    there = Destination(server.host, str(folder))
    connection = Connection(server.ssh, server.remote_ingot)
    with pytest.raises(SignatureError, match=r"device refused.*not signed"):
        deploy(files[0], manifest(files[0]), there, connection, Options())
    words = ["deploy", str(files[0]), f"{server.host}:{folder}", "--ssh", server.ssh]
    words += ["--remote-ingot", server.remote_ingot, "--key", str(tmp_path / "key"), "--json"]
    assert main([*words, "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["installed"] and found["missing_bytes"] > BLOB_BYTES  # and nothing came
    assert main([*words[:-1], "--no-canary", "--check", "false"]) == 1
    assert "check after the switch" in capsys.readouterr().err


def test_a_device_without_ingot(server: Server, files: list[Path]) -> None:
    connection = Connection(server.ssh, "no-such-ingot", 0)
    with pytest.raises(InvalidArgumentError, match="ingot bundle"):
        deploy(files[0], manifest(files[0]), Destination(server.host, "x"), connection, Options())
