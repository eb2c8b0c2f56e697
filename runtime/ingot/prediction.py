# SPDX-License-Identifier: Apache-2.0
"""How fast a model runs on a device, from the bytes and products that a token takes.

One model for everything that predicts: the limits of `ingot compress --min-decode`, the report of a
compression, `ingot plan`, and the check against published results (ingot.published).

A token reads all weights once, at the speed of the memory or of the cores' loops, whichever is
slower; that is WEIGHT_TIME_SHARE of its time. On top come the keys and values of the context. A
prompt token takes one product for each weight and the attention to what stands before it, or its
share of reading the weights once for a chunk, whichever is slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import WEIGHT_FORMATS, payload_bytes
from ingot.targets import Target

__all__ = [
    "CYCLES_SLACK",
    "WEIGHT_TIME_SHARE",
    "Machine",
    "Stream",
    "Workload",
    "bytes_per_weight",
    "decode_rate",
    "first_token_seconds",
    "format_rate",
    "prefill_rate",
    "weight_seconds",
]

# The share of a token's time that weights take; the rest is attention, norms and waiting. With it
# the files of tests/golden/decode_prediction.csv come out at what was measured, within 15 %.
WEIGHT_TIME_SHARE = 0.9
# Cycles of whole tokens over those of the inner loop in llvm-mca: 1.2 to 2 where both are known.
CYCLES_SLACK = 1.5
# A matrix whose padding does not show.
_ROWS, _COLUMNS = 4096, 4096


@dataclass(frozen=True, slots=True)
class Stream:
    """Weights of one format that a token reads. `prompt`: every token of a prompt does, too.

    Units: bytes and weights per token.
    """

    format: str
    bytes: float
    weights: float
    prompt: bool = True


@dataclass(frozen=True, slots=True)
class Workload:
    """What a model asks of a device. Units: bytes and products per position of the context."""

    streams: tuple[Stream, ...]
    kv_bytes_per_position: float = 0.0
    attention_macs_per_position: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a device gives. Units: bytes per second, by format and of anything; products per second.

    `chunk`: tokens of a prompt that share one reading of the weights.
    """

    rates: Mapping[str, float]
    memory_rate: float
    macs_per_second: float | None = None
    chunk: int = 128


def weight_seconds(streams: Iterable[Stream], rates: Mapping[str, float]) -> float:
    """Return the time that one token spends reading weights.

    Raises: InvalidArgumentError for a format without a rate.
    """
    seconds = 0.0
    for stream in streams:
        if stream.format not in rates:
            raise InvalidArgumentError(f"no decode rate for format {stream.format} on this target")
        seconds += stream.bytes / rates[stream.format]
    return seconds


def decode_rate(workload: Workload, machine: Machine, context: int = 0) -> float:
    """Return tokens per second of one stream behind `context` positions."""
    seconds = weight_seconds(workload.streams, machine.rates) / WEIGHT_TIME_SHARE
    return 1 / (seconds + workload.kv_bytes_per_position * context / machine.memory_rate)


def prefill_rate(workload: Workload, machine: Machine, prompt: int) -> float | None:
    """Return tokens per second of a prompt, None where the device's products are not known."""
    if machine.macs_per_second is None:
        return None
    streams = [stream for stream in workload.streams if stream.prompt]
    chunk = max(1, min(machine.chunk, prompt))
    products = sum(stream.weights for stream in streams)
    products += workload.attention_macs_per_position * prompt / 2
    reading = weight_seconds(streams, machine.rates) / chunk
    return 1 / max(products / machine.macs_per_second, reading)


def first_token_seconds(workload: Workload, machine: Machine, prompt: int) -> float | None:
    """Return the time from a prompt to its first token, on a model that is loaded."""
    rate = prefill_rate(workload, machine, prompt)
    if rate is None:
        return None
    head = [stream for stream in workload.streams if not stream.prompt]
    return prompt / rate + weight_seconds(head, machine.rates) / WEIGHT_TIME_SHARE


def bytes_per_weight(name: str) -> float:
    """Return the bytes of a weight of a large matrix, with its scales.

    Raises: InvalidArgumentError for an unknown format.
    """
    known = {dtype.name.lower(): dtype for dtype in map(Dtype, WEIGHT_FORMATS)}
    if name not in known:
        raise InvalidArgumentError(f"unknown format '{name}'; expected one of {', '.join(known)}")
    group = WEIGHT_FORMATS[known[name]].groups[0]
    return payload_bytes(known[name], _ROWS, _COLUMNS, group) / (_ROWS * _COLUMNS)


def format_rate(target: Target, name: str, memory_rate: float) -> float:
    """Return the bytes per second at which a target's cores read weights of a format.

    It is the memory's rate, or what the loops of all cores take where the profile says what they
    cost. Units: `memory_rate` in bytes per second.
    """
    cycles = [core.cycles_per_weight.get(name) for core in target.cores]
    if None in cycles:
        return memory_rate
    weights = sum(
        core.count * core.mhz * 1e6 / (one * CYCLES_SLACK)
        for core, one in zip(target.cores, cycles, strict=True)
        if one is not None
    )
    return min(memory_rate, weights * bytes_per_weight(name))
