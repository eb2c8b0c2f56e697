# SPDX-License-Identifier: Apache-2.0
"""Models on a device: versions by digest, signed, tried before they are used, never half there."""

from ingot.store.canary import Canary, CanaryReport, default_canary
from ingot.store.local import install_file
from ingot.store.manifest import Manifest, make_manifest, model_name
from ingot.store.signing import SignedManifest, sign, unsigned
from ingot.store.store import Installed, Store

__all__ = [
    "Canary",
    "CanaryReport",
    "Installed",
    "Manifest",
    "SignedManifest",
    "Store",
    "default_canary",
    "install_file",
    "make_manifest",
    "model_name",
    "sign",
    "unsigned",
]
