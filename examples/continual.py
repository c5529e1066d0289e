"""Continual learning on a temporal split: what one more period of clicks costs old users, and what it gains.

``python -m examples.continual --seeds 5`` trains a model on the first days of a growing shop. Then it trains on the
clicks of the following days alone, for ``--max-epochs`` epochs: a new model, the same model plainly, and the same model
with the strategy ``incremental``; and, beside them, a new and the same model on the clicks of all days. The table shows
Recall@20 on held-out clicks of the first days, by users who were there then, and on the day after the last one, there
also by users and on items that are new. ``--split val`` measures on the validation parts.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch_geometric.data import HeteroData

from examples.growing import graph_of, grow, rows_of
from pyg_ckd import Objective, Trainer
from pyg_ckd.balance import Incremental
from pyg_ckd.data import RATES, Embeddings, held_out
from pyg_ckd.evaluation import Evaluator, embed
from pyg_ckd.evaluation.statistics import mean_std, paired_test
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

METRIC = "recall@20"
COLUMNS = ("old users, first days", "next day", "returning users", "new users", "new items")
DAYS = 8


def graphs_of(seed: int, size: int) -> tuple[HeteroData, HeteroData, HeteroData]:
    """Return the graph of the first days, that of the following ones, and that of both; the last day is held out.

    Args:
        seed: Seed of the shop.
        size: Number of users in the end; there are four fifths as many items.
    """
    shop = grow(size, size * 4 // 5, DAYS, drift=0.3, quiet=0.4, seed=seed)
    first, following, last = (
        shop.of_days(*days) for days in ((0, DAYS // 2 - 1), (DAYS // 2, DAYS - 2), (DAYS - 1,) * 2)
    )
    rng = np.random.default_rng(seed)
    share, half = rng.random(len(first)), rng.random(len(last)) < 0.5
    train, held = first[share < 0.8], (last[half], last[~half])
    old = graph_of(shop, DAYS // 2 - 1, train, first[(share >= 0.8) & (share < 0.9)], first[share >= 0.9])
    new = graph_of(shop, DAYS - 2, following, *held, earlier=old)
    both = graph_of(shop, DAYS - 2, pd.concat([train, following]), *held, earlier=old)
    return old, new, both


class Measure:
    """Measures a model on what is held out of both periods.

    Args:
        old: The graph of the first days.
        both: The graph of all days.
        split: ``"val"`` or ``"test"``.
    """

    def __init__(self, old: HeteroData, both: HeteroData, split: str) -> None:
        self.old, self.rows = old, rows_of(both, old)
        self.first, self.next = (Evaluator(data, split, 20, ["recall"]) for data in (old, both))
        only_new, name = both.clone(), f"{split}_edge_index"
        edges = held_out(both, split)
        only_new[RATES][name] = edges[:, ~torch.isin(edges[1], self.rows[1])]
        self.items = Evaluator(only_new, split, 20, ["recall"])

    def __call__(self, model: nn.Module, data: HeteroData) -> tuple[list[float], np.ndarray]:
        """Return a number for every column, and the recall of every old user of the first days.

        Args:
            model: The model.
            data: The graph that it was trained on, with the users and items of both periods.
        """
        tables = embed(model, data)[0]
        old = self.first(Embeddings(*(x[rows] for x, rows in zip(tables, self.rows, strict=True))), per_user=True)
        after = self.next(tables, per_user=True)
        assert old.per_user is not None
        assert after.per_user is not None
        users = after.per_user[METRIC]
        known = users.index.isin(self.rows[0].numpy())
        found = [old[METRIC], after[METRIC], users[known].mean(), users[~known].mean(), self.items(tables)[METRIC]]
        return [float(x) for x in found], old.per_user[METRIC].to_numpy()


def run(seed: int, args: argparse.Namespace) -> dict[str, tuple[list[float], np.ndarray]]:
    """Train all models for one seed and measure them."""
    cls = backbones()[args.backbone]
    old, new, both = graphs_of(seed, args.users)
    measure = Measure(old, both, args.split)
    options: dict[str, Any] = {"lr": args.lr, "batch_size": 256, "num_negatives": 1, "seed": seed}
    options |= {"track_views": False, "progress": False}
    yesterday = Objective(build(cls, old, seed))
    Trainer(max_epochs=args.first_epochs, patience=300, **options).fit(yesterday, old)
    before = measure.first(embed(yesterday, old)[0], per_user=True)
    assert before.per_user is not None
    empty = [float("nan")] * (len(COLUMNS) - 1)
    found = {"the earlier model": ([before[METRIC], *empty], before.per_user[METRIC].to_numpy())}

    def train(name: str, data: HeteroData, objective: Objective, start: Any = None) -> None:
        Trainer(max_epochs=args.max_epochs, **options).fit(objective, data, start)
        found[name] = measure(objective, data)

    train("from scratch", new, Objective(build(cls, new, seed)))
    train("plain fine-tuning", new, Objective(build(cls, new, seed)), yesterday)
    chosen = dict(pair.split("=") for pair in args.options)
    options_of: dict[str, Any] = {name: float(value) for name, value in chosen.items()}
    train("incremental", new, Incremental(build(cls, new, seed), **options_of), yesterday)
    train("from scratch, all clicks", both, Objective(build(cls, both, seed)))
    train("warm start, all clicks", both, Objective(build(cls, both, seed)), yesterday)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="VBPR", choices=list(backbones()))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--first-epochs", type=int, default=40)
    parser.add_argument("--max-epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--options", nargs="*", default=[], help="of the strategy, such as rehearsal=0.3")
    args = parser.parse_args(arguments)
    runs = [run(seed, args) for seed in range(args.seeds)]
    print(f"| model | {' | '.join(COLUMNS)} |")
    print("|" + " --- |" * (len(COLUMNS) + 1))
    for name in runs[0]:
        cells = []
        for column in range(len(COLUMNS)):
            value, deviation = mean_std([found[name][0][column] for found in runs])
            cells.append("–" if np.isnan(value) else f"{value:.3f} ± {deviation:.3f}")
        print(f"| {name} | {' | '.join(cells)} |")
    pairs = [np.concatenate([found[name][1] for found in runs]) for name in ("incremental", "plain fine-tuning")]
    test = paired_test(pairs[0], pairs[1])
    gain = pairs[0].mean() - pairs[1].mean()
    print(f"\nold users, incremental against plain fine-tuning: {gain:+.4f}, p = {test.p_value:.2g}")


if __name__ == "__main__":
    main()
