# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file that needs nothing else, the verdict in its first line."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.errors import StorageError
from ingot_compressor.passes.hybrid import HybridRow
from ingot_compressor.reporting.curves import loss_curve, neighbour_plot, pareto_plot
from ingot_compressor.reporting.facts import Facts
from ingot_compressor.reporting.heat_map import bits_map, error_map
from ingot_compressor.reporting.layer_chart import layer_chart

__all__ = ["json_path", "render_page", "write_report"]

STYLE = (
    "body{font:14px sans-serif;max-width:64em;margin:2em auto;padding:0 1em;background:#fff;"
    "color:#222}td,th{padding:2px 1em 2px 0;vertical-align:top;text-align:left;"
    "white-space:pre-wrap}"
    "svg{display:block;max-width:100%;overflow:visible}"
    "h2{margin-top:1.6em}.pass{color:#1b7837}.fail{color:#b2182b}"
)
SHOWN = (
    *("bytes", "recipe", "target", "formats", "scales"),
    *("bits_per_weight_body", "bits_per_weight_total"),
)
ONE_FORMAT = "One format was asked for: no mix was chosen, there is no curve to show."
OTHER_DEVICE = "The target is another device: its speed was not measured here."
UNKNOWN_DEVICE = "The target's profile has no speed of memory: nothing is predicted for it."
NO_TEXT = "There was no text of enough tokens to compare on."


def json_path(page: Path) -> Path:
    """Return where the figures of a page lie: beside it, with the ending .json."""
    return (
        page.with_name(f"{page.name}.json") if page.suffix == ".json" else page.with_suffix(".json")
    )


def write_report(path: Path, facts: Facts) -> None:
    """Write the page and its figures. Raises: StorageError; neither is left half written."""
    figures = json.dumps(facts.to_json(), ensure_ascii=False, indent=1, default=str)
    for file, text in ((path, render_page(facts)), (json_path(path), figures + "\n")):
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            file.unlink(missing_ok=True)
            raise StorageError(f"{file}: cannot write the report: {error.strerror}") from error


def render_page(facts: Facts) -> str:
    """Return the page as HTML without scripts or links to elsewhere."""
    return "\n".join(
        [
            _first_line(facts),
            f"<style>{STYLE}</style>",
            f"<p>{html.escape(str(facts.result['reason']))}</p>",
            *_done(facts),
            *_training(facts),
            *_maps(facts),
            *_layers(facts),
            *_mix(facts),
            *_speed(facts),
            *_samples(facts),
            *_hybrid(facts),
            *_weights(facts),
            "</html>\n",
        ]
    )


def _first_line(facts: Facts) -> str:
    """Return the head and the title, which say what came of it."""
    result, quality = facts.result, facts.result.get("quality")
    text = f"{result['verdict']}: {result['file']}, {result['bytes'] / 1e6:.2f} MB"
    text += f", {result['bits_per_weight_body']:.2f} bits per weight"
    if quality is not None:
        text += f", mean KL {quality['mean_kl']:.4f}"
    shown = html.escape(text)
    kind = html.escape(str(result["verdict"]))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{shown}</title><h1 class="{kind}">{shown}</h1>'
    )


def _done(facts: Facts) -> list[str]:
    rows = [(key, facts.result[key]) for key in SHOWN]
    rows += [("source", facts.source), ("recipe in full", facts.recipe)]
    rows += list(facts.texts.items())
    quality = facts.result.get("quality")
    rows += list(quality.items()) if quality is not None else [("quality", "not measured")]
    rows += [("versions", facts.versions), ("seconds", facts.result["seconds"])]
    rows += [("note", warning) for warning in facts.result["warnings"]]
    limits = facts.certificate.get("limits") or []
    parts = ["<h2>What was done</h2>", _table(("", ""), rows)]
    if limits:
        columns = ("limit", "most or least", "measured", "interval", "verdict")
        found = [
            (
                x["name"],
                x["limit"],
                x["measured"],
                f"{x['low']:.5g} to {x['high']:.5g}",
                x["verdict"],
            )
            for x in limits
        ]
        parts += ["<h2>The gate</h2>", _table(columns, found)]
    return parts


def _training(facts: Facts) -> list[str]:
    rows = [(k, v) for k, v in facts.training.items() if k != "blocks" and v is not None]
    parts = ["<h2>Training</h2>", _table(("", ""), rows)]
    blocks = facts.training.get("blocks") or ()
    if blocks:
        parts.append(_table(tuple(blocks[0]), [tuple(block.values()) for block in blocks]))
    return [*parts, loss_curve(facts.losses)]


def _maps(facts: Facts) -> list[str]:
    return [
        "<h2>Bits per weight by layer and role</h2><p>Darker is more bits.</p>",
        bits_map(facts.tensors),
        "<h2>Signal to noise of the weights</h2><p>Darker is more noise.</p>",
        error_map(facts.tensors),
    ]


def _layers(facts: Facts) -> list[str]:
    parts = ["<h2>Error by layer</h2>"]
    if not facts.layers:
        return [*parts, f"<p>{NO_TEXT}</p>"]
    text = (
        "Signal to noise of each layer's result: dark, the file run from its beginning; light, the"
        " layer alone on the checkpoint's input. Cosine of the former, mean over positions of"
        f" {facts.compared_on}."
    )
    return [*parts, f"<p>{html.escape(text)}</p>", layer_chart(facts.layers)]


def _mix(facts: Facts) -> list[str]:
    parts, choice = ["<h2>Size against divergence</h2>"], facts.choice
    if choice is None:
        return [*parts, f"<p>{ONE_FORMAT}</p>"]
    text = (
        "Blue: what could be had, as predicted. Orange: whole assignments, as measured on other"
        " windows. Red: the result. Grey, and below alone: the result with one weight a format"
        " lower or higher, as predicted from it."
    )
    columns = ("assignment", "bits per weight", "bytes of weights", "predicted KL", "measured KL")
    rows = [
        (x.name, x.bits_per_weight_body, x.weight_bytes, x.predicted, x.divergence)
        for x in choice.compared
    ]
    rest = _table(columns, rows) if rows else ""
    pictures = [pareto_plot(choice), neighbour_plot(choice)]
    return [*parts, f"<p>{text}</p>", *pictures, rest, *_steps(facts)]


def _steps(facts: Facts) -> list[str]:
    """Return what the next format down and up would bring, for each weight of a mix."""
    tensors = facts.choice.tensors if facts.choice is not None else ()
    rows = [
        (x.name, x.format, x.divergence, *(_step(step) for step in (x.lower, x.higher)))
        for x in tensors
    ]
    columns = ("weight", "format", "share of KL", "one step down", "one step up")
    return [_table(columns, rows)] if rows else []


def _step(step: tuple[str, int, float] | None) -> str:
    return "" if step is None else f"{step[0]}: {step[1]:+d} bytes, {step[2]:+.2g} nats"


def _speed(facts: Facts) -> list[str]:
    parts, speed = ["<h2>Decoding speed</h2>"], facts.speed
    if speed is None:
        return [*parts, f"<p>{UNKNOWN_DEVICE}</p>"]
    rows: list[tuple[str, Any]] = [
        ("predicted from the speed of the weights", f"{speed.predicted:.1f} tok/s"),
        ("weights read for a token", f"{speed.weight_bytes_per_token / 1e6:.2f} MB"),
    ]
    if speed.measured is None:
        rows.insert(0, ("target", facts.result["target"]))
        if speed.prompt is not None:
            rows.append(("predicted for prompts", f"{speed.prompt:.1f} tok/s"))
        return [*parts, _table(("", ""), rows), f"<p>{OTHER_DEVICE}</p>"]
    rows += [
        ("measured", f"{speed.measured:.1f} tok/s, {speed.tokens} tokens after one"),
        ("measured / predicted", f"{speed.measured / speed.predicted:.2f}"),
        ("threads", speed.threads),
    ]
    note = (
        "The prediction reads weights from memory: a model that fits in the caches is faster, a"
        " very small one is held up by what is not weights."
    )
    return [*parts, _table(("", ""), rows), f"<p>{note}</p>"]


def _samples(facts: Facts) -> list[str]:
    parts = ["<h2>The same prompts, greedily</h2>"]
    if not facts.samples:
        return [*parts, f"<p>{NO_TEXT}</p>"]
    columns = ("prompt", "checkpoint", "file", "alike")
    rows = [(x.prompt, x.reference, x.file, f"{x.agreed} of {x.tokens}") for x in facts.samples]
    return [*parts, _table(columns, rows)]


def _hybrid(facts: Facts) -> list[str]:
    if not facts.hybrid:
        return []
    columns = ("file", "bytes", "KL", "dense KL", "chosen", "net bits", "reason")
    rows = [
        (*_hybrid_figures(x), "yes" if x.chosen else "no", x.net_bits, x.reason)
        for x in facts.hybrid
    ]
    return ["<h2>Sparse files against dense ones</h2>", _table(columns, rows)]


def _hybrid_figures(row: HybridRow) -> tuple[Any, ...]:
    return row.name, row.stored_bytes, row.mean_kl, row.dense_kl


def _weights(facts: Facts) -> list[str]:
    columns = ("weight", "format", "bytes", "bits per weight", "dB")
    rows = [
        (x.name, x.format, x.stored_bytes, f"{x.bits_per_weight:.3f}", f"{x.decibels:.1f}")
        for x in facts.tensors
    ]
    return ["<h2>Every weight</h2>", _table(columns, rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; its head is left out where no column has a name."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if any(columns) else ''}{body}</table>"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value)
    return str(value)
