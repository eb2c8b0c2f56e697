# SPDX-License-Identifier: Apache-2.0
"""Published results of any runtime on the devices of the profiles, and what they say of ours.

`targets/published.csv` has one result per row. Its share is what it reaches of the device's peak:
of the memory's bandwidth for decoding, of the int8 products for prompts. A device's share is the
median of its results; how far that can be trusted is found by leaving each result out in turn and
predicting it from the others.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from ingot.errors import InvalidArgumentError, StorageError
from ingot.prediction import (
    Machine,
    Stream,
    Workload,
    decode_rate,
    first_token_seconds,
    prefill_rate,
)
from ingot.targets import Target, load_target, profile_folder

__all__ = [
    "Checked",
    "Published",
    "Result",
    "StatedError",
    "int8_macs_per_second",
    "load_published",
]

QUANTITIES = ("decode", "prefill", "first_token")
COLUMNS = (
    *("quantity", "target", "backend", "model", "format", "runtime"),
    *("body_gw", "head_gw", "gb_per_token", "tokens", "value", "source"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One published figure: tokens per second, or seconds to the first token.

    Units: `body_gw` and `head_gw` 10^9 weights, `gb_per_token` 10^9 bytes that a token reads,
    `tokens` of the context or of the prompt.
    """

    quantity: str
    target: str
    backend: str
    model: str
    format: str
    runtime: str
    body_gw: float
    head_gw: float
    gb_per_token: float
    tokens: int
    value: float
    source: str

    @property
    def workload(self) -> Workload:
        """What the model asks of the device."""
        body, head = self.body_gw * 1e9, self.head_gw * 1e9
        byte = self.gb_per_token * 1e9 / (body + head)
        body_stream = Stream(self.format, body * byte, body)
        return Workload((body_stream, Stream(self.format, head * byte, head, prompt=False)))


@dataclass(frozen=True, slots=True)
class Checked:
    """A result, what is predicted without it, and from how many others; `own`: of its device."""

    result: Result
    predicted: float
    others: int
    own: bool

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.result.value - 1


@dataclass(frozen=True, slots=True)
class StatedError:
    """How far predictions were off: median and largest absolute error of `rows` results.

    `own`: each was predicted from the other results of the same device; else from other devices.
    """

    median: float
    largest: float
    rows: int
    own: bool


def int8_macs_per_second(target: Target, backend: str) -> float | None:
    """Return the products of int8 per second at the peak, None where the profile says nothing."""
    if backend != "cpu":
        tops = target.backend(backend).int8_tops
        return None if tops is None else tops * 1e12 / 2
    per_core = [(core.count * core.mhz * 1e6, core.int8_macs_per_cycle) for core in target.cores]
    found = sum(clock * macs for clock, macs in per_core if macs is not None)
    return found or None


def load_published(path: Path | None = None) -> Published:
    """Return the results; by default those that come with Ingot.

    Raises: StorageError for a file that cannot be read; InvalidArgumentError naming file, line and
        what is wrong with it.
    """
    path = path or profile_folder() / "published.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise InvalidArgumentError(f"{path}: columns are not {','.join(COLUMNS)}")
            results = [_read(path, line, row) for line, row in enumerate(reader, 2)]
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return Published(results)


class Published:
    """Results with the profiles of their devices."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = tuple(results)
        self._targets = {name: load_target(name) for name in {one.target for one in results}}
        self._shares = {one: self._share_of(one) for one in self.results}

    def share(self, target: Target, backend: str, quantity: str) -> float | None:
        """Return the share of the peak that a device is predicted to reach, None without results.

        The median of its own results, else of the nearest devices.
        """
        return _median(self._near(target, backend, quantity, self.results)[0], self._shares)

    def check(self) -> tuple[Checked, ...]:
        """Return every result with what the others predict; those that stand alone are left out."""
        return tuple(one for result in self.results if (one := self._predict(result)) is not None)

    def stated_error(self, target: Target, backend: str, quantity: str) -> StatedError | None:
        """Return how far predictions for a device are off, None where nothing is like it.

        With two or more results of its own, each is predicted from the others; else the results of
        every other device from those of the rest.
        """
        kind = [one for one in self.results if _kind(one.quantity) == _kind(quantity)]
        own = [one for one in kind if (one.target, one.backend) == (target.name, backend)]
        if len(own) >= 2:
            found = [self._predict(one) for one in own]
        else:
            rows = [one for one in kind if one.backend == backend] or kind
            found = [self._predict(one, device=True) for one in rows]
        errors = [abs(one.error) for one in found if one is not None]
        return (
            StatedError(median(errors), max(errors), len(errors), len(own) >= 2) if errors else None
        )

    def _predict(self, result: Result, device: bool = False) -> Checked | None:
        """Predict a result without it; with `device`, without any of its device."""
        target = self._targets[result.target]
        others = [
            one
            for one in self.results
            if one is not result and not (device and one.target == result.target)
        ]
        near, own = self._near(target, result.backend, result.quantity, others)
        share = _median(near, self._shares)
        if share is None:
            return None
        return Checked(result, self._value(result, target, share), len(near), own)

    def _near(
        self, target: Target, backend: str, quantity: str, results: Sequence[Result]
    ) -> tuple[list[Result], bool]:
        """Return the results nearest to a device, and whether they are its own.

        In turn: the same device and backend; the same backend and kind of core; the same backend;
        any.
        """
        kind = [one for one in results if _kind(one.quantity) == _kind(quantity)]
        steps: list[Callable[[Result], bool]] = [
            lambda one: (one.target, one.backend) == (target.name, backend),
            lambda one: (
                one.backend == backend and self._targets[one.target].in_order == target.in_order
            ),
            lambda one: one.backend == backend,
            lambda one: True,
        ]
        for index, step in enumerate(steps):
            near = [one for one in kind if step(one)]
            if near:
                return near, index == 0
        return [], False

    def _share_of(self, result: Result) -> float:
        ideal = self._value(result, self._targets[result.target], 1.0)
        ratio = result.value / ideal
        return 1 / ratio if result.quantity == "first_token" else ratio

    def _value(self, result: Result, target: Target, share: float) -> float:
        """Return the figure of a device that reaches a share of its peak.

        Raises: InvalidArgumentError for a device whose peak the profile does not say.
        """
        macs, peak = int8_macs_per_second(target, result.backend), target.memory.peak_gb_s
        decode = result.quantity == "decode"
        if peak is None or (macs is None and not decode):
            raise InvalidArgumentError(f"published.csv: target {target.name} has no peak")
        rate = peak * 1e9 * (share if decode else 1.0)
        products = None if macs is None else macs * share
        machine = Machine({result.format: rate}, rate, products, result.tokens)
        figures: dict[str, Callable[[], float | None]] = {
            "decode": partial(decode_rate, result.workload, machine, result.tokens),
            "prefill": partial(prefill_rate, result.workload, machine, result.tokens),
            "first_token": partial(first_token_seconds, result.workload, machine, result.tokens),
        }
        return figures[result.quantity]() or 0.0


def _median(results: Sequence[Result], shares: dict[Result, float]) -> float | None:
    return median(shares[one] for one in results) if results else None


def _kind(quantity: str) -> str:
    """A first token is a prompt's time: both say the same of a device."""
    return "decode" if quantity == "decode" else "prefill"


def _read(path: Path, line: int, row: dict[str, str]) -> Result:
    try:
        numbers = {key: float(row[key]) for key in ("body_gw", "head_gw", "gb_per_token", "value")}
        tokens = int(row["tokens"])
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgumentError(f"{path}:{line}: {error}") from error
    if (
        row["quantity"] not in QUANTITIES
        or not row["source"]
        or min(*numbers.values(), tokens) <= 0
    ):
        raise InvalidArgumentError(
            f"{path}:{line}: expected a quantity, positive figures, a source"
        )
    return Result(
        quantity=row["quantity"],
        target=row["target"],
        backend=row["backend"],
        model=row["model"],
        format=row["format"],
        runtime=row["runtime"],
        body_gw=numbers["body_gw"],
        head_gw=numbers["head_gw"],
        gb_per_token=numbers["gb_per_token"],
        tokens=tokens,
        value=numbers["value"],
        source=row["source"],
    )
