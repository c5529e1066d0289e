"""What the suite trains: real data or a stand-in of its size, random graphs of any size, and single training steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.datasets import SyntheticMultimodal, load
from pyg_ckd.nn import Backbone
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import RowAdam
from pyg_ckd.training.groups import parameter_groups

DIMS = 128
SMALL = 16
"""Users and items of the models that only tell how wide a teacher is."""
BATCH_SIZE = 2048
TIKTOK: dict[str, Any] = {"num_users": 9308, "num_items": 6710, "num_interactions": 74354}
"""Sizes of the TikTok graph; four fifths of a synthetic graph's interactions are for training."""


def real_or_synthetic(path: str | None) -> tuple[HeteroData, str]:
    """Return the TikTok graph, or a synthetic one of the same size, and a sentence that says which.

    Args:
        path: A data file; :obj:`None` looks for ``tiktok.npz`` where the variable ``PYG_CKD_DATA`` points to.
    """
    place = Path(path or os.environ.get("PYG_CKD_DATA") or "tiktok.npz")
    file = place if path else place / "tiktok.npz" if place.is_dir() else place
    if file.exists():
        data, origin = load(file), file.name
    else:
        data = SyntheticMultimodal(modalities={"visual": 0.6, "acoustic": 0.4}, dim=DIMS, **TIKTOK)[0]
        origin = f"no data file {file}, a synthetic graph of TikTok's size instead"
    widths = ", ".join(f"{m} {data['item'][m].size(1)}" for m in data.modalities)
    counts = f"{data['user'].num_nodes} users, {data['item'].num_nodes} items, {data[RATES].edge_index.size(1)}"
    return data, f"{origin}: {counts} training interactions, {widths}"


def random_interactions(count: int, seed: int = 0) -> tuple[Tensor, int, int]:
    """Return random distinct interactions ``[2, E]``, number of users and number of items.

    A user has ten interactions on average and an item twenty-five; few items have many, and their ids tell nothing
    about it. ``E`` is ``count`` less the few percent that were drawn twice.

    Args:
        count: Interactions to draw.
        seed: Seed of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    num_users, num_items = max(2, count // 10), max(2, count // 25)
    user = torch.randint(num_users, (count,), generator=generator)
    popular = (torch.rand(count, generator=generator, dtype=torch.float64) ** 2 * num_items).long()
    item = torch.randperm(num_items, generator=generator)[popular]
    key = torch.unique(user * num_items + item)
    key = key[torch.randperm(key.numel(), generator=generator)]
    return torch.stack([key.div(num_items, rounding_mode="floor"), key % num_items]), num_users, num_items


class Problem(NamedTuple):
    """Features and training interactions on a device.

    Attributes:
        features: From modality to feature matrix ``[I, d_m]``.
        edge_index: Training interactions, int64 ``[2, E]``.
        num_users: Number of users.
        num_items: Number of items.
    """

    features: dict[str, Tensor]
    edge_index: Tensor
    num_users: int
    num_items: int

    @classmethod
    def of(cls, data: HeteroData, device: torch.device) -> Problem:
        """Unpack a graph."""
        features, edges = unpack(data, device)
        return cls(features, edges[RATES], data["user"].num_nodes, data["item"].num_nodes)

    @classmethod
    def random(cls, interactions: int, device: torch.device, modalities: int = 2, dims: int = DIMS) -> Problem:
        """Draw interactions, see :func:`random_interactions`, and normal features."""
        edge_index, num_users, num_items = random_interactions(interactions)
        return cls({}, edge_index.to(device), num_users, num_items).with_random_features(modalities, dims)

    def with_random_features(self, modalities: int, dims: int = DIMS) -> Problem:
        """Return the same interactions with other features."""
        device = self.edge_index.device
        generator = torch.Generator(device).manual_seed(0)
        size = (self.num_items, dims)
        names = [f"modality{m}" for m in range(modalities)]
        return self._replace(features={m: torch.randn(size, generator=generator, device=device) for m in names})

    def objective(self, backbone: type[Backbone], strategy: type[Objective] = Objective, **options: Any) -> Objective:
        """Return a strategy around a backbone with its recommended sizes.

        Teachers are random tables as wide as those that such a backbone would be the teacher with.

        Args:
            backbone: The backbone.
            strategy: The strategy, with its defaults.
            **options: Options of the backbone beyond the recommended ones.
        """
        torch.manual_seed(0)
        dims = {m: x.size(1) for m, x in self.features.items()}
        options = {**backbone.recommended.get("model", {}), **options}
        student = backbone(self.num_users, self.num_items, dims, **options)
        if not strategy.needs_teachers:
            return strategy(student)
        sizes = self.num_users, self.num_items
        widths = _teacher_widths(backbone, dims, options)
        teachers = {m: Embeddings(*(0.1 * torch.randn(n, width) for n in sizes)) for m, width in widths.items()}
        return strategy(student, teachers)  # type: ignore[arg-type]


def _teacher_widths(backbone: type[Backbone], dims: dict[str, int], options: dict[str, Any]) -> dict[str, int]:
    """Return the width of what is kept of every modality's teacher, from teachers of a few users and items."""
    generator = torch.Generator().manual_seed(0)
    features = {m: torch.randn(SMALL, d, generator=generator) for m, d in dims.items()}
    edges = {RATES: torch.arange(SMALL).repeat(2, 1)}
    student = backbone(SMALL, SMALL, dims, **options)
    with torch.no_grad():
        teachers = dict(zip(dims, student.forward_views(features, edges, [[m] for m in dims]), strict=True))
    wrapper = DistillationWrapper(student, teachers)
    return {m: wrapper.teacher(m).item.size(1) for m in dims}


class Steps:
    """Training steps on whole batches as the trainer makes them, one at each call, over as many epochs as it takes.

    Args:
        problem: Features and interactions.
        objective: What is trained.
        batch_size: Triples in a step.
    """

    def __init__(self, problem: Problem, objective: Objective, batch_size: int = BATCH_SIZE) -> None:
        self.features = problem.features
        self.objective = objective.to(problem.edge_index.device).train()
        graph = objective.prepare(self.features, {RATES: problem.edge_index})
        self.graph = objective.begin_epoch(self.features, graph)
        self.optimizer = RowAdam(parameter_groups(objective), lr=1e-3, fused=True)
        self.batch_size, self.num_interactions = batch_size, problem.edge_index.size(1)
        sizes = (problem.num_users, problem.num_items, batch_size, objective.num_random_triples)
        self.sampler = TripletSampler(problem.edge_index, *sizes, shuffle=objective.student.shuffle)
        self._batches = self._endless()

    def _endless(self) -> Iterator[TripletBatch]:
        whole = min(self.batch_size, self.num_interactions)
        while True:  # The last batch of an epoch is a small one, whose step would be the shortest of all.
            yield from (batch for batch in self.sampler if batch.user.numel() == whole)

    def draw(self) -> TripletBatch:
        """Return the next batch."""
        return next(self._batches)

    def __call__(self) -> None:
        """Draw a batch and take a step on it."""
        self.take(self.draw())

    def take(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Compute the loss of a batch and its gradients, update the parameters, and return the terms.

        Args:
            batch: The triples.
        """
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective.loss(self.features, self.graph, batch)
        self.objective.backward(terms, lambda loss, **options: loss.backward(**options))
        self.optimizer.step()
        return terms
