# SPDX-License-Identifier: Apache-2.0
"""Compresses models into ingot files."""
