"""The same study by one process and by several, each with one thread: seconds, and whether they find the same."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Bars, Missing, Row, Suite, Table
from benchmarks.problems import BATCH_SIZE
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Study, StudySettings

WANTED = 0.65
"""Seconds with two workers on two cores as a share of those with one, at most."""


def run(
    suite: Suite,
    workers: Sequence[int] = (1, 2),
    epochs: int | None = None,
    seeds: int | None = None,
    batch_size: int = BATCH_SIZE,
    baselines: Sequence[str] = ("popularity", "lightgcn"),
) -> list[Table]:
    """Run the study of VBPR, plain and distilled, with every number of workers; starting them counts.

    Args:
        suite: What to measure on.
        workers: Numbers of workers, one first.
        epochs: Epochs of every run. (default: :obj:`None`, 20, or 100 at full size)
        seeds: Number of seeds. (default: :obj:`None`, 2, or 3 at full size)
        batch_size: Triples in a step.
        baselines: The baselines.
    """
    if suite.device.type != "cpu":
        raise Missing("workers with one thread each are measured on the CPU")
    epochs, seeds = epochs or (100 if suite.full else 20), seeds or (3 if suite.full else 2)
    trainer = {"max_epochs": epochs, "extend": 1, "batch_size": batch_size, "device": "cpu", "progress": False}
    settings = StudySettings(trainer={**trainer, "patience": 10**9, "eval_every": 5, "track_views": False})
    rows: list[Row] = []
    found: list[Any] = []
    for number in workers:
        with tempfile.TemporaryDirectory() as folder:
            study = Study(suite.data, VBPR, Path(folder), settings, baselines=baselines, workers=number)
            start = time.perf_counter()
            results = study.run(range(seeds))
            seconds = time.perf_counter() - start
        found.append([(run["name"], run["seed"], run["test"]["recall@20"]) for run in results["runs"]])
        ratio = seconds / rows[0]["seconds"] if rows else 1.0
        rows.append(
            {
                "workers": number,
                "runs": len(results["runs"]),
                "seconds": seconds,
                "ratio to one worker": ratio,
                "wanted, at most": WANTED if number == 2 else None,
                "same results": "yes" if found[-1] == found[0] else "no",
            }
        )
    return [Table(f"study of {seeds} seeds, {epochs} epochs each", rows, chart=Bars("seconds", ("workers",)))]
