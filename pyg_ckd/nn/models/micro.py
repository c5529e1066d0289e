"""MICRO for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Inputs, check_size, mean_row
from pyg_ckd.nn.models.lattice import LatentStructure
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import DetailedEmbeddings
from pyg_ckd.scoring.views import View

_BLOCK_BYTES = 64 * 2**20  # Similarities held at once by `fusion_contrast`.


class MICRO(LatentStructure):
    r"""LightGCN on top of one learned item-item graph per modality, fused item by item.

    From `"Latent Structure Mining with Contrastive Modality Fusion for Multimedia Recommendation"
    <https://arxiv.org/abs/2111.00678>`_. With the learned graphs :math:`\tilde{\mathbf{A}}_m` of
    :class:`LatentStructure` and :math:`\mathbf{Q}` the id embeddings of the items,

    .. math::
        \mathbf{H}_m &= \tilde{\mathbf{A}}_m^T \mathbf{Q}, \qquad
        \alpha_{im} = \textrm{softmax}_m \left( \mathbf{q}^\top
        \tanh ( \mathbf{W} \mathbf{h}_{im} + \mathbf{b} ) \right)

        \mathbf{h}_i &= \sum_m \alpha_{im} \mathbf{h}_{im}, \qquad
        \mathbf{x}_i = \mathbf{z}_i + \mathbf{h}_i / \lVert \mathbf{h}_i \rVert_2

        \mathcal{L}_C &= - \sum_m \underset{i}{\textrm{mean}} \; \ln \frac{e(\mathbf{h}_{im}, \mathbf{h}_i)}
        {e(\mathbf{h}_{im}, \mathbf{h}_i)
        + \sum_{j \neq i} e(\mathbf{h}_{im}, \mathbf{h}_j) + e(\mathbf{h}_{im}, \mathbf{h}_{jm})}, \qquad
        e(\mathbf{x}, \mathbf{y}) = \exp ( \cos(\mathbf{x}, \mathbf{y}) / \tau )

    and the loss :math:`\mathcal{L}_{BPR} + \beta \mathcal{L}_C`. Early fusion: the modalities meet before the scores.
    In a view, the graph of a modality that is intervened on is that of identical items, in which every item's
    neighbourhood is the uniform mean over all items, so that :math:`\mathbf{h}_{im}` is the same row for all items and
    has no term in :math:`\mathcal{L}_C`. Users and the part :math:`\mathbf{z}` are the same in all views.

    The published code runs LightGCN over the row-normalised graph with self-loops and keeps negative similarities.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers of :class:`LightGCN`.
        num_item_layers: Number of layers :math:`T` over the item-item graphs; with 0, content changes no embedding.
        latent_dim: Width that features are projected to.
        num_neighbors: Number of neighbours :math:`k` of an item, including itself; all items if there are fewer.
        skip_weight: Weight :math:`\lambda` of the graphs of raw features.
        keep_negative: Whether negative similarities stay among the :math:`k` largest, as in the published code.
        contrast_weight: :math:`\beta`.
        temperature: :math:`\tau`.
        contrast_items: Items :math:`i` in the mean of :math:`\mathcal{L}_C`, drawn anew in every step; :obj:`None`
            takes all, as the paper does. All items :math:`j` stay in the denominators, so that the expected loss and
            gradient are the same, at ``contrast_items / num_items`` of the cost.
        symmetric: Whether the contrastive loss :math:`\mathcal{L}_C` is the mean over both directions, with
            :math:`\mathbf{h}_i` and :math:`\mathbf{h}_{im}` swapped in the second. The published code has the first.

    Raises:
        InputError: If a size is not positive, there is no modality, or a number is out of its range.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"contrast_items": 512},
        "trainer": {"lr": 1e-3, "batch_size": 4096},
        "plain": {"l2": 1e-3},
        "teacher": {"l2": 1e-3},
        "distillation": {"l2": 1e-3, "distillation_weight": 0.01},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        latent_dim: int = 64,
        num_neighbors: int = 10,
        skip_weight: float = 0.9,
        keep_negative: bool = False,
        contrast_weight: float = 0.03,
        temperature: float = 0.5,
        contrast_items: int | None = None,
        symmetric: bool = False,
    ) -> None:
        structure = (num_item_layers, latent_dim, num_neighbors, skip_weight, keep_negative)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers, *structure)
        if not 0 <= contrast_weight < float("inf"):
            raise InputError(f"contrast_weight: found {contrast_weight}, expected a number of zero or more")
        if not 0 < temperature < float("inf"):
            raise InputError(f"temperature: found {temperature}, expected a positive number")
        if contrast_items is not None:
            check_size("contrast_items", contrast_items)
        self.contrast_weight, self.temperature = contrast_weight, temperature
        self.contrast_items, self.symmetric = contrast_items, symmetric
        self.query = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.Tanh(), nn.Linear(embedding_dim, 1, bias=False)
        )

    def items(self, views: Sequence[View], inputs: Inputs) -> Mapping[View, Mapping[str, Tensor]]:
        r"""Return :math:`\mathbf{H}` and :math:`\boldsymbol{\alpha}` of every view and the :math:`\mathbf{H}_m` in it.

        :math:`\mathbf{H}_m` is the same in all views that have it.
        """
        rows: dict[tuple[str, bool], Tensor] = {}
        for m in self.modalities:
            if any(m in view for view in views):
                graph = self.item_graph(m, inputs)
                x: Tensor = self.item_embedding
                for _ in range(self.num_item_layers):
                    x = graph.matmul(x)
                rows[m, True] = x
            if any(m not in view for view in views):
                rows[m, False] = mean_row(self.item_embedding) if self.num_item_layers else self.item_embedding
        scores = {key: self.query(x).expand(self.num_items, 1) for key, x in rows.items()}
        out = {}
        for view in views:
            keys = [(m, m in view) for m in self.modalities]
            alpha = torch.cat([scores[key] for key in keys], dim=1).softmax(dim=1)
            fused = [weight * rows[key] for weight, key in zip(alpha.split(1, dim=1), keys, strict=True)]
            h = torch.stack(fused).sum(dim=0)
            out[view] = {"h": h, "alpha": alpha} | {f"h/{m}": rows[m, True] for m in self.modalities if m in view}
        return out

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        r"""Return BPR and, for every factual modality, its term in :math:`\mathcal{L}_C` times :math:`\beta`.

        Args:
            out: The output of the trained view.
            batch: The triples.
            features: From modality to the full feature matrix ``[I, d_m]``.
            view: The trained view.
            bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`.
        """
        terms = super().losses(out, batch, features, view, bpr_eps)
        if self.contrast_weight == 0:
            return terms
        parts = cast(DetailedEmbeddings, out).parts
        anchors = None
        if self.contrast_items is not None and self.contrast_items < self.num_items:
            anchors = torch.randperm(self.num_items, device=parts["h"].device)[: self.contrast_items]
        for m in self.modalities:
            if f"h/{m}" in parts:
                terms[f"contrast/{m}"] = self.contrast_weight * self._contrast(parts[f"h/{m}"], parts["h"], anchors)
        return terms

    def _contrast(self, modality: Tensor, fused: Tensor, anchors: Tensor | None) -> Tensor:
        loss = contrast(modality, fused, self.temperature, anchors)
        if not self.symmetric:
            return loss
        return (loss + contrast(fused, modality, self.temperature, anchors)) / 2


def contrast(
    x: Tensor, y: Tensor, temperature: float, anchors: Tensor | None = None, block_size: int | None = None
) -> Tensor:
    r"""Contrast every row of ``x`` with its counterpart in ``y`` against all other rows of both.

    .. math::
        - \underset{i}{\textrm{mean}} \; \ln \frac{e(\mathbf{x}_i, \mathbf{y}_i)}{e(\mathbf{x}_i, \mathbf{y}_i)
        + \sum_{j \neq i} e(\mathbf{x}_i, \mathbf{y}_j) + e(\mathbf{x}_i, \mathbf{x}_j)}, \qquad
        e(\mathbf{x}, \mathbf{y}) = \exp ( \cos(\mathbf{x}, \mathbf{y}) / \tau )

    The similarities are computed block by block, and with them the gradient, so that none is computed twice or kept.

    Args:
        x: Rows ``[N, D]``.
        y: Their counterparts ``[N, D]``.
        temperature: :math:`\tau > 0`.
        anchors: Row numbers ``i`` that the mean is over, int64 ``[A]``, each at most once; :obj:`None` takes all.
        block_size: Anchors whose similarities are held at once, by default as many as fit 64 MiB.

    Returns:
        Scalar loss.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = F.normalize(torch.cat([x, y]).to(torch.promote_types(x.dtype, torch.float32)))
        if anchors is None:
            anchors = torch.arange(x.size(0), device=x.device)
        if block_size is None:
            block_size = max(1, _BLOCK_BYTES // (rows.size(0) * rows.element_size()))
        return _Contrast.apply(rows, anchors, temperature, block_size)


class _Contrast(torch.autograd.Function):
    """Cross-entropy of every anchor among all rows but itself, with the gradient computed on the way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, anchors: Tensor, temperature: float, block_size: int) -> Tensor:
        grad = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        losses = []
        buffer = rows.new_empty(min(block_size, anchors.numel()), rows.size(0))
        for index in anchors.split(block_size):
            anchor = rows[index]
            target = (index + rows.size(0) // 2).unsqueeze(1)
            score = torch.mm(anchor / temperature, rows.t(), out=buffer[: index.numel()])
            score.scatter_(1, index.unsqueeze(1), -torch.inf)
            positive, largest = score.gather(1, target), score.amax(dim=1, keepdim=True)
            prob = score.sub_(largest).exp_()  # Up to the factor 1 / total.
            total = prob.sum(dim=1, keepdim=True)
            losses.append((total.log() + largest - positive).sum())
            if grad is not None:
                prob.scatter_add_(1, target, -total)
                grad.addmm_(prob.t(), anchor / total)
                grad.index_add_(0, index, (prob @ rows) / total)
        ctx.grad = None if grad is None else grad.div_(temperature * anchors.numel())
        return torch.stack(losses).sum() / anchors.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        return (ctx.grad * grads[0], None, None, None)
