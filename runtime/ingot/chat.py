# SPDX-License-Identifier: Apache-2.0
"""Chat: the template of a file, rendered in a sandbox, and a history over one session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from ingot.errors import FormatError, InvalidArgumentError, StateError
from ingot.generation import Options
from ingot.record import Record

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

    from ingot.session import Session

__all__ = ["Chat", "ChatSettings", "Message", "render"]

Message = Mapping[str, object]


class ChatSettings(Record):
    """The chat section of a file."""

    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    add_bos: bool = False
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def from_json(cls, data: object) -> ChatSettings:
        """Read the section; unknown keys are left for later versions.

        Raises: FormatError naming the key of another type than expected.
        """
        if not isinstance(data, dict):
            raise FormatError(f"chat section: expected an object, found {type(data).__name__}")
        eos = data.get("eos_token_ids") or []
        if not isinstance(eos, list):
            raise FormatError("chat section: 'eos_token_ids' is no list")
        special = data.get("special_tokens") or {}
        if not isinstance(special, dict):
            raise FormatError("chat section: 'special_tokens' is no object")
        bos = data.get("bos_token_id")
        template = data.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise FormatError("chat section: 'chat_template' is no text")
        return cls(
            bos_token_id=None if bos is None else _token_id("bos_token_id", bos),
            eos_token_ids=tuple(_token_id("eos_token_ids", token) for token in eos),
            add_bos=bool(data.get("add_bos", False)),
            chat_template=template,
            special_tokens={str(k): v for k, v in special.items() if isinstance(v, str)},
        )


def _token_id(key: str, value: object) -> int:
    """Return a token id of the chat section."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FormatError(f"chat section: '{key}' holds {value!r}, expected a token id")
    return value


def render(
    settings: ChatSettings,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    tools: Sequence[Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of a conversation as the model was trained to see it.

    `variables` are further names that the template reads, such as enable_thinking.
    Raises: InvalidArgumentError if the file has no template or the template refuses the messages;
        FormatError if the template is broken, or takes more than template.py allows.
    """
    import jinja2

    if settings.chat_template is None:
        raise InvalidArgumentError(
            "this file has no chat template: use 'ingot run', or Session.stream with a plain prompt"
        )
    from ingot.template import TooMuchError, compile_template

    try:
        return compile_template(settings.chat_template)(
            {
                **settings.special_tokens,
                **(variables or {}),
                "messages": list(messages),
                "tools": tools,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
    except RecursionError as error:
        raise FormatError("chat template: nested too deeply") from error
    except jinja2.TemplateSyntaxError as error:
        raise FormatError(f"chat template, line {error.lineno}: {error.message}") from error
    except TooMuchError as error:
        raise FormatError(f"chat template: {error}") from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidArgumentError(f"the chat template refuses these messages: {error}") from error


class Chat:
    """A conversation over one session: feeds only what the session has not seen yet."""

    def __init__(self, session: Session, system: str | None = None) -> None:
        """Raises: InvalidArgumentError if the session's file has no chat template."""
        if session.model.chat.chat_template is None:
            render(session.model.chat, [])
        self._session = session
        self._system = system
        self.messages: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Forget the conversation but for the system message."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def stream(self, text: str, options: Options | None = None) -> Iterator[str]:
        """Say something and yield the answer's pieces; a cancelled answer stays as far as it came.

        Raises: ContextFullError if the conversation no longer fits; the turn is not kept then.
        """
        if not isinstance(text, str) or not text.strip():
            raise InvalidArgumentError("the message is empty: say something")
        messages = [*self.messages, {"role": "user", "content": text}]
        session = self._session
        prompt = session.model.tokenizer.encode(render(session.model.chat, messages), begin=False)
        stream = session.begin(_unseen(session, prompt), options or Options())
        self.messages = messages
        return self._answer(stream)

    def _answer(self, stream: Iterator[str]) -> Iterator[str]:
        """Pass the pieces on and keep the answer, however the stream ends."""
        pieces: list[str] = []
        messages = self.messages
        try:
            for piece in stream:
                pieces.append(piece)
                yield piece
        finally:
            if self.messages is messages:
                messages.append({"role": "assistant", "content": "".join(pieces)})


def _unseen(session: Session, prompt: Sequence[int]) -> list[int]:
    """Cut the session back to what it shares with a prompt; return the rest of the prompt."""
    if not prompt:
        raise StateError("the chat template rendered no token")
    seen = session.token_ids
    shared = 0
    for ours, theirs in zip(seen, prompt[:-1], strict=False):
        if ours != theirs:
            break
        shared += 1
    session.truncate(shared)
    return list(prompt[shared:])
