"""Balance a PyG model of your own: a two-layer GraphSAGE recommender over users and items."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import SAGEConv

from pyg_ckd import DistillationWrapper, Trainer, as_backbone, evaluate, train_teachers
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import Backbone


class MyModel(nn.Module):
    """Any module with ``forward(x_dict, edge_index) -> (user, item)`` will do."""

    def __init__(self, num_users: int, feature_dims: dict[str, int], dim: int = 32) -> None:
        super().__init__()
        self.user = nn.Parameter(torch.randn(num_users, dim) / 10)
        self.project = nn.ModuleDict({m: nn.Linear(d, dim) for m, d in feature_dims.items()})
        self.to_user = SAGEConv(dim, dim)
        self.to_item = SAGEConv(dim, dim)

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return user and item embeddings."""
        item = torch.stack([self.project[m](x) for m, x in x_dict.items()]).sum(dim=0)
        user = self.user + self.to_user((item, self.user), edge_index.flip(0)).relu()
        return user, item + self.to_item((user, item), edge_index).relu()


def build(data: HeteroData) -> Backbone:
    """Return a new model for a graph."""
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    return as_backbone(MyModel(data["user"].num_nodes, dims), data)


def main() -> None:
    """Train teachers and a balanced student, and show what each modality contributes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_epochs", type=int, default=30)
    args = parser.parse_args()
    data = synthetic_multimodal()
    trainer = Trainer(max_epochs=args.max_epochs, lr=3e-3)
    teachers = train_teachers(build, data, trainer, use_cache=False)
    model = DistillationWrapper(build(data), teachers, distillation_weight=0.1)
    trainer.fit(model, data)
    print(evaluate(model, data, k=20, metrics=["recall", "ndcg"]))
    print(model.effects.summary())


if __name__ == "__main__":
    main()
