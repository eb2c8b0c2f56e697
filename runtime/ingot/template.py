# SPDX-License-Identifier: Apache-2.0
"""Chat templates from files, run with nothing but strings and loops, and only so far.

Jinja's immutable sandbox keeps a template from attributes and functions that reach the interpreter.
Beyond that it may run for ever or ask for all memory, so here every round of a loop, call of a
macro, function, filter or test, and every operator is a step, more of them for large values; there
are `MOST_STEPS`. No value may be larger than `MOST_SIZE`, and what could jump over that is measured
before: products, powers, widths.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["MOST_SIZE", "MOST_STEPS", "TooMuchError", "compile_template"]

MOST_STEPS = 100_000
MOST_SIZE = 4 << 20  # characters of one value, each part as often as it is named
MEMBER = 64  # what a member of a list counts as
_RESULT, _GIVEN = 12, 14  # a value of 2^12 that is made, or 2^14 that is given, is one more step
MOST_BITS = 4096  # of an integer
MOST_NUMBER = 100_000  # as an argument: a width, a count
# Widths, and maps from one character to a long text: no chat template is known that needs them.
_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "translate", "format_map"})
_FILTERS = frozenset({"center", "wordwrap", "urlize", "xmlattr", "pprint", "random"})
_PASSED = (Context, nodes.EvalContext, ImmutableSandboxedEnvironment)  # before the value
_WIDTH = re.compile(r"\d{6,}|\*")


class TooMuchError(SecurityError):
    """A template takes more steps or memory than one needs."""


class _GenerationTag(Extension):
    """{% generation %} marks the trained part of a text; rendering ignores it."""

    tags = {"generation"}  # noqa: RUF012  (the name that jinja2 asks for)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Limited(ImmutableSandboxedEnvironment):
    """A sandbox that counts. Templates are compiled once and may be rendered on any thread."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are not computed while compiling, where nothing counts
            extensions=[_GenerationTag, loopcontrols],
            finalize=self.measured,
        )
        self._left = threading.local()
        filters: dict[str, Callable[..., Any]] = {**self.filters, "tojson": _to_json}
        self.filters = {
            name: self._counted(name, function)
            for name, function in filters.items()
            if name not in _FILTERS
        }
        tests: Any = self.tests
        self.tests = {name: self._counted(name, test) for name, test in tests.items()}
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _now

    def begin(self) -> None:
        """Allow this thread's next rendering its steps."""
        self._left.steps = MOST_STEPS

    def count_step(self, steps: int = 1) -> bool:
        """Count steps; always true. Raises: TooMuchError after the last."""
        left = getattr(self._left, "steps", 0) - steps
        self._left.steps = left
        if left < 0:
            raise TooMuchError(f"it takes more than {MOST_STEPS} steps")
        return True

    def measured(self, value: Any, share: int = _RESULT) -> Any:
        """Return a value that is not too large. Raises: TooMuchError."""
        size = _size(value, MOST_SIZE)
        if size > MOST_SIZE:
            raise TooMuchError(f"it makes a value of more than {MOST_SIZE} characters")
        self.count_step(size >> share)
        return value

    def join(self, *parts: Any) -> str:
        """Do what `~` does."""
        self.count_step()
        return str(self.measured("".join(str(self.measured(part, _GIVEN)) for part in parts)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result is known to be small."""
        self.count_step()
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_format(left, (right,))
        return self.measured(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what the sandbox allows; the names are those of the method that this replaces."""
        __self.count_step()
        values = (*args, *kwargs.values())
        inner = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner, name = getattr(inner, "__self__", None), getattr(inner, "__name__", "")
        for value in values:
            __self.measured(value, _GIVEN)
            if name != "safe_range":  # which has a limit of its own
                _check_number(value)
        if isinstance(owner, str):
            _check_method(owner, name, values)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter or test that counts as a step and takes and gives no large value."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count_step()
            values = [value for value in args if not isinstance(value, _PASSED)]
            for value in (*values, *kwargs.values()):
                self.measured(value, _GIVEN)
            for value in (*values[1:], *kwargs.values()):
                _check_number(value)
            _check_filter(name, values, tuple(kwargs.values()))
            return self.measured(function(*args, **kwargs))

        return counted

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, and put the counting into the tree."""
        tree: nodes.Template = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.test is not None:
                loop.test = nodes.And(_own("count_step"), loop.test)
        for block in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            block.body.insert(0, nodes.ExprStmt(_own("count_step")))  # type: ignore[attr-defined]
        _wrap_literals(tree)
        tree.set_environment(self)
        return tree


def _own(name: str, *arguments: nodes.Expr) -> nodes.Call:
    """Return a call of the environment itself, which no name in a template can hide."""
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _wrap_literals(node: nodes.Node) -> None:
    """Measure lists, tuples and dicts where they are written, and do `~` ourselves."""
    for field, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, field, [_wrapped(each, node) for each in value])
        elif isinstance(value, nodes.Node):
            setattr(node, field, _wrapped(value, node))


def _wrapped(value: Any, parent: nodes.Node) -> Any:
    if not isinstance(value, nodes.Node):
        return value
    _wrap_literals(value)
    if isinstance(value, nodes.Concat):
        return _own("join", *value.nodes)
    loaded = not isinstance(value, nodes.Tuple) or value.ctx == "load"
    if isinstance(value, nodes.List | nodes.Tuple | nodes.Dict) and loaded:
        return _own("measured", value)
    return value


def _size(value: Any, most: int) -> int:
    """Count characters and members, each as often as it is named, until they are too many."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Namespace):
        value = value._Namespace__attrs
    if isinstance(value, Mapping):
        members: Any = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        members = value
    else:
        return 1
    total = MEMBER * len(members)
    for member in members:
        if total > most:
            break
        total += _size(member, most - total)
    return total


def _check_number(value: Any) -> None:
    if isinstance(value, int) and abs(value) > MOST_NUMBER:
        raise TooMuchError(f"it passes {value}, more than {MOST_NUMBER}, to a function")


def _check_product(left: Any, right: Any) -> None:
    for text, count in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(count, int):
            if len(text) * count > MOST_SIZE:
                raise TooMuchError(f"it repeats a text more than {MOST_SIZE} characters long")
            return
    bits = [value.bit_length() for value in (left, right) if isinstance(value, int)]
    if sum(bits) > MOST_BITS:
        raise TooMuchError("its numbers are too large")


def _check_power(left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and right > 0 and left.bit_length() * right > MOST_BITS:
        raise TooMuchError("its numbers are too large")


def _check_format(pattern: str, values: tuple[Any, ...]) -> None:
    """Look for widths, and for a long pattern that names a long text many times."""
    longest = max((_size(value, MOST_SIZE) for value in values), default=1)
    if _WIDTH.search(pattern) or len(pattern) * longest > 16 * MOST_SIZE:
        raise TooMuchError("it formats a text that may become too long")


def _check_replace(text: str, values: tuple[Any, ...]) -> None:
    if len(values) >= 2 and text.count(str(values[0])) * len(str(values[1])) > MOST_SIZE:
        raise TooMuchError(f"it replaces by more than {MOST_SIZE} characters")


def _check_joined(separator: str, values: Any) -> None:
    if isinstance(values, list | tuple) and len(separator) * len(values) > MOST_SIZE:
        raise TooMuchError(f"it joins to more than {MOST_SIZE} characters")


def _check_method(owner: str, name: str, values: tuple[Any, ...]) -> None:
    if name in _METHODS:
        raise TooMuchError(f"it calls str.{name}(), which templates do without here")
    if name == "format":
        _check_format(owner, values)
    elif name == "replace":
        _check_replace(owner, values)
    elif name == "join" and values:
        _check_joined(owner, values[0])


def _check_filter(name: str, values: list[Any], named: tuple[Any, ...]) -> None:
    rest = (*values[1:], *named)
    if name == "format" and values:
        _check_format(str(values[0]), rest)
    elif name == "replace" and values:
        _check_replace(str(values[0]), rest)
    elif name == "join" and values and rest:
        _check_joined(str(rest[0]), values[0])
    elif name == "indent" and any(isinstance(x, int) and x > 100 for x in rest):
        raise TooMuchError("it indents by more than 100")
    elif name == "sum" and any(isinstance(x, list | tuple) for x in rest):
        raise TooMuchError("it adds up lists")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Like the usual filter, but without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)


@functools.lru_cache(maxsize=8)
def compile_template(source: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a function from variables to the text of a template.

    Raises: jinja2.TemplateSyntaxError; RecursionError if it is nested too deeply. The function
    raises: jinja2.TemplateError, of which TooMuchError is one.
    """
    environment = _Limited()
    template = environment.from_string(source)

    def render(variables: Mapping[str, Any]) -> str:
        environment.begin()
        pieces, size = [], 0
        for piece in template.generate(variables):
            size += len(piece)
            if size > MOST_SIZE:
                raise TooMuchError(f"it writes more than {MOST_SIZE} characters")
            pieces.append(piece)
        return "".join(pieces)

    return render
