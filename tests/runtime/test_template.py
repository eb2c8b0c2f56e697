# SPDX-License-Identifier: Apache-2.0
"""Chat templates from hostile files: no way out of the sandbox, no end without, no memory."""

from __future__ import annotations

import time

import pytest

from ingot.chat import ChatSettings, render
from ingot.errors import FormatError, InvalidArgumentError
from ingot.template import MOST_SIZE, MOST_STEPS

GROW = "{%% set n = namespace(x=%s) %%}{%% for i in range(99) %%}{%% set n.x = %s %%}{%% endfor %%}"
BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loop": "{% for a in range(9) %}{% for b in range(99999) if false %}{% endfor %}"
    "{% endfor %}{% for a in range(99999) if range(99999)|length == 0 %}{% endfor %}",
    "macro": "{% macro m() %}{% for i in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "map": "{% for i in range(99) %}{{ range(99999)|map('string')|list|length }}{% endfor %}",
    "product": "{{ 'a' * 10 ** 9 }}",
    "list product": "{{ ([1] * 10 ** 9)|length }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "squares": GROW % ("9", "n.x * n.x"),
    "sums": GROW % ("'a'", "n.x + n.x"),
    "joins": GROW % ("'a'", "n.x ~ n.x"),
    "lists": GROW % ("[1]", "[n.x, n.x]") + "{{ n.x }}",
    "dicts": GROW % ("{}", "{'a': n.x, 'b': n.x}") + "{{ n.x|tojson }}",
    "spaces": GROW % ("1", "namespace(a=n.x, b=n.x)") + "{{ n.x }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "star": "{{ '%*d' % (1000000000, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "nested width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "center": "{{ 'a'.center(1000000000) }}",
    "indent": "{{ ('a\n' * 100000)|indent(90000) }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(90000) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "replace filter": "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "join": "{{ range(60000)|list|join('b' * 1000000) }}",
    "output": "{% for i in range(90000) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
    "constant": "{{ 'a'|center(1000000000) }}",
    "parentheses": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
}
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}{{ ''['__cl' ~ 'ass__']['__mro__'][1]['__subclasses__']() }}",
    "{{ raise_exception.__globals__['json'].codecs.open('/etc/passwd').read() }}",
    "{{ namespace.__init__.__globals__ }}{{ (''|attr('__class__')).mro() }}",
    "{{ '{0.__class__.__mro__[1].__subclasses__}'.format('') ~ nothing.at.all }}",
    "{% include 'secrets' %}",
)
# What templates of well-known models do, all in one.
USUAL = """{%- set ns = namespace(found=false, index=messages|length - 1) -%}
{%- macro say(role, text) -%}<|{{ role }}|>{{ text|trim }}{{- '\n' -}}{%- endmacro -%}
{%- if tools %}{{ tools|tojson(indent=2) }}{% endif -%}
{%- for message in messages[::-1] -%}{%- set index = (messages|length - 1) - loop.index0 -%}
{%- if not ns.found and message.role == 'user' %}{% set ns.found = true %}{% set ns.index = index %}
{%- endif %}{%- endfor -%}{{ ns.index }}:
{%- for message in messages if message['role'] in ['user', 'assistant'] -%}
{{ say(message.role, message.content.split('</think>')[-1].lstrip('\n')) }}
{%- if loop.last and add_generation_prompt %}{{ '%s%s' % ('<|', 'assistant') ~ '|>' }}{% endif -%}
{%- else %}nobody{% endfor -%}
{%- for key, value in {'a': 1, 'b': [2, (3, 4)]}.items() %} {{ key }}={{ value }}{% endfor -%}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ')|upper }}
{%- set a, b = 1, 2 %} {{ a + b * 3 - 7 // 2 }} {{ none is none }} {{ missing is defined }}"""
SAID = """1:<|user|>hi
<|user|>and
<|assistant|> a=1 b=[2, (3, 4)] HI , </THINK>
AND 4 True False"""


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_defused(name: str) -> None:
    start = time.process_time()
    with pytest.raises(FormatError, match="chat template"):
        render(ChatSettings(chat_template=BOMBS[name]), [])
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_has_no_way_out(source: str) -> None:
    try:
        text = render(ChatSettings(chat_template=source), [{"role": "user", "content": "a"}])
    except (FormatError, InvalidArgumentError):
        return
    assert "class" not in text and "root" not in text


def test_usual_templates_are_rendered_as_before() -> None:
    messages = [{"role": "user", "content": " hi "}, {"role": "user", "content": "</think>\nand"}]
    settings = ChatSettings(chat_template=USUAL)
    assert [render(settings, messages), render(settings, messages)] == [SAID, SAID]


def test_a_long_conversation_is_no_bomb() -> None:
    """Twice the text that a context of 128 Ki tokens holds, in 400 messages."""
    content = "word " * 600
    messages = [{"role": "user", "content": content + str(index)} for index in range(400)]
    text = render(ChatSettings(chat_template=USUAL), messages)
    assert len(text) > 400 * len(content) and len(text) < MOST_SIZE < 64 * MOST_STEPS
