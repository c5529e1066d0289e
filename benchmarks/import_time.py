"""Seconds that ``import pyg_ckd`` takes beyond torch and PyG, each time in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Bars, Row, Suite, Table, Timing

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, sys, time
def now():
    return time.perf_counter(), time.process_time()
start = now()
import torch, torch_geometric
middle, known = now(), set(sys.modules)
import pyg_ckd
end = now()
new = {name.partition(".")[0] for name in set(sys.modules) - known} - sys.stdlib_module_names - {"pyg_ckd"}
times = {"before": (start, middle), "own": (middle, end)}
print(json.dumps({"libraries": sorted(new)} | {k: [y - x for x, y in zip(*pair)] for k, pair in times.items()}))
"""


def run(suite: Suite) -> list[Table]:
    """Measure in one process per round.

    Args:
        suite: What to measure on.
    """
    found = [measure() for _ in range(suite.rounds)]
    rows: list[Row] = []
    for name, key, wanted in (("torch and torch_geometric", "before", None), ("pyg_ckd after them", "own", 0.5)):
        elapsed, cpu = (Timing.of([one[key][clock] for one in found]) for clock in range(2))
        rows.append(
            {
                "import": name,
                "seconds": elapsed.median,
                "minimum": elapsed.minimum,
                "seconds of CPU": cpu.median,
                "wanted, at most": wanted,
            }
        )
    libraries = ", ".join(found[0]["libraries"]) or "none"
    note = f"Packages of which parts are loaded only by pyg_ckd: {libraries}."
    return [Table("import time", rows, [note], Bars("seconds", ("import",)))]


def measure() -> dict:
    """Import in a fresh process and return seconds and loaded packages."""
    command = [sys.executable, "-c", SCRIPT]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
