# SPDX-License-Identifier: Apache-2.0
"""A governor of heat and power: off unless a session is given one.

It compares a temperature or a power with the ceiling that the user set, at most once per interval,
and moves between modes: "full"; "no speculation", which reads no weights for guesses that may be
wrong; then fewer and fewer threads, down to one. It goes down a step whenever the ceiling is
passed, and up again only after the reading has stayed below the ceiling by a margin for a while, so
that it does not swing. The text is the same in every mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ingot.errors import InvalidArgumentError
from ingot.record import Record
from ingot.sysfs import energy_microjoules, power_watts, thermal_zones

__all__ = ["Governor", "Reading"]

STEPS = 4  # full, no speculation, half of the threads, one thread
CALM_READINGS = 3  # before it goes up


class Reading(Record):
    """The hottest zone in degrees Celsius and the power in watts; None where there is no sensor."""

    celsius: float | None
    watts: float | None


class Governor:
    """Keeps sessions below a ceiling. One may serve several sessions, of one thread at a time."""

    def __init__(
        self,
        max_celsius: float | None = None,
        max_watts: float | None = None,
        zones: tuple[str, ...] = (),
        interval: float = 1.0,
        root: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set a ceiling, or both; zones are the types of the thermal zones to look at (all).

        Units: interval in seconds. root stands for "/", clock for the time, in tests.
        Raises: InvalidArgumentError without a ceiling, or where no sensor can be read for it.
        """
        if max_celsius is None and max_watts is None:
            raise InvalidArgumentError("a governor needs max_celsius or max_watts")
        self._max_celsius, self._max_watts = max_celsius, max_watts
        self._zones, self._interval, self._root, self._clock = zones, interval, root, clock
        self._energy: tuple[float, int] | None = None
        self._step = self._calm = 0
        self._next = 0.0
        self.changes = 0
        self.reading = self._read()
        if max_celsius is not None and self.reading.celsius is None:
            raise InvalidArgumentError(
                f"max_celsius is set, but no thermal zone {'of these types ' if zones else ''}"
                "can be read: see `ingot doctor`"
            )
        if max_watts is not None and self.reading.watts is None and self._energy is None:
            raise InvalidArgumentError("max_watts is set, but no power sensor can be read")

    @property
    def mode(self) -> str:
        """What is in force: full, no speculation, half the threads, or one thread."""
        return ("full", "no speculation", "half the threads", "one thread")[self._step]

    @property
    def speculates(self) -> bool:
        """Whether tokens may be guessed ahead."""
        return self._step == 0

    def thread_limit(self, threads: int) -> int:
        """Return how many threads the next pass may take of those that the session has.

        Reads the sensors if the interval has passed.
        """
        now = self._clock()
        if now >= self._next:
            self._next = now + self._interval
            self._decide(self._read())
        if self._step <= 1:
            return threads
        return max(threads // 2, 1) if self._step == 2 else 1

    def describe(self) -> str:
        """Return one line: the mode and what was read last."""
        parts = []
        if self.reading.celsius is not None:
            ceiling = "" if self._max_celsius is None else f" of {self._max_celsius:g}"
            parts.append(f"{self.reading.celsius:.1f}{ceiling} C")
        if self.reading.watts is not None:
            ceiling = "" if self._max_watts is None else f" of {self._max_watts:g}"
            parts.append(f"{self.reading.watts:.1f}{ceiling} W")
        return f"governor: {self.mode} ({', '.join(parts) or 'no reading'})"

    def _decide(self, reading: Reading) -> None:
        """Go a step down at once, or up after some calm readings."""
        self.reading = reading
        pairs = ((reading.celsius, self._max_celsius, 3.0), (reading.watts, self._max_watts, 0.1))
        known = [
            (x, most, margin) for x, most, margin in pairs if x is not None and most is not None
        ]
        before = self._step
        if any(value > most for value, most, _ in known):
            self._step, self._calm = min(self._step + 1, STEPS - 1), 0
        elif known and all(value <= most - _margin(most, m) for value, most, m in known):
            self._calm += 1
            if self._calm >= CALM_READINGS:
                self._step, self._calm = max(self._step - 1, 0), 0
        else:
            self._calm = 0
        self.changes += self._step != before

    def _read(self) -> Reading:
        zones = thermal_zones(self._root)
        hot = [z.celsius for z in zones if not self._zones or z.name in self._zones]
        watts = None
        if self._max_watts is not None:
            watts = power_watts(self._root)
            watts = self._average_watts() if watts is None else watts
        return Reading(max(hot, default=None), watts)

    def _average_watts(self) -> float | None:
        """Return the power since the last reading from a counter of energy."""
        energy, now = energy_microjoules(self._root), self._clock()
        before, self._energy = self._energy, None if energy is None else (now, energy)
        if energy is None or before is None or now <= before[0] or energy < before[1]:
            return None  # no counter, the first reading, or it has wrapped
        return (energy - before[1]) * 1e-6 / (now - before[0])


def _margin(most: float, margin: float) -> float:
    """Return how far below a ceiling is calm: degrees, or a share where it is below one."""
    return margin if margin >= 1 else margin * most
