"""VBPR for any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Inputs, LateFusion, check_modalities, check_size
from pyg_ckd.nn.models.cosine import check_cosine
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Deferred, Output, Projection
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View

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
            ``"sum"`` no preference belongs to a modality, so interventions only act on features.
        sparse: Whether the gradients of the tables are sparse, as in :class:`torch.nn.Embedding` with ``sparse=True``:
            they hold only the rows of the batch. The trainer's :class:`~pyg_ckd.training.RowAdam` then updates only
            these rows, with nearly the same result as Adam; this is faster if a batch has a small part of all rows.
            Gradients stay dense if a penalty acts on the mean preference of a modality that the trained view, such as a
            teacher's, intervenes on.
        cosine: With a number :math:`s`, the blocks of modalities score with :math:`s` times the cosine of user and
            item, as in :func:`~pyg_ckd.nn.models.cosine.cosine_rows`; the penalty then acts on ids alone, because all
            rows of the blocks have the same length. (default: :obj:`None`, with dot products)

    Raises:
        InputError: If a size or ``cosine`` is not positive, there is no modality, ``fusion`` is neither of the two, or
            ``cosine`` stands beside ``sparse`` or ``fusion="sum"``.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    user_rows: ClassVar[frozenset[str]] = frozenset({"user_embedding", "preference"})
    column_dims: ClassVar[Mapping[str, int | None]] = {
        "user_embedding": 1,
        "item_embedding": 1,
        "preference": 1,
        "project": 0,
        "item_bias": None,
    }
    sampled = True
    num_hops = 0
    bpr_negatives = 4
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 0.03},
        "teacher": {"l2": 0.03},
        "distillation": {"l2": 0.03, "distillation_weight": 0.1},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        item_bias: bool = True,
        fusion: str = "concat",
        sparse: bool = False,
        cosine: float | None = None,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims)
        check_size("embedding_dim", embedding_dim)
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        check_cosine(cosine)
        if cosine is not None and (sparse or fusion == "sum"):
            beside = "sparse=True" if sparse else 'fusion="sum"'
            raise InputError(
                f"cosine: found {cosine} beside {beside}, expected none: rows of one length need dense gradients and a "
                "block for every modality"
            )
        self.fusion, self.sparse, self.cosine = fusion, sparse, cosine
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_bias = nn.Parameter(torch.empty(num_items)) if item_bias else None
        blocks = feature_dims if fusion == "concat" else ["shared"]
        self.preference = nn.ParameterDict({m: torch.empty(num_users, embedding_dim) for m in blocks})
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})
        self.reset_parameters()

    @property
    def reads_rows(self) -> bool:
        """Whether a step reads only the features of its batch's items: not with ``fusion="sum"`` or ``cosine``."""
        return self.fusion == "concat" and self.cosine is None

    @property
    def projected(self) -> Sequence[str]:  # type: ignore[override]
        """All modalities; none with ``sparse``, where a step projects only its own rows."""
        return () if self.sparse else self.modalities

    @property
    def modality_parameters(self) -> dict[str, list[nn.Parameter]]:
        """As of any backbone; with ``fusion="sum"`` the preferences belong to no modality, whatever its name."""
        groups = super().modality_parameters
        if self.fusion == "sum":
            preferences = {id(p) for p in self.preference.parameters()}
            groups = {m: [p for p in own if id(p) not in preferences] for m, own in groups.items()}
        return groups

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            nn.init.xavier_uniform_(table)
        for lin in self.project.values():
            cast(nn.Linear, lin).reset_parameters()
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias)

    def branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool) -> Embeddings:
        """Return preferences and projected features of a modality."""
        preference = self.preference[modality if self.fusion == "concat" else "shared"]
        item = self.project[modality](feature)
        if factual:
            return Embeddings(inputs.take_users(preference), item)
        item = inputs.to_items(item, self.num_items)
        if self.fusion == "sum":
            return Embeddings(inputs.take_users(preference), item)
        return Embeddings(inputs.to_users(inputs.mean_of_users(preference), self.num_users), item)

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Put the id block, the blocks of the modalities and the bias side by side."""
        sparse = self.sparse
        inputs = inputs._replace(sparse=sparse or inputs.sparse)
        shared = [Block(inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding), sparse=sparse)]
        bias = []
        if self.item_bias is not None and self.item_bias.numel():  # Of columns on several processes, one has the bias.
            bias = [Block(None, inputs.take_items(self.item_bias), sparse=sparse)]
        if self.fusion == "sum":
            branches = self.branches(views, inputs)
            users = next(iter(branches.values())).user
            sums = [torch.stack([branches[m, m in view].item for m in self.modalities]).sum(dim=0) for view in views]
            return [BlockEmbeddings([*shared, Block(users, item, sparse=sparse), *bias]) for item in sums]
        if self.cosine is not None:
            found = self.branches(views, inputs)
            blocks = {key: Block(branch.user, branch.item, constant=not key[1]) for key, branch in found.items()}
            return [
                BlockEmbeddings([*shared, *(blocks[m, m in view] for m in self.modalities), *bias]) for view in views
            ]
        blocks = {}
        for m in self.modalities:
            feature, lin = inputs.features[m], cast(nn.Linear, self.project[m])
            for factual in {m in view for view in views}:
                if factual:
                    x = inputs.take_items(feature)
                    # What cannot be read row by row is projected at once.
                    item = Projection(x, lin.weight, lin.bias) if isinstance(x, Tensor) else lin(x)
                    blocks[m, True] = Block(inputs.take_users(self.preference[m]), item, sparse=sparse)
                else:
                    blocks[m, False] = self._constant(m, inputs)
        return [BlockEmbeddings([*shared, *(blocks[m, m in view] for m in self.modalities), *bias]) for view in views]

    def _constant(self, modality: str, inputs: Inputs) -> Block:
        """Return the columns of a modality that is intervened on: one row for all items, which moves no margin."""
        mean = inputs.mean_feature(modality).to(cast(nn.Linear, self.project[modality]).weight)
        columns = Deferred(partial(self.branch, modality, mean, inputs, False))
        return Block(columns.user, columns.item, constant=True)
