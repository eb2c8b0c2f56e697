# SPDX-License-Identifier: Apache-2.0
"""Building libingot for devices: zig or a cross gcc for Linux, the NDK for Android."""
