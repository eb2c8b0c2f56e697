# SPDX-License-Identifier: Apache-2.0
"""One folder or tar that brings runtime, model and service onto a device without network."""

from ingot.bundle.build import Bundle, make_bundle
from ingot.bundle.wheels import collect_wheels

__all__ = ["Bundle", "collect_wheels", "make_bundle"]
