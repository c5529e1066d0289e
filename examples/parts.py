"""Compare the default backbone with closed forms on parts of a data set, which nobody chose settings on.

``python -m examples.parts --data FILE --users 400`` keeps some users, ``--share 0.3`` some of the training
interactions, both drawn with ``--seed`` and with the first interaction of every user kept, and ``--modalities NAME...``
some modalities. ``--no-content`` gives all items the same features, so that what a model has is from interactions, and
``--model temperature=0.2`` sets options of the backbone. It prints validation and test Recall@20 of EASE, EASE with
content and the backbone, with a star if its training had not converged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
import yaml
from torch_geometric.data import HeteroData

from examples.defaults import METRIC, fit, marked, train
from pyg_ckd.data import build_data, held_out
from pyg_ckd.datasets import load
from pyg_ckd.nn import backbones


def part(
    data: HeteroData, users: int | None, share: float, modalities: Sequence[str] | None, seed: int = 0
) -> HeteroData:
    """Return a part of a graph.

    Args:
        data: The graph, its features as they were read.
        users: How many users to keep; :obj:`None` keeps all.
        share: The share of training interactions to keep, above 0.
        modalities: The modalities to keep; :obj:`None` keeps all.
        seed: Seeds what is drawn.
    """
    rng, num_users = np.random.default_rng(seed), data["user"].num_nodes
    kept = np.sort(rng.permutation(num_users)[: users or num_users])
    place = np.full(num_users, -1)
    place[kept] = np.arange(len(kept))
    edges = {}
    for split in ("train", "val", "test"):
        user, item = held_out(data, split).numpy()
        edges[split] = np.stack([place[user], item])[:, place[user] >= 0]
    drawn = rng.random((edges["train"].shape[1],))
    drawn[np.unique(edges["train"][0], return_index=True)[1]] = 0
    features = {m: data["item"][m].numpy() for m in modalities or data.modalities}
    has = {m: data["item"][f"has_{m}"].numpy() for m in features if f"has_{m}" in data["item"]}
    sizes = {"num_users": len(kept), "num_items": data["item"].num_nodes}
    kept_edges = edges["train"][:, drawn < share]
    return build_data(kept_edges, features, val=edges["val"], test=edges["test"], has=has, **sizes)


def main() -> None:
    """Cut, fit and train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--users", type=int)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--modalities", nargs="+")
    parser.add_argument("--no-content", action="store_true")
    parser.add_argument("--backbone", default="FISM", choices=list(backbones()))
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if wrong := [given for given in args.model if "=" not in given]:
        parser.error(f"--model: found {wrong[0]!r}, expected NAME=VALUE, such as temperature=0.2")
    model = {name: yaml.safe_load(value) for name, value in (given.split("=", 1) for given in args.model)}
    data = part(load(args.data, transform="none"), args.users, args.share, args.modalities, args.seed)
    if args.no_content:
        for m in data.modalities:
            data["item"][m] = torch.ones(data["item"].num_nodes, 1)
    print(f"| model | validation | test {METRIC} |\n| --- | --- | --- |")
    for name in ("ease", *(() if args.no_content else ("ease-content",)), args.backbone):
        closed = name != args.backbone
        found = (fit(data, name) if closed else train(data, name, 0, args.seed, args.max_epochs, model=model))[0]
        print(f"| {name} | {found['val']:.4f} | {marked(f'{found[METRIC]:.4f}', found)} |", flush=True)


if __name__ == "__main__":
    main()
