# SPDX-License-Identifier: Apache-2.0
"""The report of a compression: its facts, and one page that shows them.

Pictures are SVG written by hand: they stand in the page itself, need no package, and are text.
"""
