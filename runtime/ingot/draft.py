# SPDX-License-Identifier: Apache-2.0
"""A small model that guesses for a large one."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.errors import InvalidArgumentError
from ingot.generation import Options
from ingot.sampling import Sampling
from ingot.speculation import LookupDrafter, Speculator

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from ingot.model import Model
    from ingot.session import Session

__all__ = ["DraftModelDrafter", "make_speculator", "require_same_tokenizer"]


class DraftModelDrafter:
    """Continues with a session of its own, which follows the text of the other.

    It draws with the other's settings, seed and positions, so with the same random numbers: two
    models that agree on the probabilities then agree on the token, at any temperature.
    """

    def __init__(self, session: Session, sampling: Sampling) -> None:
        self._session = session
        self._sampling = sampling

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return the draft model's next tokens, fewer where its context or its text ends."""
        session = self._session
        room = session.context - len(tokens)
        if room <= 0:
            return []
        kept = _common(session.token_ids, tokens[:-1])
        session.truncate(kept)
        options = Options(min(most, room), self._sampling, text=False, speculate="off")
        return list(session.begin(tokens[kept:], options).result().token_ids)

    def learn(self, accepted: int) -> None:
        """Nothing to learn: what was wrong is cut off at the next proposal."""


def make_speculator(
    draft: Session | None, most: int, options: Options, sampling: Sampling
) -> Speculator | None:
    """Return what guesses at most so many tokens ahead for one generation, None for nothing.

    Raises: InvalidArgumentError if lookup is wanted and no row is reserved for it.
    """
    if most <= 0:
        raise InvalidArgumentError(
            "speculate='lookup': open the session with model.session(speculate=7)"
        )
    if options.speculate == "off":
        return None
    if draft is None or options.speculate == "lookup":
        return Speculator(LookupDrafter(), most)
    return Speculator(DraftModelDrafter(draft, sampling), most)


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many tokens at the start are the same."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def require_same_tokenizer(model: Model, draft: Model) -> None:
    """Raises: InvalidArgumentError if the two do not mean the same text by the same ids."""
    texts = [one.section_by_name("tokenizer") for one in (model, draft)]
    if texts[0] != texts[1]:
        raise InvalidArgumentError(
            f"draft {draft.path.name} has another tokenizer than {model.path.name}: "
            "compress both from checkpoints of one family"
        )
    if draft.info.vocabulary > model.info.embedding_rows:
        raise InvalidArgumentError(
            f"draft {draft.path.name} has {draft.info.vocabulary} ids, "
            f"{model.path.name} takes {model.info.embedding_rows}"
        )
