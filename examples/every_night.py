"""A shop's nights: train on what there is, begin with yesterday's model, serve, export.

``python -m examples.every_night --out nights`` plays three nights of a growing synthetic shop. Every night has a folder
with the model, the lists of all users and what was measured: Recall@20 on the clicks of the next day, beside popularity
and a model that trains for one epoch from scratch. The first night trains for ``--first-epochs`` epochs, the others for
``--max-epochs`` from the model of the night before. Killed at any moment, the same call goes on: finished nights are
left as they are, and the night that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from examples.growing import Shop, graph_of, grow
from pyg_ckd import Objective, Trainer
from pyg_ckd.evaluation import Evaluator, embed, fit_baseline
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import backbones
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model

METRIC = "recall@20"
FIRST, DAYS = 2, 12
"""The day after which the first night is, counted from 0, and the number of days."""
MODEL, LISTS, DONE = "model.pt", "lists.parquet", "metrics.json"


def graphs_of(shop: Shop, day: int, earlier: HeteroData | None) -> tuple[HeteroData, HeteroData]:
    """Return what is known in the night after a day, and the same with the clicks of the next day to be measured with.

    Args:
        shop: The shop.
        day: The day. A tenth of all clicks is the validation part.
        earlier: The graph of the night before.
    """
    clicks, tomorrow = shop.of_days(0, day), shop.of_days(day + 1, day + 1)
    held = np.random.default_rng(day).random(len(clicks)) < 0.1
    parts: tuple[pd.DataFrame, pd.DataFrame] = (clicks[~held], clicks[held])
    return graph_of(shop, day, *parts, earlier=earlier), graph_of(shop, day, *parts, tomorrow, earlier)


def night(folder: Path, data: HeteroData, tomorrow: HeteroData, start_from: Path | None, args: Any) -> dict[str, Any]:
    """Train, save, serve and measure; return what was measured.

    Args:
        folder: Where everything of the night goes. ``metrics.json`` comes last: it says that the night is finished.
        data: What is known.
        tomorrow: The same with the clicks of the next day.
        start_from: The model of the night before, or :obj:`None` on the first night.
        args: The arguments of the command.
    """
    cls, epochs = backbones()[args.backbone], args.first_epochs if start_from is None else args.max_epochs
    options: dict[str, Any] = {
        "lr": args.lr,
        "batch_size": 256,
        "seed": args.seed,
        "track_views": False,
        "progress": False,
    }
    model = Objective(build(cls, data, args.seed))
    history = Trainer(max_epochs=epochs, checkpoint_dir=folder, **options).fit(model, data, start_from)
    save_model(folder / MODEL, model, data)
    recommender = Recommender.load(folder / MODEL, data)
    recommender.export_top_k(folder / LISTS, k=20)

    cold = Objective(build(cls, data, args.seed))
    Trainer(max_epochs=1, **options).fit(cold, data)
    measure = Evaluator(tomorrow, "test", 20, ["recall"])
    found = {
        "model": measure(recommender.embeddings)[METRIC],
        "one cold epoch": measure(embed(cold, data)[0])[METRIC],
        "popularity": measure(fit_baseline("popularity", data).embeddings)[METRIC],
    }
    sizes = {f"{kind}s": data[kind].num_nodes for kind in ("user", "item")}
    record = {**sizes, "epochs": len(history.rows), **found}
    write_json(folder / DONE, record)
    (folder / "last.pt").unlink(missing_ok=True)
    return record


def main(arguments: list[str] | None = None) -> None:
    """Play the nights that are not finished, and print a table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("nights"))
    parser.add_argument("--backbone", default="VBPR", choices=list(backbones()))
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--first-epochs", type=int, default=20)
    parser.add_argument("--max-epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if not 1 <= args.nights <= DAYS - FIRST - 1:
        parser.error(f"--nights: found {args.nights}, expected 1 to {DAYS - FIRST - 1}")
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "nights")}
    kept = read_json(args.out / "settings.json")
    if kept is not None and kept != settings:
        parser.error(f"{args.out}: found nights of other settings, {kept}, expected {settings}; choose another --out")
    write_json(args.out / "settings.json", settings)
    shop = grow(args.users, args.users * 4 // 5, days=DAYS, seed=args.seed)
    print("| night | users | items | epochs | model | one cold epoch | popularity |")
    print("|" + " --- |" * 7)
    data: HeteroData | None = None
    for number in range(1, args.nights + 1):
        folder, before = args.out / f"night-{number}", args.out / f"night-{number - 1}" / MODEL
        data, tomorrow = graphs_of(shop, FIRST + number - 1, data)
        record = read_json(folder / DONE)
        if record is None:
            record = night(folder, data, tomorrow, before if number > 1 else None, args)
        cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in record.values()]
        print(f"| {number} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
