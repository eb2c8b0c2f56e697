# SPDX-License-Identifier: Apache-2.0
"""The memory contract: how much a model and its session may take, and what is said if they don't.

A budget is a number of bytes, a device profile's share of its memory, or what the control groups
of this process leave. What would not fit is refused before anything is taken, with figures.
"""

from __future__ import annotations

from ingot.errors import InvalidArgumentError, MemoryLimitError
from ingot.record import Record
from ingot.session_config import MemoryInfo, SessionConfig, native_config
from ingot.sysfs import cgroup_memory

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from ingot.model import Model

__all__ = ["Budget", "find_budget", "measure", "require_room"]

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Budget(Record):
    """Bytes that model and session may take together, 0 for no limit; and who says so."""

    bytes: int
    source: str


def find_budget(limit: int | str, root: str = "") -> Budget:
    """Return the budget that an argument means.

    An integer or "512M": that many bytes, 0 or "none": no limit. "cgroup": what the control groups
    leave, "auto" the same where there is a limit. Otherwise the name or path of a device profile.
    Raises: InvalidArgumentError for anything else, and for "cgroup" without a limit.
    """
    if isinstance(limit, int) and not isinstance(limit, bool):
        if limit < 0:
            raise InvalidArgumentError(f"memory_limit is {limit}, expected at least 0")
        return Budget(limit, "memory_limit")
    if not isinstance(limit, str):
        raise InvalidArgumentError(f"memory_limit is {limit!r}, expected bytes or a name")
    if limit == "none":
        return Budget(0, "none")
    if limit in ("auto", "cgroup"):
        return _of_groups(limit, root)
    number, unit = limit[:-1], limit[-1:].lower()
    if limit.isdigit() or (number.isdigit() and unit in _UNITS):
        return Budget(int(limit) if limit.isdigit() else int(number) * _UNITS[unit], "memory_limit")
    from ingot.targets import load_target

    target = load_target(limit)
    share = target.memory.usable_share
    return Budget(target.memory.usable_bytes, f"profile {target.name}, {share:.0%} of its memory")


def _of_groups(limit: str, root: str) -> Budget:
    found = cgroup_memory(root)
    if found is None:
        if limit == "cgroup":
            raise InvalidArgumentError("memory_limit is 'cgroup', but no control group has one")
        return Budget(0, "none")
    source = f"control group {found.path}, {found.limit} bytes with {found.used} in use"
    return Budget(max(found.available, 1), source)


def measure(model: Model, config: SessionConfig) -> tuple[MemoryInfo, int]:
    """Return what a session would take, and the largest context that fits config.memory_limit.

    The context is 0 if none fits. Nothing is taken. Raises: InvalidArgumentError as session().
    """
    native = model.native
    info, context = native.struct("ingot_memory_info"), native.ffi.new("uint32_t *")
    settings = native_config(native, config)
    native.check(native.lib.ingot_session_measure(model.handle, settings, info, context))
    return MemoryInfo(*(int(getattr(info, name)) for name in MemoryInfo.names)), int(context[0])


def require_room(model: Model, config: SessionConfig, budget: Budget) -> None:
    """Check a session against a budget, whose bytes are config.memory_limit.

    Raises: MemoryLimitError with the figures and the largest context that fits.
    """
    if budget.bytes == 0:
        return
    info, context = measure(model, config)
    if info.total_bytes <= budget.bytes:
        return
    buffers = info.arena_bytes + info.scratch_bytes
    wanted = config.context or model.info.context
    advice = f"context {context} fits" if context else "no context fits: take a smaller model"
    raise MemoryLimitError(
        f"context {wanted} needs {_gb(info.total_bytes)} (weights {_gb(info.weights_bytes)}, keys "
        f"and values {_gb(info.state_bytes)}, buffers {_gb(buffers)}), the limit is "
        f"{_gb(budget.bytes)} ({budget.source}); {advice}",
        needed_bytes=info.total_bytes,
        limit_bytes=budget.bytes,
        largest_context=context,
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3f} GB"
