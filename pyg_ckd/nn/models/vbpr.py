"""VBPR for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pyg_ckd.data.embeddings import Embeddings
from pyg_ckd.errors import unknown_name
from pyg_ckd.nn.models.base import LateFusion, check_size, take
from pyg_ckd.nn.propagation import Adjacency

FUSIONS = ("concat", "sum")


class VBPR(LateFusion):
    r"""Matrix factorisation with content, for any number of modalities.

    From `"VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback" <https://arxiv.org/abs/1510.01784>`_.

    .. math::
        \hat{x}_{ui} = \beta_i + \boldsymbol{\gamma}_u^\top \boldsymbol{\gamma}_i
        + \sum_m \boldsymbol{\theta}_u^{m\top} \left( \mathbf{E}_m \mathbf{f}^m_i + \mathbf{b}_m \right)

    Terms of the paper that do not depend on the item cannot change a ranking and are left out; so is the visual bias
    :math:`\boldsymbol{\beta}^{\prime\top} \mathbf{f}_i`, which the item bias contains. Late fusion: a modality has its
    own block of columns. In a view, a modality that is intervened on adds the same number to every score.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the id block and of every modality's block.
        item_bias: Whether there is a bias :math:`\beta_i` per item (a column of the embeddings, one for users).
        fusion: ``"concat"``, a preference block :math:`\boldsymbol{\theta}_u^m` per modality, or ``"sum"``, one block
            for the sum of all projected modalities (one projection of the concatenated features, as in MMRec). With
            ``"sum"`` no preference belongs to a modality, so that interventions act on features alone.

    Raises:
        InputError: If a size is not positive, there is no modality, or ``fusion`` is neither of the two.
    """

    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 5e-3, "patience": 12},
        "plain": {"l2": 0.06},
        "teacher": {"l2": 0.06},
        "distillation": {"l2": 0.06, "distillation_weight": 0.1},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        item_bias: bool = True,
        fusion: str = "concat",
    ) -> None:
        check_size("number of modalities", len(feature_dims))
        super().__init__(num_users, num_items, feature_dims)
        check_size("embedding_dim", embedding_dim)
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        self.fusion = fusion
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_bias = nn.Parameter(torch.empty(num_items)) if item_bias else None
        blocks = feature_dims if fusion == "concat" else ["shared"]
        self.preference = nn.ParameterDict({m: torch.empty(num_users, embedding_dim) for m in blocks})
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            nn.init.xavier_uniform_(table)
        for lin in self.project.values():
            cast(nn.Linear, lin).reset_parameters()
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias)

    def branch(
        self, modality: str, feature: Tensor, graph: Adjacency, n_id_dict: Mapping[str, Tensor], factual: bool
    ) -> Embeddings:
        """Return preferences and projected features of a modality."""
        preference = self.preference[modality if self.fusion == "concat" else "shared"]
        if not factual and self.fusion == "concat":
            user = preference.mean(dim=0, keepdim=True).expand_as(preference)
        else:
            user = preference
        item = self.project[modality](feature).expand(self.num_items if not factual else -1, -1)
        if not factual:
            item = take(item, n_id_dict.get("item"))
        return Embeddings(take(user, n_id_dict.get("user")), item)

    def fuse(self, branches: Mapping[str, Embeddings], n_id_dict: Mapping[str, Tensor]) -> Embeddings:
        """Put the id block, the blocks of the modalities and the bias side by side."""
        user = [take(self.user_embedding, n_id_dict.get("user"))]
        item = [take(self.item_embedding, n_id_dict.get("item"))]
        if self.fusion == "concat":
            user += [branch.user for branch in branches.values()]
            item += [branch.item for branch in branches.values()]
        else:
            user.append(next(iter(branches.values())).user)
            item.append(torch.stack([branch.item for branch in branches.values()]).sum(dim=0))
        if self.item_bias is not None:
            user.append(user[0].new_ones(user[0].size(0), 1))
            item.append(take(self.item_bias, n_id_dict.get("item")).unsqueeze(-1))
        return Embeddings(torch.cat(user, dim=1), torch.cat(item, dim=1))
