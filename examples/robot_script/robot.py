# SPDX-License-Identifier: Apache-2.0
"""A robot's brain in ten lines: `python robot.py FILE "what it heard"`."""

import sys

from ingot import Model

model = Model(sys.argv[1])
with model.session(context=256) as session:
    for piece in session.stream(sys.argv[2], max_tokens=32, temperature=0.7, seed=1, stop=["\n"]):
        print(piece, end="", flush=True)
print(f"\n{session.stats}", file=sys.stderr)
