"""What one of several processes that share users out holds, with all interactions to draw from and with its own alone.

``python -m benchmarks.drawing`` writes a folder of 20 million interactions, trains VBPR with sparse gradients on it in
two processes, or ``--processes``, for an epoch, in every way to hold the interactions and to shuffle them, and prints a
Markdown table of the anonymous memory of the process that takes more: what is its own and lies in no file.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import anonymous
from benchmarks.several import in_processes
from pyg_ckd import Trainer
from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import RATES
from pyg_ckd.datasets import SyntheticMultimodal, load, write_folder
from pyg_ckd.nn import VBPR

WAYS = {
    "in memory, whole": (True, "whole"),
    "in a file, whole": (False, "whole"),
    "in a file, blocks": (False, "blocks"),
    "in a file, own": (False, "own"),
}
"""Whether interactions are in memory, and how an epoch is shuffled."""


def write(folder: Path, count: int) -> None:
    """Write a graph of about so many interactions, with a single column of features.

    Args:
        folder: The folder to write.
        count: Interactions.
    """
    generator = np.random.default_rng(0)
    users, items = max(4, count // 40), max(25, count // 200)
    pairs = np.unique(generator.integers(users * items, size=count))
    edges = np.stack(np.divmod(pairs, items))
    held = np.arange(pairs.size) % max(2, count // 10_000) == 0
    features = {"visual": generator.standard_normal((items, 1), np.float32)}
    sizes = {"num_users": users, "num_items": items}
    data = build_data(edges[:, ~held], features, val=edges[:, held], transform="none", **sizes)
    write_folder(data, folder)


def measure(folder: Path, memory: bool, shuffle: str, batch_size: int = 65_536) -> dict[str, float]:
    """Train an epoch and return how much more anonymous memory there was, in MiB.

    Args:
        folder: What :func:`write` has written.
        memory: Whether to bring the interactions to memory first.
        shuffle: As the trainer takes it.
        batch_size: Triples of a step.
    """
    tiny = SyntheticMultimodal(num_users=40, num_items=30, num_interactions=400)[0]
    options = {"track_views": False, "progress": False, "device": "cpu", "strategy": "users", "shuffle": shuffle}
    options["num_negatives"] = 1
    Trainer(max_epochs=1, **options).fit(VBPR.from_data(tiny, sparse=True), tiny)  # Loads what a training loads.
    before = anonymous()
    data = load(folder, "none")
    for name in ("edge_index", "val_edge_index", "test_edge_index") if memory else ():
        data[RATES][name] = data[RATES][name].clone()
    model, found, seen = VBPR.from_data(data, sparse=True, embedding_dim=4), {}, _Seen()
    found["loaded, model built"] = anonymous() - before
    trainer = Trainer(max_epochs=1, batch_size=batch_size, eval_users=0.05, callbacks=seen, **options)
    seen.start()
    trainer.fit(model, data)
    found["before the first step, most"] = seen.begun - before
    found["training, most"] = seen.steps - before
    found["until the end, most"] = seen.stop() - before
    return found


class _Seen(threading.Thread):
    """Looks at the memory of the process all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.begun = self.steps = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, anonymous())

    def on_train_epoch_start(self) -> None:
        self.begun, self.most = max(self.most, anonymous()), 0.0

    def on_validation_start(self) -> None:
        self.steps, self.most = max(self.most, anonymous()), 0.0

    def stop(self) -> float:
        self._done.set()
        self.join()
        return max(self.most, self.steps, self.begun, anonymous())


def _work(folder: str, way: str, batch_size: int) -> dict[str, float]:
    torch.manual_seed(0)  # All begin with the same weights.
    return measure(Path(folder), *WAYS[way], batch_size)


def largest(folder: str, way: str, batch_size: int, size: int) -> dict[str, float]:
    """Return the figures of the process that takes more, each for itself.

    Args:
        folder: The data.
        way: One of :data:`WAYS`.
        batch_size: Triples of a step.
        size: Number of processes.
    """
    found = in_processes(size, _work, folder, way, batch_size)
    return {name: max(one[name] for one in found) for name in found[0]}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "data", args.interactions)
        rows = {way: largest(f"{place}/data", way, args.batch, args.processes) for way in args.ways}
    columns = list(next(iter(rows.values())))
    print(f"VBPR in {args.processes} processes, {args.interactions} interactions drawn: MiB, and bytes for each\n")
    print(f"| interactions, shuffle | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for way, row in rows.items():
        cells = (f"{row[name]:.0f} ({row[name] * 2**20 / args.interactions:.1f})" for name in columns)
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
