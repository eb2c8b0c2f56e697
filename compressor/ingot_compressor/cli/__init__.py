# SPDX-License-Identifier: Apache-2.0
"""Subcommands of `ingot` that need the compressor; their modules import it only when they run."""
