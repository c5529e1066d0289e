"""Three modalities, one of them missing for a third of the items: say so with a mask, and train as always."""

from __future__ import annotations

import argparse

import torch

from pyg_ckd import DistillationWrapper, Trainer, evaluate, train_teachers
from pyg_ckd.data import build_data, item_masks
from pyg_ckd.data.inputs import RATES
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import VBPR


def main() -> None:
    """Build the graph from arrays with a mask, balance a student and compare items with and without the modality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_epochs", type=int, default=20)
    args = parser.parse_args()
    full = synthetic_multimodal(transform="none")
    has = torch.rand(full["item"].num_nodes, generator=torch.Generator().manual_seed(0)) > 1 / 3
    features = {m: full["item"][m].clone() for m in full.modalities}
    features["acoustic"][~has] = 0.0  # What is missing may hold anything finite: it is replaced, never read.
    edges = full[RATES]
    data = build_data(
        edges.edge_index,
        features,
        val=edges.val_edge_index,
        test=edges.test_edge_index,
        num_users=full["user"].num_nodes,
        num_items=full["item"].num_nodes,
        has={"acoustic": has},
    )
    print(f"acoustic is missing for {int((~has).sum())} of {has.numel()} items")

    trainer = Trainer(max_epochs=args.max_epochs, lr=5e-3, track_views=False)
    teachers = train_teachers(VBPR, data, trainer, use_cache=False)
    model = DistillationWrapper(VBPR.from_data(data), teachers, distillation_weight=0.5, has=item_masks(data))
    trainer.fit(model, data)
    print(evaluate(model, data, k=20, metrics=["recall", "ndcg"]))
    print(model.effects.summary())


if __name__ == "__main__":
    main()
