# SPDX-License-Identifier: Apache-2.0
"""The model store: what it keeps, what it refuses, and that no kill leaves it without a model."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.container import Container, replace_sections, write_container
from ingot.errors import (
    CanaryError,
    FormatError,
    InvalidArgumentError,
    SignatureError,
    StateError,
    StorageError,
)
from ingot.format import Section
from ingot.store import (
    CanaryReport,
    Store,
    install_file,
    make_manifest,
    sign,
    unsigned,
)
from ingot.store.canary import check_vectors, command_check, isolated, no_canary
from ingot.store.incoming import RESERVE_BYTES
from ingot.store.signing import SignedManifest, make_keys, read_public_key
from tests.must_fail.tiny_file import contents


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three versions: the second has another chat section, the third a long one."""
    folder = tmp_path_factory.mktemp("versions")
    paths = [folder / f"{name}.ingot" for name in "abc"]
    write_container(paths[0], contents())
    replace_sections(paths[0], paths[1], {Section.CHAT: b'{"v": 1}'})
    replace_sections(paths[0], paths[2], {Section.CHAT: json.dumps({"v": "x" * 200000}).encode()})
    return paths


def manifest(path: Path, sequence: int = 1) -> SignedManifest:
    return unsigned(make_manifest(path, "chat", sequence))


def fill(store: Store, files: list[Path]) -> list[str]:
    """Install files one after the other; return their versions."""
    done = [install_file(store, path, manifest(path), no_canary) for path in files]
    return [installed.version for installed in done]


def test_install_rollback_pin_and_gc(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    a, b, c = fill(store, files)
    assert store.path("chat").read_bytes() == files[2].read_bytes()
    assert store.rollback("chat") == b
    assert store.rollback("chat") == a
    with pytest.raises(StateError, match="no earlier"):
        store.rollback("chat")
    assert store.rollback("chat", c[:8]) == c
    store.pin("chat", a)
    assert store.gc(keep=0).versions == (b,)
    assert sorted(store.objects.versions()) == sorted([a, c])
    store.pin("chat", a, remove_pin=True)
    found = store.gc(keep=0)
    assert found.versions == (a,)
    assert found.freed_bytes > files[0].stat().st_size
    assert store.path("chat").read_bytes() == files[2].read_bytes()
    assert store.state("chat").history.versions == (c,)


def test_an_update_copies_what_the_device_has(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    fill(store, files[:1])
    with store.locked():
        incoming = store.begin(manifest(files[1]))
        assert incoming.reused_bytes + incoming.missing_bytes == files[1].stat().st_size
        assert incoming.missing_bytes < 4096
        number = incoming.missing[0]
        piece = incoming.signed.manifest.pieces[number]
        data = files[1].read_bytes()[piece.offset : piece.offset + piece.size]
        with pytest.raises(FormatError, match="not those of the manifest"):
            incoming.put(number, bytes(len(data)))
        with pytest.raises(InvalidArgumentError, match="still to come"):
            incoming.finish()
        incoming.put(number, data)
        again = store.begin(manifest(files[1]))
    assert again.missing == incoming.missing
    assert again.resumed_bytes == files[1].stat().st_size - again.missing_bytes


def test_a_damaged_neighbour_is_not_copied(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    (a,) = fill(store, files[:1])
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    store.objects.data(a).write_bytes(data)
    fill(store, files[1:2])
    assert store.path("chat").read_bytes() == files[1].read_bytes()


def test_a_canary_decides_before_the_switch(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    (a,) = fill(store, files[:1])
    seen: list[bytes] = []

    def canary(path: Path) -> CanaryReport:
        seen.append(path.read_bytes())
        return CanaryReport(("kernel x is wrong",), "")

    with pytest.raises(CanaryError, match="kernel x is wrong"):
        install_file(store, files[1], manifest(files[1]), canary)
    assert seen == [files[1].read_bytes()]
    assert store.current("chat") == a
    assert store.gc().debris == 2  # the file that was refused, and its manifest


def test_a_failed_check_after_the_switch_goes_back(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    a, b = fill(store, files[:2])
    during: list[str] = []

    def check(path: Path) -> CanaryReport:
        during.append(store.current("chat"))
        return CanaryReport(("the service is down",), "")

    signed = manifest(files[2])
    with pytest.raises(CanaryError, match=rf"service is down.*back at {b[:12]}"):
        install_file(store, files[2], signed, no_canary, check)
    assert during == [signed.manifest.version]
    assert store.current("chat") == b
    assert store.state("chat").history.failed == (signed.manifest.version,)
    assert store.rollback("chat") == a  # never to what failed


def test_what_died_in_its_check_is_undone(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    (a,) = fill(store, files[:1])

    def die(path: Path) -> CanaryReport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_file(store, files[1], manifest(files[1]), no_canary, die)
    assert store.current("chat") != a
    assert len(store.recover()) == 1
    assert store.current("chat") == a
    assert store.recover() == []


def test_the_next_change_undoes_a_trial_first(files: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "s", create=True)
    (a,) = fill(store, files[:1])

    def die(path: Path) -> CanaryReport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_file(store, files[1], manifest(files[1]), no_canary, die)
    done = install_file(store, files[2], manifest(files[2]), no_canary)
    assert done.previous == a
    assert store.rollback("chat") == a


def test_isolated_canaries_survive_crashes_and_hangs(tmp_path: Path) -> None:
    def crash(path: Path) -> CanaryReport:
        os.kill(os.getpid(), signal.SIGKILL)
        return CanaryReport((), "")

    def hang(path: Path) -> CanaryReport:
        time.sleep(60)
        return CanaryReport((), "")

    def fail(path: Path) -> CanaryReport:
        raise ValueError("odd")

    assert isolated(crash)(tmp_path).problems == ("the process that tried it was ended by SIGKILL",)
    assert isolated(hang, 0.1)(tmp_path).problems == ("no end after 0.1 s",)
    assert isolated(fail)(tmp_path).problems == ("ValueError: odd",)
    assert isolated(lambda path: CanaryReport((), "fine"))(tmp_path) == CanaryReport((), "fine")


def test_commands_as_checks(tmp_path: Path) -> None:
    assert command_check('test -d "$INGOT_FILE"')(tmp_path).problems == ()
    assert "exited with 3: why" in command_check("echo why; exit 3")(tmp_path).problems[0]


def test_the_vectors_of_a_file_are_its_canary(stories: Path, tmp_path: Path) -> None:
    assert check_vectors(stories).problems == ()
    with Container(stories) as container:
        vectors = container.json(Section.VECTORS)
    vectors["prompts"][0]["top_logits"][0] += 1.0
    wrong = tmp_path / "wrong.ingot"
    replace_sections(stories, wrong, {Section.VECTORS: json.dumps(vectors).encode()})
    assert "expected" in check_vectors(wrong).problems[0]


def test_one_change_at_a_time(files: list[Path], tmp_path: Path) -> None:
    store, other = Store(tmp_path / "s", create=True), Store(tmp_path / "s")
    with store.locked(), pytest.raises(StateError, match="another process"), other.locked():
        pass
    with other.locked():
        pass
    with pytest.raises(StateError, match="locked"):
        store.begin(manifest(files[0]))


def test_space_is_asked_for_first(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s", create=True)
    real = os.statvfs(tmp_path)
    size = files[0].stat().st_size

    def with_free(space: int) -> None:
        values = list(real)
        values[0], values[1], values[4] = 1, 1, space
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))

    signed = manifest(files[0])
    needed = size + 2 * len(signed.body) + RESERVE_BYTES
    with_free(needed - 1)
    with store.locked(), pytest.raises(StorageError, match=r"needs .* MB more.*gc"):
        store.begin(signed)
    assert not list((tmp_path / "s" / "incoming").iterdir())
    with_free(needed)
    with store.locked():
        store.begin(signed)


def test_a_store_takes_only_what_it_trusts(files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    store = Store(tmp_path / "s", create=True)
    public = make_keys(tmp_path / "release")
    store.trust(public)
    with pytest.raises(SignatureError, match="not signed"):
        fill(store, files[:1])
    signed = [sign(make_manifest(p, "chat", n), tmp_path / "release") for n, p in enumerate(files)]
    done = install_file(store, files[1], signed[1], no_canary)
    assert done.signed_by == read_public_key(public).name
    with pytest.raises(SignatureError, match="sequence 0 is below 1"):
        install_file(store, files[0], signed[0], no_canary)
    install_file(store, files[0], signed[0], no_canary, allow_older=True)
    assert store.current("chat") == signed[0].manifest.version


def test_every_rename_is_of_bytes_on_the_disk(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut needs beyond a kill: file, then name, then folder."""
    synced: Counter[str] = Counter()
    renames: list[tuple[str, str, bool]] = []
    pending: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[path] += 1
        if path in pending:
            pending.remove(path)
        real_fsync(descriptor)

    def rename(source: Path, destination: Path) -> None:
        renames.append((str(source), str(destination), os.path.islink(source)))
        assert os.path.islink(source) or synced[str(source)], f"{source} was not synced"
        synced[str(destination)] = synced.pop(str(source), 0)
        real_replace(source, destination)
        pending.append(str(Path(destination).parent))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    store = Store(tmp_path / "s", create=True)
    fill(store, files[:2])
    store.rollback("chat")
    assert len([entry for entry in renames if entry[2]]) == 3  # the switches
    assert len(renames) >= 8
    assert not pending  # each folder was synced after its last rename


def test_the_command_line(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "models")

    def call(*words: str) -> tuple[int, str]:
        status = main(["store", *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    for path in files[:2]:
        command = ("install", folder, str(path), "--name", "chat", "--no-canary")
        assert call(*command)[0] == 0
    listed = json.loads(call("list", folder, "--json")[1])
    assert [entry["marks"] for entry in listed] == [["current"], []]
    assert call("pin", folder, "chat")[0] == 0
    assert call("rollback", folder, "chat")[0] == 0
    assert "current" in call("list", folder)[1].splitlines()[2]
    status, text = call("rollback", folder, "chat")
    assert status == 1 and "no earlier version" in text
    assert json.loads(call("gc", folder, "--json")[1])["versions"] == []
    assert "nothing to undo" in call("recover", folder)[1]
    status, text = call("list", str(tmp_path / "other"))
    assert status == 1 and "ingot store install" in text
    assert call("install", folder)[0] == 2
