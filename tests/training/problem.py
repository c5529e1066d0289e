"""An easy planted problem and short runs on it."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data import build_data
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer, build

USERS, ITEMS = 40, 30


def planted_data(seed: int = 0, shift: float = 0.0) -> HeteroData:
    """Users like the items of their own half, which the visual features tell apart and the textual ones do not."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for user in range(USERS):
        liked = rng.permutation(np.arange(user % 2, ITEMS, 2))
        splits["train"] += [(user, int(i)) for i in liked[:6]]
        splits["val"] += [(user, int(i)) for i in liked[6:8]]
        splits["test"] += [(user, int(i)) for i in liked[8:10]]
    side = np.where(np.arange(ITEMS) % 2 == 0, 1.0, -1.0)[:, None]
    features = {
        "visual": side * np.ones((1, 4)) + 0.1 * rng.normal(size=(ITEMS, 4)) + shift,
        "textual": rng.normal(size=(ITEMS, 3)),
    }
    edges = {name: np.array(pairs).T for name, pairs in splits.items()}
    return build_data(edges["train"], features, val=edges["val"], test=edges["test"], num_users=USERS, transform="none")


def trainer(**options) -> Trainer:
    defaults = {"max_epochs": 6, "batch_size": 64, "lr": 0.02, "monitor": "recall@5", "device": "cpu"}
    return Trainer(**(defaults | {"progress": False} | options))


def teachers(seed: int = 3) -> dict[str, Embeddings]:
    generator = torch.Generator().manual_seed(seed)
    return {
        m: Embeddings(torch.randn(USERS, 4, generator=generator), torch.randn(ITEMS, 4, generator=generator))
        for m in ("visual", "textual")
    }


def distilled(data: HeteroData, seed: int = 0, **options) -> DistillationWrapper:
    student = build(VBPR, data, seed, embedding_dim=4)
    return DistillationWrapper(student, teachers(), num_random_triples=20, **options)


def same_bits(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
