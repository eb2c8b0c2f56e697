# SPDX-License-Identifier: Apache-2.0
"""The manifest of a file as commands take it: made now, signed now, or signed elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from ingot.cli.arguments import UsageError
from ingot.errors import StorageError
from ingot.store.manifest import make_manifest, model_name
from ingot.store.signing import SignedManifest, sign, unsigned

__all__ = ["add_signing", "signed_manifest"]


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Add what names and signs a version."""
    parser.add_argument("--name", metavar="NAME", help="the model's name; default: the file's")
    group = parser.add_argument_group("signature")
    group.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key")
    group.add_argument(
        "--manifest", type=Path, metavar="FILE", help="a manifest of `ingot store sign`"
    )
    group.add_argument(
        "--sequence", type=int, metavar="N", help="orders versions; default: the time in seconds"
    )


def signed_manifest(args: argparse.Namespace) -> SignedManifest:
    """Return the manifest that the options of add_signing ask for.

    Raises: UsageError for options that exclude each other; as make_manifest and sign.
    """
    if args.manifest is not None:
        if args.key or args.name or args.sequence is not None:
            raise UsageError("--manifest has name, sequence and signature already")
        try:
            return SignedManifest.from_bytes(args.manifest.read_bytes())
        except OSError as error:
            raise StorageError(f"{args.manifest}: {error.strerror}") from error
    name = args.name or model_name(args.file)
    manifest = make_manifest(args.file, name, args.sequence)
    return sign(manifest, args.key) if args.key else unsigned(manifest)
