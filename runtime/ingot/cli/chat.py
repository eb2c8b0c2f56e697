# SPDX-License-Identifier: Apache-2.0
"""`ingot chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from ingot.chat import Chat
from ingot.cli.arguments import (
    Subparsers,
    add_command,
    add_file,
    add_generation,
    add_session,
    add_speculation,
    generation_options,
    open_model,
    open_session,
)
from ingot.errors import ContextFullError
from ingot.generation import Options
from ingot.session import Session

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot chat smol.ingot --system "You answer in one sentence."
  printf 'Hello\\nAnd in French?\\n' | ingot chat smol.ingot --seed 1

/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C ends the present answer.
Without a terminal each line of standard input is one message."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "chat", "talk to a model", _EPILOG)
    add_file(parser)
    parser.add_argument("--system", metavar="TEXT", help="how the model is to behave")
    add_session(parser)
    add_speculation(parser)
    add_generation(parser, temperature=0.7, max_tokens=512)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    options = generation_options(args)
    with open_model(args) as model, open_session(model, args) as session:
        chat = Chat(session, args.system)
        _ = model.tokenizer  # loaded while the user types, not after
        for line in _lines():
            if line == "/quit":
                break
            if line == "/reset":
                chat.reset()
                session.reset()
            elif line.startswith("/"):
                print(f"unknown command {line}: /reset or /quit", file=sys.stderr)
            elif line:
                _answer(chat, session, line, options)
    return 0


def _lines() -> Iterator[str]:
    """Yield what the user says, until the end of the input."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    print("/reset forgets, /quit leaves, Ctrl-C ends an answer", file=sys.stderr)
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


def _answer(chat: Chat, session: Session, line: str, options: Options) -> None:
    """Print an answer; Ctrl-C cancels it and keeps the conversation."""
    pressed = threading.Event()

    def cancel(number: int, frame: FrameType | None) -> None:
        pressed.set()
        session.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        stream = chat.stream(line, options)
        if pressed.is_set():
            session.cancel()  # the first one came before there was anything to cancel
        for piece in stream:
            print(piece, end="", flush=True)
        print(flush=True)
    except ContextFullError as error:
        if not sys.stdin.isatty():
            raise
        print(f"{error} (here: /reset)", file=sys.stderr)
    finally:
        signal.signal(signal.SIGINT, before)
    if sys.stdin.isatty():
        print(f"[{session.stats}]", file=sys.stderr)
        if session.config.governor is not None:
            print(f"[{session.config.governor.describe()}]", file=sys.stderr)
