"""EliMRec: ranks with what modalities do together, less what a single one does by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance.fusion import fuse, score_variances
from pyg_ckd.balance.multitask import MultitaskObjective
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.errors import unknown_name
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.embeddings import Embeddings, varying_columns
from pyg_ckd.scoring.views import View, as_view

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FUSIONS = ("rubi", "hm", "sum")


class EliMRec(MultitaskObjective):
    r"""Ranks by the indirect effect: the joint score, and how well an item fits in every single modality.

    From `"EliMRec: Eliminating Single-modal Bias in Multimedia Recommendation"
    <https://doi.org/10.1145/3503161.3548404>`_. Training is that of :class:`MultitaskObjective`. The paper ranks with
    the indirect effect of the fused score :math:`s_{ui}`, whose total effect is scaled by how well user and item fit
    in every modality, :math:`c^m_{ui} = \cos(\mathbf{u}_m, \mathbf{x}_m)`; with its default fusion, ``"rubi"``,

    .. math::
        \textrm{TIE}_{ui} = \left( s_{ui} - \underset{k}{\textrm{mean}} \; s_{uk} \right) \prod_m \sigma(c^m_{ui})

    which is no dot product, so no index could serve it. Here, scores are the first-order expansion of its logarithm,
    which ranks in the same order, at :math:`c^m = 0` and a score :math:`\beta` standard deviations :math:`\sigma_u`
    above the mean of the user's scores:

    .. math::
        \hat{s}_{ui} = s_{ui} + \frac{\beta \sigma_u}{2} \sum_m c^m_{ui}

    Before every validation, :math:`\beta` is chosen among 0, which is the plain ranking, and multiples of ``effect``;
    without a validation part it is ``effect``. :meth:`indirect_effect` gives the exact scores of the paper for an
    evaluation.

    Rows :math:`\mathbf{u}_m, \mathbf{x}_m` are those of the uni-modal view, in the columns that tell items apart, with
    the ids that it holds. In a view without some modalities, the sum is over the others. Overrides
    ``before_validation`` and ``forward_views``, and what :class:`MultitaskObjective` overrides. Costs the uni-modal
    views, in steps and when ranking.

    Args:
        student: The backbone to train, with at least two modalities.
        weight: Weight of the uni-modal terms.
        effect: :math:`\beta` at the beginning; 0 ranks plainly.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. An item has no fit in a modality that it lacks.

    Raises:
        InputError: If there are fewer than two modalities, a weight is negative or a mask does not fit.
    """

    name = "elimrec"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0, "effect": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "effect": "weight of how well an item fits the user in every modality by itself, which is added to the score",
    }
    beta: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        effect: float = 1.0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, weight, l2, has)
        self.check_views()
        check_not_negative("effect", effect)
        self.effect = effect
        self.register_state("beta", torch.tensor(float(effect), dtype=torch.float64))

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        r"""Choose :math:`\beta`."""
        if self.effect == 0:
            return
        tables, full = self._tables(features, graphs, [self.view]), as_view(None, self.modalities)
        best, chosen = score(tables[full]), 0.0
        for factor in FACTORS:
            beta = factor * self.effect
            value = score(self._ranked(tables, full, beta))
            if value > best:
                best, chosen = value, beta
        self.beta.fill_(chosen)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return the tables that rank."""
        beta = float(self.beta)
        if beta == 0:
            return super().forward_views(features, edge_index_dict, views, **kw)
        chosen = [as_view(view, self.modalities) for view in views]
        tables = self._tables(features, edge_index_dict, chosen, **kw)
        items = (kw.get("n_id_dict") or {}).get("item")
        return [self._ranked(tables, view, beta, items) for view in chosen]

    def indirect_effect(
        self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph], fusion: str = "rubi"
    ) -> IndirectEffect:
        """Return the exact scores of the paper, which :func:`~pyg_ckd.evaluate` ranks with.

        Args:
            features: As in :meth:`prepare`.
            edge_index_dict: As in :meth:`prepare`.
            fusion: See :func:`total_effect`.
        """
        full = as_view(None, self.modalities)
        with torch.no_grad():
            tables = self._tables(features, edge_index_dict, [full])
            fits = [self._fit(tables, m) for m in self.modalities]
        return IndirectEffect(tables[full], fits, fusion)

    def _tables(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[View],
        **kw: Any,
    ) -> dict[View, Embeddings]:
        """Return the student's tables of views, of the full one and of the uni-modal ones."""
        wanted = list(dict.fromkeys([*views, as_view(None, self.modalities), *self._alone.values()]))
        out = super().forward_views(features, edge_index_dict, wanted, **kw)
        return dict(zip(wanted, out, strict=True))

    def _fit(self, tables: Mapping[View, Embeddings], modality: str, items: Tensor | None = None) -> Embeddings:
        """Return rows whose dot products are the cosines of a modality."""
        user, item = tables[self._alone[modality]]
        varies = varying_columns(item)
        fit = Embeddings(F.normalize(user * varies), F.normalize(item * varies))
        if modality in self._masked:
            has = getattr(self, f"item_mask_{modality}")
            fit = Embeddings(fit.user, fit.item * (has if items is None else has[items]).unsqueeze(-1))
        return fit

    def _ranked(
        self, tables: Mapping[View, Embeddings], view: View, beta: float, items: Tensor | None = None
    ) -> Embeddings:
        weight = beta / 2 * score_variances(tables[as_view(None, self.modalities)]).sqrt()
        fits = [self._fit(tables, m, items) for m in self.modalities if m in view]
        return fuse([tables[view], *fits], [torch.ones_like(weight), *[weight] * len(fits)])

    def epoch_statistics(self) -> dict[str, float]:
        r"""Return :math:`\beta` as the last validation chose it."""
        return {"effect": float(self.beta)} if self.effect > 0 else {}


class IndirectEffect:
    """Scores with EliMRec's indirect effect, user by user; it is ranked like :class:`~pyg_ckd.data.Embeddings`.

    Args:
        tables: The tables of the fused score.
        fits: For every modality, rows whose dot products are cosines.
        fusion: See :func:`total_effect`.

    Raises:
        InputError: If ``fusion`` is unknown.
    """

    def __init__(self, tables: Embeddings, fits: Sequence[Embeddings], fusion: str = "rubi") -> None:
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        self.tables, self.fits, self.fusion, self.dtype = tables, list(fits), fusion, tables.item.dtype

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items ``[B, I]``.

        Args:
            users: Rows of users, int64 ``[B]``.
        """
        rows = users.to(self.tables.user.device)
        score = self.tables.user[rows] @ self.tables.item.t()
        cosines = torch.stack([fit.user[rows] @ fit.item.t() for fit in self.fits])
        direct = total_effect(score.mean(dim=-1, keepdim=True).expand_as(score), cosines, self.fusion)
        return total_effect(score, cosines, self.fusion) - direct


def total_effect(score: Tensor, cosines: Tensor, fusion: str = "rubi", eps: float = 1e-12) -> Tensor:
    r"""Return a fused score together with the fits of single modalities, as EliMRec combines them.

    =========== ===========================================================================================
    ``"rubi"``  :math:`s \prod_m \sigma(c_m)`
    ``"hm"``    :math:`\ln (h + \epsilon) - \ln (1 + h)` with :math:`h = \sigma(s) \prod_m \sigma(c_m)`
    ``"sum"``   :math:`\ln ( \sigma( s + \sum_m c_m ) + \epsilon )`
    =========== ===========================================================================================

    Args:
        score: Scores :math:`s`, of any shape; with their mean over items it is the direct effect of the modalities.
        cosines: :math:`c_m` of every modality, ``[M, ...]``.
        fusion: One of the three.
        eps: :math:`\epsilon`.
    """
    if fusion == "sum":
        return torch.log(torch.sigmoid(score + cosines.sum(dim=0)) + eps)
    fit = torch.sigmoid(cosines).prod(dim=0)
    if fusion == "rubi":
        return score * fit
    both = torch.sigmoid(score) * fit
    return torch.log(both + eps) - torch.log1p(both)
