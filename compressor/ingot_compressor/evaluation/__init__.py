# SPDX-License-Identifier: Apache-2.0
"""Evaluation beyond divergence: tasks, generation, layers, and the statistics of a recovery."""

__all__: list[str] = []
