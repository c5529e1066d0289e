"""Find out which large batch and learning rate reach the quality of batches of 2,048 in a part of the time.

``python -m examples.large_batches --data tiktok.npz million --backbones LightGCN --out DIR`` trains every backbone with
its recommended settings and batches of 2,048 until it has converged, and then with ``--batches`` and learning rates
scaled by ``--scales``: ``none``, ``sqrt`` (the square root of how many times larger the batch is) or ``linear``. The
table tells after how many seconds of the processor, validation left out, a run has the best validation recall of the
first one, and 99 % of it. ``million`` is a synthetic graph of a million interactions. Runs that are in DIR are not made
again, and one that was broken off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.data.inputs import RATES
from pyg_ckd.datasets import SyntheticMultimodal, load
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import backbones
from pyg_ckd.training import History, build

SMALL = 2048
METRIC = "val/recall@20"
SCALES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
STEPS = 8
"""Steps from one evaluation to the next, at the least."""
MILLION: dict[str, Any] = {"num_users": 60_000, "num_items": 20_000, "num_interactions": 1_000_000}
SHARES = {"visual": 0.6, "textual": 0.4}
HEAD = (
    "data",
    "backbone",
    "batch",
    "lr",
    "warm-up",
    "seed",
    "best",
    "at epoch",
    "ms/step",
    "CPU s to 99 %",
    "ratio",
    "CPU s to 100 %",
    "ratio",
)


class Clock:
    """Writes the seconds of the processor that the steps of an epoch took into its row, and ends what takes too long.

    Args:
        limit: Seconds of all steps after which training ends.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self._start, self._spent = limit, 0.0, 0.0

    def on_train_epoch_start(self) -> None:
        """Begin to measure."""
        self._start, self._spent = time.process_time(), 0.0

    def on_validation_start(self) -> None:
        """Stop measuring before a validation."""
        self._spent = time.process_time() - self._start

    def on_train_epoch_end(self, row: dict[str, float], history: History) -> None:
        """Keep what was measured."""
        row["cpu"] = self._spent or time.process_time() - self._start
        if sum(row.get("cpu", 0.0) for row in history.rows) > self.limit:
            history.stopped = "time"


def graph(name: str, root: Path) -> HeteroData:
    """Return a graph.

    Args:
        name: A file, or ``million``.
        root: Folder in which the synthetic graph is kept.
    """
    return SyntheticMultimodal(root / "million", modalities=SHARES, **MILLION)[0] if name == "million" else load(name)


def train(
    data: HeteroData, name: str, model: Mapping[str, Any], trainer: Mapping[str, Any], limit: float, folder: Path
) -> list[dict[str, float]]:
    """Train and return the rows of the evaluations, with the seconds and steps up to each.

    Args:
        data: The graph.
        name: The backbone.
        model: Its options.
        trainer: Options of the trainer.
        limit: Seconds of the processor at most.
        folder: Folder of the checkpoint.
    """
    cls = backbones()[name]
    steps = -(-data[RATES].edge_index.size(1) // trainer["batch_size"])
    objective = Objective(build(cls, data, trainer["seed"], **model), **cls.recommended.get("plain", {}))
    fixed = {"eval_every": -(-STEPS // steps), "track_views": False, "checkpoint_dir": folder, "progress": False}
    history = Trainer(**trainer, **fixed, num_negatives=1, callbacks=[Clock(limit)]).fit(objective, data)
    rows, spent = [], 0.0
    for row in history.rows:
        spent += row.get("cpu", 0.0)
        if METRIC in row:
            epoch = int(row["epoch"])
            rows.append({"epoch": epoch, "steps": epoch * steps, "cpu": spent, "val": row[METRIC]})
    return rows


def seconds_to(rows: Sequence[Mapping[str, float]], value: float) -> float | None:
    """Return the seconds after which a curve has a value, or :obj:`None` if it never has.

    Args:
        rows: What :func:`train` returns.
        value: The metric.
    """
    return next((row["cpu"] for row in rows if row["val"] >= value), None)


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbones", nargs="+", default=["LightGCN", "VBPR"], choices=list(backbones()))
    parser.add_argument("--batches", nargs="*", type=int, default=[8192, 32768, 65536])
    parser.add_argument("--scales", nargs="+", default=["sqrt"], choices=list(SCALES))
    parser.add_argument("--warmups", nargs="+", type=int, default=[0], help="steps of warm-up of large batches")
    parser.add_argument("--model", type=json.loads, default={}, help="options of the backbones, JSON")
    parser.add_argument("--patience", type=int, default=1000, help="steps without a rise, of batches of 2,048")
    parser.add_argument("--least", type=int, default=200, help="steps without a rise, of large batches, at the least")
    parser.add_argument("--eval-users", type=int, default=None, help="validation users; all by default")
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/large_batches"))
    args = parser.parse_args()
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for path in args.data:
        data = graph(path, args.out)
        for name in args.backbones:
            for seed in range(args.seeds):
                for row in _compare(args, path, data, name, seed):
                    lines.append("| " + " | ".join(row) + " |")
                    print(lines[-1], flush=True)
    print("\n".join(["", *lines]))


def _compare(args: argparse.Namespace, path: str, data: HeteroData, name: str, seed: int) -> Iterator[tuple[str, ...]]:
    best = backbones()[name].recommended
    model, rate = {**best.get("model", {}), **args.model}, best["trainer"]["lr"]
    target, seconds = 0.0, (0.0, 0.0)
    for batch in (SMALL, *args.batches):
        large = batch > SMALL
        for scale in args.scales if large else ("none",):
            for warmup in args.warmups if large else (0,):
                lr = rate * (batch / SMALL) ** SCALES[scale]
                trainer = {"batch_size": batch, "lr": lr, "warmup_steps": warmup, "seed": seed}
                epochs = args.max_epochs * (batch // SMALL)
                trainer |= {"max_epochs": epochs, "patience": max(args.patience * SMALL // batch, args.least)}
                trainer |= {} if args.eval_users is None else {"eval_users": args.eval_users}
                rows = _kept(args.out, path, data, name, model, trainer, 1.1 * seconds[1] if large else 1e9)
                top = max(rows, key=lambda row: row["val"])
                if not large:
                    target = top["val"]
                found = [seconds_to(rows, share * target) for share in (0.99, 1.0)]
                if not large:
                    seconds = found[0] or 0.0, found[1] or 0.0
                pairs = [
                    text
                    for spent, small in zip(found, seconds, strict=True)
                    for text in (("–", "–") if spent is None else (f"{spent:.0f}", f"{spent / small:.2f}"))
                ]
                each = 1e3 * rows[-1]["cpu"] / rows[-1]["steps"]
                row = [Path(path).stem, name, str(batch), f"{lr:.3g}", str(warmup), str(seed)]
                yield (*row, f"{top['val']:.4f}", str(int(top["epoch"])), f"{each:.0f}", *pairs)


def _kept(
    out: Path,
    path: str,
    data: HeteroData,
    name: str,
    model: dict[str, Any],
    trainer: dict[str, Any],
    limit: float,
) -> list[dict[str, float]]:
    key = json.dumps([model, trainer], sort_keys=True)
    title = f"{Path(path).stem}-{name}-{trainer['batch_size']}-{trainer['lr']:.3g}-{trainer['warmup_steps']}"
    stem = f"{title}-{trainer['seed']}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    file = out / f"{stem}.json"
    if not file.exists():
        torch.set_num_threads(1)
        rows = train(data, name, model, trainer, limit, out / stem)
        write_json(file, {"model": model, "trainer": trainer, "limit": limit, "rows": rows})
    rows = read_json(file)["rows"]
    assert isinstance(rows, list)
    return rows


if __name__ == "__main__":
    main()
