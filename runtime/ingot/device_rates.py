# SPDX-License-Identifier: Apache-2.0
"""The rates of a device that predictions take: its profile's, else the nearest published ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ingot.errors import InvalidArgumentError
from ingot.prediction import Machine, format_rate
from ingot.published import Published, StatedError, int8_macs_per_second
from ingot.targets import Target

__all__ = ["DeviceRates", "device_rates"]

# Share of the int8 products that Ingot itself reaches on prompts: 0.38 and 0.49 on two Zen 5 cores
# (tests/benchmarks/results.md). Where it never ran, a profile takes what other runtimes reach.
HOST_PREFILL_SHARE = 0.44


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """A device as predictions see it, how far they were off elsewhere, and what to know of that.

    `errors` by quantity: decode, prefill. `notes` are sentences for people.
    """

    machine: Machine
    errors: Mapping[str, StatedError]
    notes: tuple[str, ...]


def device_rates(
    target: Target,
    backend: str,
    formats: Iterable[str],
    published: Published,
    measured: Mapping[str, float] | None = None,
) -> DeviceRates:
    """Return the rates of a target's backend; `measured` are bytes per second of each format.

    Raises: InvalidArgumentError for a backend that must not be taken there, and for a profile
        without any figure of its memory.
    """
    given = target.backend(backend)
    notes = [f"{backend}: {trap}" for trap in given.traps]
    if measured:
        rates, memory_rate = dict(measured), max(measured.values())
        notes.append("decode: the kernels' speed was measured on this machine just now")
    else:
        memory_rate, note = _memory_rate(target, backend, published)
        notes += [note] if note else []
        cpu = backend == "cpu"
        rates = {
            one: format_rate(target, one, memory_rate) if cpu else memory_rate for one in formats
        }
    macs, share = int8_macs_per_second(target, backend), _prefill_share(target, backend, published)
    products = macs * share if macs is not None and share is not None else None
    if products is None:
        notes.append(f"prefill: the profile has no int8 products of {backend}")
    chunk = target.defaults.chunk
    errors = {
        quantity: found
        for quantity in ("decode", "prefill")
        if (found := published.stated_error(target, backend, quantity)) is not None
    }
    return DeviceRates(Machine(rates, memory_rate, products, chunk), errors, tuple(notes))


def _memory_rate(target: Target, backend: str, published: Published) -> tuple[float, str]:
    """Return bytes per second of a backend's memory, and a note where it is an estimate."""
    own = target.memory.achievable_gb_s if backend == "cpu" else None
    figure = target.backend(backend).achievable_gb_s or own
    if figure is not None:
        return figure * 1e9, ""
    share, peak = published.share(target, backend, "decode"), target.memory.peak_gb_s
    if share is None or peak is None:
        raise InvalidArgumentError(
            f"target {target.name}: neither memory.achievable_gb_s nor memory.peak_gb_s is known,"
            " so nothing can be predicted; measure it there with `ingot bench`"
        )
    note = (
        f"decode: nobody measured {backend} on {target.name}; taken is {share:.0%} of the memory's"
        " peak, the median of the nearest published devices"
    )
    return peak * 1e9 * share, note


def _prefill_share(target: Target, backend: str, published: Published) -> float | None:
    if target.name == "host" and backend == "cpu":
        return HOST_PREFILL_SHARE
    return published.share(target, backend, "prefill")
