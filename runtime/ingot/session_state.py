# SPDX-License-Identifier: Apache-2.0
"""What can be done with a session's keys and values: fork, save, restore, make room.

A saved session is: magic, length of the header, the header as JSON (format of keys and values,
their layout, digests of the model, which blocks follow), the token ids as int32, the blocks, and a
SHA-256 of all that. It is taken up only by the same model, format and layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from ingot.errors import (
    ContextFullError,
    FormatError,
    InvalidArgumentError,
    StateError,
    StorageError,
)
from ingot.format import Header, Section, SectionRecord
from ingot.session import Session
from ingot.session_config import KV_FORMATS, SessionConfig

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ingot.model import Model

__all__ = ["fork", "make_room", "model_key", "read_header", "restore", "save", "shift", "trim"]

BLOCK = 64  # positions
MAGIC = b"INGOTKV1"
DIGEST_SIZE = 32
_START = struct.Struct("<8sQ")
_MOST_HEADER = 1 << 20
_PIECE = 1 << 20
_KEYED = (Section.TENSORS, Section.PROGRAM, Section.WEIGHTS)


def fork(session: Session, position: int | None) -> Session:
    """Return a session that shares the first tokens. Raises: as Session.fork()."""
    tokens = session.token_ids
    count = len(tokens) if position is None else position
    if type(count) is not int or not 0 <= count <= len(tokens):
        raise InvalidArgumentError(f"fork at {position!r}: the session holds {len(tokens)} tokens")
    passes = session._passes.fork(min(count, len(session._passes.tokens)))
    child = Session(session.model, session.config, passes)
    child._pending = tokens[len(passes.tokens) : count]
    return child


def trim(session: Session, keys_and_values: bool) -> int:
    """Give back what a session can do without. Returns: as Session.trim()."""
    passes, native = session._passes, session.model.native
    if keys_and_values:
        tokens = session.token_ids
        passes.cut(0)
        session._pending = tokens
    count = native.ffi.new("uint64_t *")
    native.check(native.lib.ingot_session_trim(passes.handle, count))
    return int(count[0])


def make_room(session: Session, count: int) -> list[int]:
    """Return the ids to feed again if the session shifts. Raises: ContextFullError if not."""
    if session.config.on_full == "shift":
        return shift(session, count)
    raise ContextFullError(
        f"{count} tokens do not fit: the session has {len(session._passes.tokens)} "
        f"of {session.context}. Shorten the prompt, reset() or truncate() the session, "
        'open it with on_full="shift", or with a larger '
        f"context (this file allows {session.model.info.context})"
    )


def shift(session: Session, count: int) -> list[int]:
    """Forget the older half behind the sinks, as often as needed for `count` more tokens.

    Returns the ids to feed again after what the session still holds. They are evaluated anew at
    their new positions, so that the session is to the bit what it would be had it been fed only
    them: no keys are turned to other positions.
    Raises: ContextFullError if the tokens do not fit even then.
    """
    sinks, kept = session.config.sinks, session.token_ids
    if min(sinks, len(kept)) + count > session.context:
        raise ContextFullError(
            f"{count} tokens do not fit: {sinks} sinks are kept of a context of "
            f"{session.context}. Shorten the prompt or open a session with a larger context"
        )
    while len(kept) + count > session.context:
        rest = kept[sinks:]
        kept = kept[:sinks] + rest[(len(rest) + 1) // 2 :]
    passes = session._passes
    try:
        passes.cut(min(sinks, len(passes.tokens)))
    except StateError:  # a window has left the tokens before it behind
        passes.cut(0)
    return kept[len(passes.tokens) :]


def save(session: Session, name: str | os.PathLike[str]) -> None:
    """Write a session's tokens, keys and values, all or nothing.

    Raises: StorageError if it cannot be written.
    """
    path, passes, native = Path(name), session._passes, session.model.native
    size = int(native.lib.ingot_session_block_bytes(passes.handle))
    buffer = native.ffi.new("uint8_t[]", size)
    read = native.lib.ingot_session_block_read
    count = -(-len(passes.tokens) // BLOCK)
    held = [i for i in range(count) if read(passes.handle, i, buffer, size) == 0]
    tokens = session.token_ids
    header = {
        "layout": int(native.lib.INGOT_KV_LAYOUT),
        "kv": session.kv,
        "model": model_key(session.model),
        "tokens": len(tokens),
        "fed": len(passes.tokens),
        "block_bytes": size,
        "blocks": held,
    }

    def pieces() -> Iterator[bytes]:
        text = json.dumps(header).encode()
        yield _START.pack(MAGIC, len(text)) + text
        yield struct.pack(f"<{len(tokens)}i", *tokens)
        for index in held:
            native.check(read(passes.handle, index, buffer, size))
            yield bytes(native.ffi.buffer(buffer, size))

    _write_atomic(path, pieces())


def model_key(model: Model) -> dict[str, str]:
    """Return the digests of what keys and values depend on, from the file's section table.

    Raises: StorageError if the file cannot be read.
    """
    try:
        with model.path.open("rb") as file:
            header = Header.unpack(file.read(Header.SIZE))
            file.seek(header.table_offset)
            table = file.read(header.section_count * SectionRecord.SIZE)
    except OSError as error:
        raise StorageError(f"{model.path}: {error.strerror or error}") from error
    records = [SectionRecord.unpack(table, at) for at in range(0, len(table), SectionRecord.SIZE)]
    return {
        Section(record.kind).name.lower(): record.sha256.hex()
        for record in records
        if record.kind in _KEYED
    }


def read_header(model: Model, path: Path) -> dict[str, Any]:
    """Check a saved session as a whole, digest included, and return its header.

    Raises: FormatError if it is damaged, cut short, or of another model or layout; StorageError.
    """
    try:
        with path.open("rb") as file:
            header = _parse(path, file)
            _check_digest(path, file)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    _check_key(model, path, header)
    return header


def restore(model: Model, name: str | os.PathLike[str], config: SessionConfig) -> Session:
    """Open a session and put a saved one's state into it. Raises: as Model.restore()."""
    path = Path(name)
    header = read_header(model, path)
    session = Session(model, config.replace(kv=header["kv"]))
    try:
        session._pending = _load(session, path, header)
    except BaseException:
        session.close()
        raise
    return session


def _load(session: Session, path: Path, header: Mapping[str, Any]) -> list[int]:
    """Put a checked file's blocks into an empty session; returns the ids not yet fed.

    Raises: InvalidArgumentError if the session's context is too short; StorageError.
    """
    if header["tokens"] > session.context:
        raise InvalidArgumentError(
            f"{path} holds {header['tokens']} tokens, the context is {session.context}"
        )
    native, passes, size = session.model.native, session._passes, header["block_bytes"]
    try:
        with path.open("rb") as file:
            file.seek(_START.size + header["header_size"])
            tokens = struct.unpack(f"<{header['tokens']}i", file.read(4 * header["tokens"]))
            for index in header["blocks"]:
                write, data = native.lib.ingot_session_block_write, file.read(size)
                if len(data) != size:
                    raise StorageError(f"{path} was cut short while it was read")
                native.check(write(passes.handle, index, data, size))
    except (OSError, struct.error) as error:
        raise StorageError(f"{path}: {error}") from error
    if not all(0 <= token < session.model.info.embedding_rows for token in tokens):
        raise FormatError(f"{path}: a token id lies outside of the model's table")
    native.check(native.lib.ingot_session_resume(passes.handle, header["fed"]))
    passes.tokens = list(tokens[: header["fed"]])
    return list(tokens[header["fed"] :])


def _parse(path: Path, file: BinaryIO) -> dict[str, Any]:
    """Read the header and compare the file's size with it."""
    found = os.fstat(file.fileno()).st_size
    start = file.read(_START.size)
    if len(start) < _START.size or not start.startswith(MAGIC):
        raise FormatError(f"{path} is no saved session: it does not begin with {MAGIC.decode()}")
    header_size = _START.unpack(start)[1]
    if header_size > min(found, _MOST_HEADER):
        raise FormatError(f"{path} is damaged: its header would have {header_size} bytes")
    try:
        header = json.loads(file.read(header_size))
        blocks, sizes = header["blocks"], [header[k] for k in ("tokens", "fed", "block_bytes")]
        whole = all(type(n) is int and n >= 0 for n in (*sizes, *blocks))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged: its header cannot be read") from error
    if not whole or header["fed"] > header["tokens"]:
        raise FormatError(f"{path} is damaged: its header makes no sense")
    expected = _START.size + header_size + 4 * sizes[0] + len(blocks) * sizes[2] + DIGEST_SIZE
    if found != expected:
        raise FormatError(f"{path} has {found} bytes, expected {expected}: it was cut or changed")
    return {**header, "header_size": header_size}


def _check_digest(path: Path, file: BinaryIO) -> None:
    left = os.fstat(file.fileno()).st_size - DIGEST_SIZE
    digest = hashlib.sha256()
    file.seek(0)
    while left > 0:
        piece = file.read(min(left, _PIECE))
        if not piece:
            break
        digest.update(piece)
        left -= len(piece)
    if digest.digest() != file.read(DIGEST_SIZE):
        raise FormatError(f"{path} is damaged: its digest is wrong. Save the session again")


def _check_key(model: Model, path: Path, header: Mapping[str, Any]) -> None:
    layout = int(model.native.lib.INGOT_KV_LAYOUT)
    if header.get("layout") != layout:
        raise FormatError(
            f"{path} has layout {header.get('layout')} of keys and values, this library {layout}:"
            " save the session again"
        )
    if header.get("kv") not in KV_FORMATS:
        raise FormatError(f"{path}: unknown format of keys and values {header.get('kv')!r}")
    own, saved = model_key(model), header.get("model")
    other = saved if isinstance(saved, dict) else {}
    differs = [name for name in own if other.get(name) != own[name]]
    if differs:
        raise FormatError(
            f"{path} was saved from another model than {model.path.name}:"
            f" {' and '.join(differs)} differ"
        )


def _write_atomic(path: Path, pieces: Iterator[bytes]) -> None:
    """Write pieces and their digest beside the file, sync them, then take the file's name."""
    temporary = path.parent / f".ingot-{secrets.token_hex(8)}.tmp"
    digest = hashlib.sha256()
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(f"{path}: {error.strerror or error}") from error
        raise
