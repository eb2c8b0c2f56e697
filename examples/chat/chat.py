# SPDX-License-Identifier: Apache-2.0
"""A conversation with history: `python chat.py FILE [SYSTEM MESSAGE]`, one message per line."""

from __future__ import annotations

import sys

from ingot import Chat, ContextFullError, Model, Options, Sampling


def main(path: str, system: str | None) -> None:
    """Answer standard input line by line."""
    options = Options(max_tokens=256, sampling=Sampling(temperature=0.7, top_p=0.95))
    with Model(path) as model, model.session() as session:
        chat = Chat(session, system)
        for line in sys.stdin:
            try:
                # Only what the session has not seen yet is fed, not the whole conversation.
                for piece in chat.stream(line.strip(), options):
                    print(piece, end="", flush=True)
            except ContextFullError:
                print("(starting over: the conversation no longer fits)", end="")
                chat.reset()
            print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
