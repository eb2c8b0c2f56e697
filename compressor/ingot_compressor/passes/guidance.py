# SPDX-License-Identifier: Apache-2.0
"""How much each output of a linear operation matters to the model's loss, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ingot.errors import InvalidArgumentError
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Program
from ingot_compressor.numerics.hessian import output_weights
from ingot_compressor.passes.blocks import split_blocks

__all__ = ["token_weights"]


def token_weights(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    groups: int,
    store: TensorStore,
    batch: int = 4,
    progress: Callable[[int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Return for every weight of the layers the squared gradient of each token at its outputs.

    The loss is that of the next token in the text; squares are averaged over `groups` equal runs
    of the weight's rows and scaled to a mean of 1, since a Hessian's scale changes nothing. A
    weight of fewer rows than groups has one group. `progress` counts windows.

    Shapes: windows each (t,) int64, of one length of 2 or more; result (windows, t, groups).
    Memory: one block's activations with gradients, and one (batch, t, width) for each block.
    Source: Kim et al. 2025 (GuidedQuant, arXiv:2505.07004), section 3.2.
    """
    tokens = torch.from_numpy(np.stack(windows))
    if tokens.shape[1] < 2:
        raise InvalidArgumentError("windows of one token have no next token to be guided by")
    blocks = split_blocks(program)
    parts: dict[str, list[torch.Tensor]] = {}
    for first in range(0, len(tokens), batch):
        found = _gradients(blocks, tokens[first : first + batch], store)
        for name, gradient in found.items():
            count = groups if groups <= gradient.shape[-1] else 1
            parts.setdefault(name, []).append(output_weights(gradient, count))
        if progress is not None:
            progress(min(first + batch, len(tokens)))
    return {name: _scaled(torch.cat(part)) for name, part in parts.items()}


def _scaled(weights: torch.Tensor) -> torch.Tensor:
    mean = weights.mean(dim=(0, 1))
    # rows that no loss reaches are rounded as if all tokens were equal
    return torch.where(mean > 0, weights / mean.clamp(min=1e-38), 1.0)


def _gradients(
    blocks: Sequence[Program], tokens: torch.Tensor, store: TensorStore
) -> dict[str, torch.Tensor]:
    """Return the loss's gradient at the outputs of every weight of the layers.

    Blocks run again with gradients from the last to the first, so that one is held at a time.
    """
    inputs = [tokens]
    with torch.no_grad():
        for block in blocks[:-1]:
            inputs.append(execute_block(block, inputs[-1], store=store))
    last = inputs.pop().requires_grad_()
    logits = execute_block(blocks[-1], last, store=store)[:, :-1]
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, [last])
    found: dict[str, torch.Tensor] = {}
    for block in reversed(blocks[1:-1]):
        gradient = _back(block, inputs.pop(), gradient, store, found)
    return found


def _back(
    block: Program,
    x: torch.Tensor,
    gradient: torch.Tensor,
    store: TensorStore,
    found: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Add a block's gradients at its linear outputs to `found`; return that at its input."""
    outputs: dict[str, torch.Tensor] = {}
    x = x.requires_grad_()
    result = execute_block(block, x, store=store, observe_output=outputs.__setitem__)
    wanted = [x, *outputs.values()]
    at_input, *at_outputs = torch.autograd.grad(result, wanted, gradient)
    found.update(zip(outputs, at_outputs, strict=True))
    return at_input
