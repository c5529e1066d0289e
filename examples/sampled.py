"""Compare training on sampled neighbourhoods with training on the whole graph.

``python -m examples.sampled --data tiktok.npz --out DIR`` trains both ways with several seeds, and prints the metric on
the validation and the test part, seconds of the processor per epoch, and how many negatives a user has met: of the
triples that are trained on, and of those that PyG's ``LinkNeighborLoader`` draws. Runs that are in ``DIR`` already are
not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkNeighborLoader

from pyg_ckd import Objective, Trainer, evaluate
from pyg_ckd.data import TripletSampler, training_graph
from pyg_ckd.data.inputs import RATES
from pyg_ckd.datasets import load
from pyg_ckd.files import write_json
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

HEAD = ("backbone", "graph", "seeds", "validation", "test", "of the whole graph's", "epochs", "s/epoch")


def main() -> None:
    """Train, count, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbones", nargs="+", default=["LightGCN", "EarlyFusionLightGCN"])
    parser.add_argument("--num-neighbors", nargs="+", type=int, default=[10, 10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--eval-every", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2048)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = load(args.data)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    ways = {"whole": None, "sampled": args.num_neighbors}
    for seed in range(args.seeds):  # All of one seed first, so that what is there can be compared early.
        for name in args.backbones:
            for way, num_neighbors in ways.items():
                file = args.out / f"{name}-{way}-{seed}.json"
                if not file.exists():
                    write_json(file, train(data, name, num_neighbors, seed, args))
                runs.setdefault((name, way), []).append(json.loads(file.read_text()))
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for (name, way), found in runs.items():
        mean = {key: statistics.mean(run[key] for run in found) for key in found[0]}
        base = statistics.mean(run["test"] for run in runs[name, "whole"])
        spread = [statistics.stdev([run[key] for run in found]) if len(found) > 1 else 0.0 for key in ("val", "test")]
        row = [name, "whole" if way == "whole" else str(args.num_neighbors), str(len(found))]
        row += [f"{mean[key]:.4f} ± {s:.4f}" for key, s in zip(("val", "test"), spread, strict=True)]
        row += [f"{mean['test'] / base:.3f}", f"{mean['epochs']:.0f}", f"{mean['seconds']:.2f}"]
        print(f"| {' | '.join(row)} |")
    ours, theirs = false_negatives(data, args.num_neighbors, args.batch_size)
    print(f"\nNegatives that a user has met: {ours} of this library's, {theirs} of LinkNeighborLoader's.")


def train(
    data: HeteroData, name: str, num_neighbors: list[int] | None, seed: int, args: argparse.Namespace
) -> dict[str, float]:
    """Return the best validation, its test metric, the number of epochs and seconds of the processor for each."""
    cls = backbones()[name]
    best = cls.recommended
    objective = Objective(build(cls, data, seed, num_layers=len(args.num_neighbors)), **best.get("plain", {}))
    options = {**best.get("trainer", {}), "max_epochs": args.max_epochs, "eval_every": args.eval_every, "seed": seed}
    options |= {"num_negatives": 1, "track_views": False, "device": "cpu", "progress": False}
    trainer = Trainer(**options, num_neighbors=num_neighbors)
    start = time.process_time()
    history = trainer.fit(objective, data)
    seconds = (time.process_time() - start) / len(history.rows)
    test = evaluate(objective, data, split="test", k=[20], metrics="recall")["recall@20"]
    return {"val": history.best_value, "test": test, "epochs": len(history.rows), "seconds": seconds}


def false_negatives(data: HeteroData, num_neighbors: list[int], batch_size: int) -> tuple[str, str]:
    """Return how many negatives of an epoch their users have met, of our triples and of PyG's loader."""
    sizes = data["user"].num_nodes, data["item"].num_nodes
    met = (data[RATES].edge_index[0] * sizes[1] + data[RATES].edge_index[1]).unique()

    def count(user: Tensor, negative: Tensor) -> tuple[int, int]:
        return int(torch.isin(user * sizes[1] + negative, met).sum()), user.numel()

    ours = [count(b.user, b.negative) for b in TripletSampler(data[RATES].edge_index, *sizes, batch_size)]
    graph = training_graph(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = LinkNeighborLoader(
            graph,
            num_neighbors,
            edge_label_index=(RATES, graph[RATES].edge_index),
            neg_sampling="triplet",
            batch_size=batch_size,
        )
        theirs = []
        for batch in loader:
            user = batch["user"].n_id[batch["user"].src_index]
            theirs.append(count(user, batch["item"].n_id[batch["item"].dst_neg_index]))
    totals = [[sum(column) for column in zip(*found, strict=True)] for found in (ours, theirs)]
    first, second = (f"{bad} of {total} ({bad / total:.1%})" for bad, total in totals)
    return first, second


if __name__ == "__main__":
    main()
