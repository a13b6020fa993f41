"""Quality gates: Great Expectations decides about a batch before it counts as published.

`suites` reads what is wanted from YAML, `frames` turns a batch into counts and flags, `checks` asks Great
Expectations.
"""

from pipelines.gates.checks import CheckResult, run_gate, sentence
from pipelines.gates.frames import COLUMNS, gate_batch
from pipelines.gates.suites import Check, Suite, load_suites

__all__ = ["COLUMNS", "Check", "CheckResult", "Suite", "gate_batch", "load_suites", "run_gate", "sentence"]
