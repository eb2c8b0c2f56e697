# SPDX-License-Identifier: Apache-2.0
"""What a model would take on a device, before anything is compressed."""

from ingot_compressor.planning.chart import plan_chart
from ingot_compressor.planning.subjects import Candidate, Subject, read_subject
from ingot_compressor.planning.table import PlanOptions, PlanRow, PlanTable, make_plan

__all__ = [
    "Candidate",
    "PlanOptions",
    "PlanRow",
    "PlanTable",
    "Subject",
    "make_plan",
    "plan_chart",
    "read_subject",
]
