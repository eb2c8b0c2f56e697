# SPDX-License-Identifier: Apache-2.0
"""One generation: its options, its result and its figures."""

from __future__ import annotations

from ingot.errors import InvalidArgumentError
from ingot.record import Record
from ingot.sampling import Sampling
from ingot.stopping import StopStrings

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

SPECULATIONS = ("auto", "lookup", "off")

__all__ = ["Generation", "Options", "Stats"]


class Options(Record):
    """What ends a generation and how its tokens are drawn.

    max_tokens None goes on until a stop or until the context is full.
    stop are strings that end the text and are not part of it; stop_ids add to the file's own.
    text False gives token ids only, and leaves the tokenizer alone.
    speculate, in a session that was opened with it: "auto" guesses by the draft model if there is
    one, else by lookup; "lookup" always by lookup; "off" not at all. The tokens are the same.

    Raises: InvalidArgumentError for a value that makes no sense.
    """

    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    text: bool = True
    speculate: str = "auto"

    def __post_init__(self) -> None:
        """Check every field."""
        limit = self.max_tokens
        whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and (not whole or limit < 1):
            raise InvalidArgumentError(f"max_tokens is {limit!r}, expected at least 1 or None")
        StopStrings(self.stop)
        if self.speculate not in SPECULATIONS:
            raise InvalidArgumentError(
                f"speculate is {self.speculate!r}, expected one of {', '.join(SPECULATIONS)}"
            )
        for token in self.stop_ids:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise InvalidArgumentError(f"stop id {token!r}: expected a token id")


class Stats(Record):
    """Figures of one generation. Units: seconds, bytes, tokens per second.

    decode counts the tokens after the first, a stop id among them; token_seconds_p50 and _p99 are
    percentiles of the time that each of them took. drafted were guessed ahead; accepted of them
    were what the model chose, and cost no pass of their own.
    """

    prompt_tokens: int = 0
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    first_token_seconds: float = 0.0
    weight_bytes_read: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    decode_passes: int = 0
    token_seconds_p50: float = 0.0
    token_seconds_p99: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second of prefill, 0 before any."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first per second of decoding and sampling, 0 before any."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def to_json(self) -> dict[str, float | int]:
        """Return all figures by name."""
        figures: dict[str, float | int] = self.fields()
        figures["prefill_tokens_per_second"] = self.prefill_tokens_per_second
        figures["decode_tokens_per_second"] = self.decode_tokens_per_second
        return figures

    def __str__(self) -> str:
        """Return the figures in one line for people."""
        return (
            f"prefill {self.prefill_tokens} tokens at {self.prefill_tokens_per_second:.1f} tok/s, "
            f"first token after {self.first_token_seconds * 1e3:.0f} ms, "
            f"decode {self.decode_tokens} tokens at {self.decode_tokens_per_second:.1f} tok/s, "
            f"{self.weight_bytes_read / 1e6:.1f} MB of weights read"
        )


class Generation(Record):
    """A finished generation. finish_reason: length, stop_id, stop_string, context or cancelled."""

    text: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str
    seed: int | None
    stats: Stats

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "text": self.text,
            "prompt_token_ids": list(self.prompt_token_ids),
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "stats": self.stats.to_json(),
        }
