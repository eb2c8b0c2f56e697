# SPDX-License-Identifier: Apache-2.0
"""Manifests: pieces, signatures, and what a device must have; from anybody, so checked."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from ingot.container import Container, replace_sections, write_container
from ingot.errors import (
    FormatError,
    MissingExtraError,
    SignatureError,
    StorageError,
)
from ingot.format import Role, Section
from ingot.store import (
    Manifest,
    durable,
    make_manifest,
    sign,
    unsigned,
)
from ingot.store.manifest import PIECE_BYTES, Requirements, model_name
from ingot.store.profile import check_profile
from ingot.store.signing import SignedManifest, make_keys, read_public_key, verify_signature
from ingot.targets import load_target
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


def test_pieces_are_the_file_and_meet_at_sections_and_tensors(files: list[Path]) -> None:
    data = files[2].read_bytes()
    made = make_manifest(files[2], "chat")
    assert made.version == hashlib.sha256(data).hexdigest()
    joined = b"".join(data[p.offset : p.offset + p.size] for p in made.pieces)
    assert joined == data
    assert all(p.size <= PIECE_BYTES for p in made.pieces)
    assert [
        hashlib.sha256(data[p.offset : p.offset + p.size]).hexdigest() for p in made.pieces
    ] == [p.digest for p in made.pieces]
    starts = {p.offset for p in made.pieces}
    with Container(files[2]) as container:
        weights = next(s for s in container.sections if s.kind == Section.WEIGHTS)
        stored = [t for t in container.tensors if t.role in (Role.WEIGHT, Role.CONSTANT)]
        assert {s.offset for s in container.sections if s.size} <= starts
        assert {weights.offset + t.offset for t in stored} <= starts
    assert Manifest.from_bytes(made.to_bytes()) == made


def test_a_section_that_grows_leaves_the_pieces_of_the_others(files: list[Path]) -> None:
    old, new = make_manifest(files[0], "chat"), make_manifest(files[2], "chat")
    known = {piece.digest for piece in old.pieces}
    chat = next(s for s in new.sections if s.kind == "chat")
    moved = [p for p in new.pieces if p.digest not in known]
    inside = [p for p in moved if chat.offset <= p.offset < chat.offset + chat.size]
    assert sum(p.size for p in inside) == chat.size
    # Beside the section only header, table and padding are new.
    assert sum(p.size for p in moved) - chat.size < 4096 + 65536


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format 2"),
        ({"name": "../x"}, "model name"),
        ({"version": "ab"}, "hex"),
        ({"size": 5}, "pieces have"),
        ({"pieces": [[1 << 20, "0" * 64]]}, "integer from"),
        ({"sections": [["chat", 1 << 50, 1, "0" * 64]]}, "integer from"),
        ({"requirements": {}}, "KeyError"),
        ({"sequence": True}, "integer from"),
    ],
)
def test_manifests_from_anybody_are_checked(
    files: list[Path], change: dict[str, object], word: str
) -> None:
    values = {**json.loads(make_manifest(files[0], "chat").to_bytes()), **change}
    with pytest.raises(FormatError, match=word):
        Manifest.from_bytes(json.dumps(values).encode())


def test_profiles_decide_before_the_bytes() -> None:
    board = load_target("rpi5")
    fits = Requirements((0, 1), "rpi5", ("t16",), 512, 1 << 20)
    assert check_profile(fits, board).problems == ()
    too_large = Requirements((0, 1), "rpi5", ("t16",), 512, board.memory.bytes + 1)
    assert "memory" in check_profile(too_large, board).problems[0]
    newer = Requirements((0, 99), "rpi5", ("t99",), 512, 1)
    assert len(check_profile(newer, board).problems) == 2
    elsewhere = Requirements((0, 1), "x86-64-v3", ("t16",), 512, 1)
    assert "x86_64" in check_profile(elsewhere, board).problems[0]
    weaker = check_profile(Requirements((0, 1), "rpi5", ("t16",), 512, 1), load_target("rpi4"))
    assert "neon_dotprod" in weaker.problems[0]
    unknown = check_profile(Requirements((0, 1), "mine", ("t16",), 512, 1), board)
    assert not unknown.problems and "mine" in unknown.remarks[0]


def test_signatures(files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    public = read_public_key(make_keys(tmp_path / "release"))
    other = read_public_key(make_keys(tmp_path / "other"))
    assert (tmp_path / "release").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StorageError, match="exists"):
        make_keys(tmp_path / "release")
    made = make_manifest(files[0], "chat", 7)
    signed = SignedManifest.from_bytes(sign(made, tmp_path / "release").to_bytes())
    assert verify_signature(signed, [other, public]) == public.name
    with pytest.raises(SignatureError, match="none of the trusted"):
        verify_signature(signed, [other])
    with pytest.raises(SignatureError, match="not signed"):
        verify_signature(unsigned(made), [public])
    # A signature of one manifest is none of another, nor of the same with a byte changed.
    forged = SignedManifest(made, made.to_bytes() + b" ", signed.key, signed.signature)
    with pytest.raises(SignatureError, match="none of the trusted"):
        verify_signature(forged, [public])


def test_without_the_extra_signing_says_what_to_install(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(MissingExtraError, match=r"ingot\[signing\]"):
        make_keys(tmp_path / "key")


def test_temporary_names() -> None:
    assert durable.is_temporary(".history.json.ab12.tmp")
    assert not durable.is_temporary("current.ingot")
    assert model_name(Path("My Model (v2).ingot")) == "my-model-v2"
