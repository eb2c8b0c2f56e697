# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back; whole characters only, also while streaming."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.errors import FormatError, InvalidArgumentError, MissingExtraError

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Detokenizer", "NoText", "Tokenizer"]

_REPLACEMENT = "\ufffd"
# A character has at most four bytes; a longer run of pending tokens is no UTF-8 and is let go.
_MOST_PENDING = 64


class Tokenizer:
    """The tokenizer section of a file, with the file's policy on the beginning-of-text token."""

    def __init__(self, data: bytes, bos_token_id: int | None = None, add_bos: bool = False) -> None:
        """Read a tokenizer.json.

        Raises: FormatError if it is none; MissingExtraError without the package `tokenizers`.
        """
        try:
            from tokenizers import Tokenizer as Engine
        except ImportError as error:
            raise MissingExtraError(
                "text needs the package tokenizers: pip install tokenizers"
            ) from error
        try:
            engine: Any = Engine.from_str(bytes(data).decode("utf-8"))
        except Exception as error:  # the engine raises plain Exception
            raise FormatError(f"the tokenizer section is no tokenizer.json: {error}") from error
        engine.no_truncation()
        engine.no_padding()
        self._engine = engine
        self._bos = bos_token_id if add_bos else None

    def __len__(self) -> int:
        """Return the number of ids, added tokens among them."""
        return int(self._engine.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """Return the ids of a text, after the beginning-of-text token where the file wants one.

        `begin` False leaves that token out. The tokenizer's own post-processor is not used:
        what the model wants is in the file.
        Raises: InvalidArgumentError if text is not a str, or holds a lone surrogate; FormatError
            if the tokenizer lacks what it needs for it (a word level without an unknown token).
        """
        if not isinstance(text, str):
            raise InvalidArgumentError(f"expected text, found {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"the text is not valid Unicode: {error}") from error
        try:
            ids = [int(token) for token in self._engine.encode(text, add_special_tokens=False).ids]
        except Exception as error:  # the engine raises plain Exception
            raise FormatError(f"the file's tokenizer cannot encode this text: {error}") from error
        return [self._bos, *ids] if begin and self._bos is not None else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens.

        Defined as what a Detokenizer yields, so that streaming gives exactly this text.
        """
        detokenizer = self.detokenizer()
        pieces = [detokenizer.push(token) for token in token_ids]
        return "".join(pieces) + detokenizer.flush()

    def piece(self, token_id: int) -> str:
        """Return a token's own spelling, "" for an id without one."""
        return str(self._engine.id_to_token(token_id) or "")

    def token_id(self, piece: str) -> int | None:
        """Return the id of a token by its spelling."""
        found = self._engine.token_to_id(piece)
        return None if found is None else int(found)

    def detokenizer(self) -> Detokenizer:
        """Return a new incremental decoder."""
        return Detokenizer(self._engine)


class Detokenizer:
    """Decodes ids one by one; holds back what may still become another character."""

    def __init__(self, engine: Any) -> None:
        """Start a text."""
        self._engine = engine
        # Decoding starts at the piece before the pending one, because decoders treat
        # the first token of a text differently (a leading space is dropped).
        self._ids: list[int] = []
        self._settled = 0
        self._prefix = ""

    def push(self, token_id: int) -> str:
        """Return the text that this token completes, "" while a character is unfinished."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        pending = len(self._ids) - self._settled
        if text.endswith(_REPLACEMENT) and pending < _MOST_PENDING:
            return ""
        return self._settle(text)

    def flush(self) -> str:
        """Return what is still held back, unfinished characters as U+FFFD; then start anew."""
        piece = self._decode(self._ids)[len(self._prefix) :]
        self._ids, self._settled, self._prefix = [], 0, ""
        return piece

    def _settle(self, text: str) -> str:
        """Hand out what lies beyond the prefix and make it the next prefix."""
        piece = text[len(self._prefix) :]
        if piece:
            self._ids = self._ids[self._settled :]
            self._settled = len(self._ids)
            self._prefix = self._decode(self._ids)
        return piece

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._engine.decode(token_ids, skip_special_tokens=True))


class NoText:
    """Stands in for a Detokenizer where a file has no tokenizer."""

    def push(self, token_id: int) -> str:
        """Return "": there is no text."""
        return ""

    def flush(self) -> str:
        """Return ""."""
        return ""
