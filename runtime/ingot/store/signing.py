# SPDX-License-Identifier: Apache-2.0
"""Manifests signed with Ed25519, and the keys that a store trusts.

The package `cryptography` does the arithmetic (extra `signing`): it is the library that others
check, has wheels for every board, and reads and writes keys as OpenSSL and ssh do. It is loaded
only where something is signed or a store trusts a key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ingot.errors import (
    FormatError,
    InvalidArgumentError,
    MissingExtraError,
    SignatureError,
    StorageError,
)
from ingot.store.manifest import Manifest

__all__ = [
    "PublicKey",
    "SignedManifest",
    "make_keys",
    "read_public_key",
    "sign",
    "unsigned",
    "verify_signature",
]

# A signature says what it signs, so that it cannot be passed off as one of something else.
_PURPOSE = b"ingot manifest 1\n"
_RAW_BYTES = 32
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its 32 bytes, and the short name that messages use."""

    raw: bytes

    @property
    def name(self) -> str:
        """The first 16 hex digits of the key's SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest, the very bytes that it was read from, and a signature or none."""

    manifest: Manifest
    body: bytes
    key: str = ""
    signature: bytes = b""

    def to_bytes(self) -> bytes:
        """Return two lines: the manifest, and who signed it."""
        seal = {"key": self.key, "signature": self.signature.hex()} if self.signature else {}
        return self.body + b"\n" + json.dumps(seal).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedManifest:
        """Read what to_bytes wrote. Nothing is believed before verify_signature.

        Raises: FormatError.
        """
        if len(data) > _MOST_BYTES:
            raise FormatError(f"the manifest has {len(data)} bytes, at most {_MOST_BYTES}")
        body, _, rest = data.partition(b"\n")
        try:
            seal = json.loads(rest)
            key, signature = str(seal.get("key", "")), bytes.fromhex(seal.get("signature", ""))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"the manifest's signature cannot be read: {error}") from None
        return cls(Manifest.from_bytes(body), body, key, signature)


def unsigned(manifest: Manifest) -> SignedManifest:
    """Return a manifest that nobody signed."""
    return SignedManifest(manifest, manifest.to_bytes())


def sign(manifest: Manifest, private_key: Path) -> SignedManifest:
    """Sign a manifest with the key of a file.

    Raises: MissingExtraError; InvalidArgumentError if the file has no Ed25519 key; StorageError.
    """
    serialization, ed25519 = _load()
    try:
        key = serialization.load_pem_private_key(_read(private_key), password=None)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"{private_key}: no private key: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InvalidArgumentError(f"{private_key}: not an Ed25519 key: `ingot store keygen`")
    body = manifest.to_bytes()
    public = PublicKey(key.public_key().public_bytes_raw())
    return SignedManifest(manifest, body, public.name, key.sign(_PURPOSE + body))


def verify_signature(signed: SignedManifest, trusted: Sequence[PublicKey]) -> str:
    """Return the name of the trusted key that signed a manifest, "" where no key is trusted.

    Raises: SignatureError if none of the trusted keys did; MissingExtraError.
    """
    if not trusted:
        return ""
    if not signed.signature:
        raise SignatureError(
            f"{signed.manifest.name}: the manifest is not signed, and this store trusts only "
            f"{', '.join(key.name for key in trusted)}: sign with --key"
        )
    from importlib import import_module

    _, ed25519 = _load()
    invalid = import_module("cryptography.exceptions").InvalidSignature
    for key in trusted:
        try:
            public = ed25519.Ed25519PublicKey.from_public_bytes(key.raw)
            public.verify(signed.signature, _PURPOSE + signed.body)
        except invalid:
            continue
        return key.name
    raise SignatureError(
        f"{signed.manifest.name}: the signature (by '{signed.key or 'nobody'}') is of none of the "
        f"trusted keys {', '.join(key.name for key in trusted)}"
    )


def make_keys(private_key: Path) -> Path:
    """Write a new private key, readable by its owner alone, and FILE.pub; return the latter.

    Raises: StorageError, also if the file exists; MissingExtraError.
    """
    serialization, ed25519 = _load()
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = private_key.with_name(private_key.name + ".pub")
    try:
        for path, data, mode in (
            (private_key, pem, 0o600),
            (public, key.public_key().public_bytes_raw().hex().encode() + b"\n", 0o644),
        ):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except OSError as error:
        raise StorageError(f"{error.filename}: cannot write the key: {error.strerror}") from error
    return public


def read_public_key(path: Path) -> PublicKey:
    """Read a public key: 64 hex digits in a file.

    Raises: InvalidArgumentError; StorageError.
    """
    try:
        raw = bytes.fromhex(_read(path).decode("ascii").strip())
    except ValueError:
        raw = b""
    if len(raw) != _RAW_BYTES:
        raise InvalidArgumentError(f"{path}: not a public key, which is 64 hex digits")
    return PublicKey(raw)


def _load() -> tuple[ModuleType, ModuleType]:
    """Return the modules of `cryptography` that hold keys."""
    from importlib import import_module

    try:
        root = "cryptography.hazmat.primitives"
        asymmetric = import_module(f"{root}.asymmetric.ed25519")
        return import_module(f"{root}.serialization"), asymmetric
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'signatures need the package cryptography: pip install "ingot[signing]"'
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot read the key: {error.strerror}") from error
