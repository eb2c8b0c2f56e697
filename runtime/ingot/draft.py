# SPDX-License-Identifier: Apache-2.0
"""A small model that guesses for a large one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ingot.errors import InvalidArgumentError
from ingot.format import Section

if TYPE_CHECKING:
    from ingot.model import Model
    from ingot.session import Session

__all__ = ["DraftModelDrafter", "require_same_tokenizer"]


class DraftModelDrafter:
    """Continues greedily with a session of its own, which follows the text of the other."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return the draft model's likeliest next tokens, fewer where its context ends."""
        session = self._session
        room = session.context - len(tokens)
        if room <= 0:
            return []
        kept = _common(session.token_ids, tokens[:-1])
        session.truncate(kept)
        return list(session.generate(tokens[kept:], max_tokens=min(most, room)).token_ids)

    def learn(self, accepted: int) -> None:
        """Nothing to learn: what was wrong is cut off at the next proposal."""


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many tokens at the start are the same."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def require_same_tokenizer(model: Model, draft: Model) -> None:
    """Raises: InvalidArgumentError if the two do not mean the same text by the same ids."""
    digests = [one.section_digest(Section.TOKENIZER) for one in (model, draft)]
    if digests[0] != digests[1]:
        raise InvalidArgumentError(
            f"draft {draft.path.name} has another tokenizer than {model.path.name}: "
            "compress both from checkpoints of one family"
        )
    if draft.info.vocabulary > model.info.embedding_rows:
        raise InvalidArgumentError(
            f"draft {draft.path.name} has {draft.info.vocabulary} ids, "
            f"{model.path.name} takes {model.info.embedding_rows}"
        )
