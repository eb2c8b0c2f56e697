# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of a file on its target: predicted from its weights, and measured here."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from ingot import Model
from ingot.container import Container
from ingot.device_rates import device_rates
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.prediction import Workload, decode_rate, prefill_rate
from ingot.published import load_published
from ingot.session import Session
from ingot.targets import Target
from ingot_compressor.decode_rates import decode_rates
from ingot_compressor.ir import Program
from ingot_compressor.passes.budgets import WEIGHT_TIME_SHARE, streams, token_seconds

__all__ = ["Prediction", "Speed", "measure_speed", "predict_speed"]

ROUNDS, TOKENS = 3, 32
# Tokens of the prompt that is predicted.
PROMPT = 512


@dataclass(frozen=True, slots=True)
class Speed:
    """One stream on the target. Units: tokens per second, bytes, tokens of one round.

    `predicted` and `measured` are of decoding, `prompt` is predicted for PROMPT tokens; `measured`
    is None where the target is another device than this machine, `prompt` where it is this machine
    or nobody knows the products of its cores.
    """

    predicted: float
    measured: float | None
    threads: int
    tokens: int
    weight_bytes_per_token: int
    prompt: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens per second of decoding and of a prompt, which is None where nothing is known of it."""

    decode: float
    prompt: float | None


def measure_speed(program: Program, path: Path, target: Target, threads: int) -> Speed | None:
    """Return what is predicted and, on this machine, measured.

    None for a device of whose memory nothing is known.
    Cost: on this machine a second or two for the rates of the formats, and ROUNDS * TOKENS tokens.
    """
    found = predict_speed(program, path, target, threads)
    if found is None:
        return None
    with Model(path) as model:
        weights = model.info.weight_bytes_per_token
        if target.name != "host":
            return Speed(found.decode, None, target.core_count, 0, weights, found.prompt)
        tokens = min(TOKENS, model.info.context - 1)
        with model.session(tokens + 1, threads) as session:
            rates = [_rate(session, tokens, program.vocabulary) for _ in range(ROUNDS)]
    return Speed(found.decode, statistics.median(rates), threads, tokens, weights)


def predict_speed(program: Program, path: Path, target: Target, threads: int) -> Prediction | None:
    """Return what a file gives on its target, as `--min-decode` and `ingot plan` reckon.

    The kernels of this machine are measured; of another device it is what its profile and published
    results say, None where they say nothing of its memory.
    """
    with Container(path) as container:
        stored = {
            name: (Dtype(record.dtype), record.size)
            for name, record in zip(container.names, container.tensors, strict=True)
        }
    formats = {stored[tensor.name][0] for tensor in program.weights()}
    if target.name == "host":
        read = sum(stored[tensor.name][1] for tensor in program.weights())
        rates = decode_rates(target, sorted(formats), threads, read)
        return Prediction(WEIGHT_TIME_SHARE / token_seconds(program, stored, rates), None)
    names = sorted(one.name.lower() for one in formats)
    try:
        machine = device_rates(target, "cpu", names, load_published()).machine
    except InvalidArgumentError:
        return None
    workload = Workload(streams(program, stored))
    return Prediction(decode_rate(workload, machine), prefill_rate(workload, machine, PROMPT))


def _rate(session: Session, tokens: int, vocabulary: int) -> float:
    """Feed one token after the other; they are the likeliest, and a stop id ends nothing."""
    session.reset()
    token = int(session.feed([0])[:vocabulary].argmax())
    started = time.perf_counter()
    for _ in range(tokens):
        token = int(session.feed([token])[:vocabulary].argmax())
    return tokens / (time.perf_counter() - started)
