# SPDX-License-Identifier: Apache-2.0
"""An emulated 64-bit ARM board: it proves correctness and counts instructions, never speed."""
