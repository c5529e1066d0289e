"""Train a backbone with several learning rates and print where and why each training ended.

``python -m examples.stopping --data FILE... --backbone MGCN --lr 0.001 0.003 0.01`` shows whether the stopping rule
tells a dip from an end: the validation metric of the first evaluation, the lowest one, the best one, and the reason.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pyg_ckd import Objective, Trainer
from pyg_ckd.datasets import load
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

HEAD = ("data", "backbone", "lr", "first", "lowest", "best", "best epoch", "epochs", "converged", "ended by")


def main() -> None:
    """Train and print a row for every learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbone", default="MGCN", choices=list(backbones()))
    parser.add_argument("--lr", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--extend", type=int, default=4)
    args = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    cls = backbones()[args.backbone]
    best = cls.recommended
    for path in args.data:
        data = load(path)
        for lr in args.lr:
            options = {**best.get("trainer", {}), "lr": lr, "max_epochs": args.max_epochs, "extend": args.extend}
            objective = Objective(build(cls, data, 0, **best.get("model", {})), **best.get("plain", {}))
            history = Trainer(**options, track_views=False).fit(objective, data)
            curve = [row["val/recall@20"] for row in history.rows if "val/recall@20" in row]
            numbers = [f"{value:.4f}" for value in (curve[0], min(curve), max(curve))]
            row = [Path(path).stem, args.backbone, f"{lr:g}", *numbers, str(history.best_epoch), str(len(history.rows))]
            print(f"| {' | '.join([*row, str(history.converged), history.stopped])} |", flush=True)


if __name__ == "__main__":
    main()
