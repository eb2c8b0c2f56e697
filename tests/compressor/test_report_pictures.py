# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report: marks stand where their figures are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ingot.format import Dtype
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.assignment import CurvePoint
from ingot_compressor.passes.mixed import Choice, Measured, TensorChoice
from ingot_compressor.passes.quantize import Sizes
from ingot_compressor.reporting.curves import loss_curve, neighbour_plot, pareto_plot
from ingot_compressor.reporting.drawing import Axis, shade
from ingot_compressor.reporting.heat_map import bits_map, error_map
from ingot_compressor.reporting.tensors import TensorError
from tests.compressor.html_page import Page


def some_choice(divergence: float | None = 0.2) -> Choice:
    tensors = (
        TensorChoice("a", "c4", 100, 0.01, 0.1, ("c3", -20, 0.2), ("c5", 20, -0.05)),
        TensorChoice("b", "q8", 100, 0.01, 0.1, ("q6", -30, 0.1), None),
    )
    return Choice(
        encodings={"a": Encoding(Dtype.C4), "b": Encoding(Dtype.Q8)},
        sizes=Sizes(200, 4.0, 4.0),
        predicted=0.3,
        divergence=divergence,
        tensors=tensors,
        compared=(Measured("c4", 4.0, 180, 0.25, 0.24),),
        curve=(CurvePoint(100, 2.0, 1.0), CurvePoint(300, 6.0, 0.01)),
        swaps_kept=0,
    )


def test_dots_stand_where_their_figures_are() -> None:
    found = Page(pareto_plot(some_choice()))
    dots = [given for tag, given in found.tags if tag == "circle"]
    tips = found.texts["title"]
    assert len(dots) == len(tips) == 2 + 1 + 1 + 3
    place = {
        tip: (float(dot["cx"] or 0), float(dot["cy"] or 0))
        for tip, dot in zip(tips, dots, strict=True)
    }
    x, y = place["the result: 200 bytes, 0.2"]
    assert x == pytest.approx(350, abs=0.1)  # half way between 100 and 300 bytes
    # 260 is 0.01 nats, 26 is 1: the share of log 0.2 between them
    assert y == pytest.approx(260 - 234 * math.log(0.2 / 0.01) / math.log(1 / 0.01), abs=0.1)
    assert "a as c3: 180 bytes, 0.4" in place and "b as q6: 170 bytes, 0.3" in place
    assert place["a as c5: 220 bytes, 0.15"][0] > x > place["c4, measured: 180 bytes, 0.24"][0]
    assert len(Page(neighbour_plot(some_choice())).texts["title"]) == 4
    assert "KL, nats" in pareto_plot(some_choice())
    assert "weighted relative error" in pareto_plot(some_choice(None))


def test_axes_are_linear_or_logarithmic() -> None:
    assert Axis(0, 10, 100, 200).at(2.5) == 125 and Axis(0, 10, 100, 200).at(99) == 200
    assert Axis(1, 100, 0, 10, logarithmic=True).at(10) == pytest.approx(5)
    assert Axis(1, 100, 0, 1, logarithmic=True).ticks(3) == pytest.approx([1, 10, 100])
    assert Axis(3, 3, 0, 10).at(3) == 5
    assert shade(0, (0, 0, 0)) == ("#f8f8f8", "#222") and shade(9, (0, 16, 255))[0] == "#0010ff"


def test_the_curve_of_a_training_is_thinned_but_not_bent() -> None:
    assert loss_curve(()) == "" == loss_curve([math.nan])
    few = [given for tag, given in Page(loss_curve([4.0, 2.0, 1.0])).tags if tag == "polyline"]
    assert few[0]["points"] == "80.0,26.0 350.0,182.0 620.0,260.0"
    losses = [1 - step / 5000 for step in range(5000)]
    line = next(given for tag, given in Page(loss_curve(losses)).tags if tag == "polyline")
    points = np.array([[float(v) for v in p.split(",")] for p in (line["points"] or "").split()])
    assert 250 < len(points) <= 540
    slope = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert np.median(slope) == pytest.approx(234 / 540, rel=0.05)


def test_cells_stand_by_layer_and_role() -> None:
    errors = [
        TensorError("layers.1.mlp.down", "c3", 300, 3.0, 16.0),
        TensorError("layers.0.attention.q", "c4", 400, 4.0, 22.0),
        TensorError("layers.0.experts.0.down", "q8", 800, 8.0, 45.0),
        TensorError("layers.0.experts.1.down", "c4", 400, 4.0, 22.0),
        TensorError("embed", "f16", 1600, 16.0, math.inf),
    ]
    found = Page(bits_map(errors))
    words = found.texts["text"]
    assert words[:3] == ["q", "down", "layer 0"]
    # both experts have 800 weights: 1200 bytes for 1600 of them
    assert {"c4 4.00", "q8+c4 6.00", "c3 3.00", "f16 16.00", "embed"} <= set(words)
    boxes = [given for tag, given in found.tags if tag == "rect"]
    rows = [float(box["y"] or 0) for box in boxes]
    assert len(boxes) == 4 and rows[0] == rows[1] < rows[2] < rows[3]
    assert boxes[1]["x"] == boxes[2]["x"] and boxes[0]["x"] != boxes[1]["x"]
    dark = [int((box["fill"] or "")[1:3], 16) for box in boxes]
    assert dark[2] > dark[0] > dark[1] > dark[3]  # three bits are the lightest, sixteen the darkest
    noise = Page(error_map(errors))
    assert {"22.0 dB", "16.0 dB", "exact"} <= set(noise.texts["text"])
    light = [int((given["fill"] or "")[3:5], 16) for tag, given in noise.tags if tag == "rect"]
    assert light[3] > light[0] == light[1] > light[2]
