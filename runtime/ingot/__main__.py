# SPDX-License-Identifier: Apache-2.0
"""`python -m ingot` is the command `ingot`."""

from __future__ import annotations

import sys

from ingot.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
