# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of a file on its target: predicted from its weights, and measured here."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from ingot import Model
from ingot.container import Container
from ingot.format import Dtype
from ingot.session import Session
from ingot.targets import Target
from ingot_compressor.decode_rates import decode_rates
from ingot_compressor.ir import Program
from ingot_compressor.passes.budgets import WEIGHT_TIME_SHARE, token_seconds

__all__ = ["Speed", "can_predict", "measure_speed", "predict_speed"]

ROUNDS, TOKENS = 3, 32


@dataclass(frozen=True, slots=True)
class Speed:
    """Decoding of one stream. Units: tokens per second, bytes, tokens of one round.

    `measured` is None where the target is another device than this machine.
    """

    predicted: float
    measured: float | None
    threads: int
    tokens: int
    weight_bytes_per_token: int


def measure_speed(program: Program, path: Path, target: Target, threads: int) -> Speed | None:
    """Return what is predicted and, on this machine, measured.

    None for a device of whose memory nothing is known.
    Cost: on this machine a second or two for the rates of the formats, and ROUNDS * TOKENS tokens.
    """
    if not can_predict(target):
        return None
    predicted = predict_speed(program, path, target, threads)
    with Model(path) as model:
        if target.name != "host":
            weights = model.info.weight_bytes_per_token
            return Speed(predicted, None, target.core_count, 0, weights)
        tokens = min(TOKENS, model.info.context - 1)
        with model.session(tokens + 1, threads) as session:
            rates = [_rate(session, tokens, program.vocabulary) for _ in range(ROUNDS)]
        weights = model.info.weight_bytes_per_token
    return Speed(predicted, statistics.median(rates), threads, tokens, weights)


def can_predict(target: Target) -> bool:
    """Tell whether the speed of the target's memory is known, or can be measured here."""
    return target.name == "host" or target.memory.achievable_gb_s is not None


def predict_speed(program: Program, path: Path, target: Target, threads: int) -> float:
    """Return what the speed at which weights are read gives, as `--min-decode` reckons."""
    with Container(path) as container:
        stored = {
            name: (Dtype(record.dtype), record.size)
            for name, record in zip(container.names, container.tensors, strict=True)
        }
    formats = {stored[tensor.name][0] for tensor in program.weights()}
    read = sum(stored[tensor.name][1] for tensor in program.weights())
    rates = decode_rates(target, sorted(formats), threads, read)
    return WEIGHT_TIME_SHARE / token_seconds(program, stored, rates)


def _rate(session: Session, tokens: int, vocabulary: int) -> float:
    """Feed one token after the other; they are the likeliest, and a stop id ends nothing."""
    session.reset()
    token = int(session.feed([0])[:vocabulary].argmax())
    started = time.perf_counter()
    for _ in range(tokens):
        token = int(session.feed([token])[:vocabulary].argmax())
    return tokens / (time.perf_counter() - started)
