# SPDX-License-Identifier: Apache-2.0
"""Pure functions from program to program, and from program to file."""
