# SPDX-License-Identifier: Apache-2.0
"""Chat templates of six families against transformers, the sandbox, and the history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.chat import Chat, ChatSettings, render
from ingot.errors import FormatError, InvalidArgumentError
from ingot.generation import Options
from tests.runtime.fake_library import open_session

WITH_TEMPLATE = ("gemma-3", "phi-3", "qwen2.5", "qwen3")
WITHOUT_TEMPLATE = ("gemma-3-chat", "smollm3")
TOOL = {"type": "function", "function": {"name": "light", "parameters": {"on": "bool"}}}
QUESTION = {"role": "user", "content": "Grüße <b>you</b>?\n"}
ANSWER = {"role": "assistant", "content": "  <think>\nhm\n</think>\n\nFine. "}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [QUESTION],
    "system": [{"role": "system", "content": "Be brief."}, QUESTION],
    "turns": [QUESTION, ANSWER, {"role": "user", "content": "And 'you'?"}],
    "call": [
        QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "light", "arguments": {"on": "é<"}}}],
        },
        {"role": "tool", "content": "done"},
        {"role": "user", "content": "ok"},
    ],
}


def _settings(shared: Path, name: str) -> ChatSettings:
    data = json.loads((shared / f"tokenizers/chat_templates/{name}.json").read_text("utf-8"))
    special = {key: value for key, value in data.items() if key.endswith("_token")}
    return ChatSettings.from_json(
        {"chat_template": data.get("chat_template"), "special_tokens": special}
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_as_transformers_renders(
    name: str, conversation: str, prompt: bool, shared_dir: Path
) -> None:
    oracle = pytest.importorskip("transformers.utils.chat_template_utils")
    settings = _settings(shared_dir, name)
    messages = CONVERSATIONS[conversation]
    tools = [TOOL] if conversation == "call" else None
    try:
        expected, _ = oracle.render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=settings.chat_template,
            add_generation_prompt=prompt,
            **settings.special_tokens,
        )
    except Exception:
        with pytest.raises(InvalidArgumentError, match="refuses"):
            render(settings, messages, prompt, tools)
        assert name == "gemma-3" and conversation == "call"
        return
    assert render(settings, messages, prompt, tools) == expected[0]
    assert messages == CONVERSATIONS[conversation]


@pytest.mark.parametrize("name", WITHOUT_TEMPLATE)
def test_families_whose_configuration_has_no_template_say_so(name: str, shared_dir: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no chat template: use 'ingot run'"):
        render(_settings(shared_dir, name), [QUESTION])


def test_thinking_is_a_variable_of_the_template(shared_dir: Path) -> None:
    settings = _settings(shared_dir, "qwen3")
    text = render(settings, [QUESTION], variables={"enable_thinking": False})
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_the_environment_of_a_template() -> None:
    source = (
        "{% for m in messages %}\n  {% generation %}\n{{ m.content | tojson }}"
        "{% endgeneration %}\n{% break %}{% endfor %}\n{{ strftime_now('%Y') | length }}"
    )
    messages = [{"content": "<é>"}, {"content": "no"}]
    assert render(ChatSettings(chat_template=source), messages) == '"<é>"4'


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('never') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_what_a_template_may_not_do(source: str) -> None:
    with pytest.raises(InvalidArgumentError, match="refuses"):
        render(ChatSettings(chat_template=source + "{{ undefined.x }}"), [QUESTION])


def test_a_broken_template_is_the_files_fault() -> None:
    with pytest.raises(FormatError, match="line 2"):
        render(ChatSettings(chat_template="a\n{% if %}"), [QUESTION])


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"eos_token_ids": 3},
        {"eos_token_ids": ["x"]},
        {"bos_token_id": -1},
        {"chat_template": 1},
    ],
)
def test_a_bad_chat_section_is_refused(data: object) -> None:
    with pytest.raises(FormatError, match="chat section"):
        ChatSettings.from_json(data)


TEMPLATE = "{% for m in messages %}[{{ m.role[0] }}{{ m.content }}]{% endfor %}[a"


def _chat(ffi: Any, answer: str, prompt: str) -> tuple[Chat, Any]:
    session, library = open_session(ffi, answer, len(prompt), context=200)
    object.__setattr__(session.model, "chat", ChatSettings(None, (256,), False, TEMPLATE))
    return Chat(session), library


def test_only_what_is_new_is_fed(ffi: Any) -> None:
    chat, library = _chat(ffi, "yo", "[uhi][a")
    assert "".join(chat.stream("hi")) == "yo"
    assert chat.messages[-1] == {"role": "assistant", "content": "yo"}
    fed = len(library.fed)
    library.calls.clear()
    library.script = [256] * 200
    assert "".join(chat.stream("so?")) == ""
    assert bytes(library.fed).decode() == "[uhi][ayo][uso?][a"
    assert sum(library.calls) == len(library.fed) - fed


def test_an_edited_past_is_fed_again(ffi: Any) -> None:
    chat, library = _chat(ffi, "yo", "[uhi][a")
    list(chat.stream("hi"))
    chat.messages[0]["content"] = "ho"
    library.script = [256] * 200
    list(chat.stream("so?"))
    assert bytes(library.fed).decode() == "[uho][ayo][uso?][a"


def test_reset_forgets_and_an_empty_message_is_refused(ffi: Any) -> None:
    chat, _ = _chat(ffi, "yo", "[uhi][a")
    list(chat.stream("hi", Options(max_tokens=1)))
    assert chat.messages[-1]["content"] == "y"
    chat.reset()
    assert chat.messages == []
    with pytest.raises(InvalidArgumentError, match="empty"):
        chat.stream("  ")
