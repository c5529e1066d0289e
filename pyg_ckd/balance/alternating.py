"""Alternating training (MLA): one modality per step, and shared tables that do not forget the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.balance.fusion import fuse, user_weights
from pyg_ckd.balance.given import MaskedObjective, counted_weights
from pyg_ckd.balance.gradients import SHARED, check_steerable, edit, only, parameter_groups
from pyg_ckd.balance.objective import check_positive, total
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import item_rows
from pyg_ckd.scoring.views import View, as_views, unimodal_views

FORMS = ("rls", "normalised", "published")


class AlternatingAdaptation(MaskedObjective):
    r"""Trains one modality per step, without the others, and fuses their scores only for ranking.

    From `"Multimodal Representation Learning by Alternating Unimodal Adaptation" <https://arxiv.org/abs/2311.10707>`_
    (MLA). Step :math:`t` trains one modality :math:`m`, in alphabetical order:

    .. math::
        \mathcal{L}_t = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})) + \lambda \, \mathcal{L}_2, \qquad
        \ell(x) = \ln(1 + e^{-x}).

    Parameters that belong to other modalities, which are in that view through their means, get no gradient. What all
    modalities share learns in every step. So that a step does not undo what the steps of other modalities have learned,
    the gradient :math:`\mathbf{G}` of a shared table is projected. A table of users takes the role of the paper's
    linear head: every user is a class, and an item's row is the input. With the mean :math:`\bar{\mathbf{r}}_t` of
    :math:`\mathbf{x}_i - \mathbf{x}_j` over the batch, scaled to unit length, :math:`\mathbf{P}_0 = \mathbf{I}` and the
    ridge :math:`\alpha`,

    .. math::
        \mathbf{G} \leftarrow \mathbf{G} \mathbf{P}_{t-1}^\top, \qquad
        \mathbf{k} = \mathbf{P}_{t-1} \bar{\mathbf{r}}_t, \qquad \mathbf{P}_t = \mathbf{P}_{t-1}
        - \frac{\mathbf{k} \mathbf{k}^\top}{\alpha + \bar{\mathbf{r}}_t^\top \mathbf{k}},

    which are recursive least squares: :math:`\mathbf{P}_t = (\mathbf{I} + \alpha^{-1} \sum_s \bar{\mathbf{r}}_s
    \bar{\mathbf{r}}_s^\top)^{-1}`. Every epoch begins with :math:`\mathbf{P}_0` again. All shared matrices with as many
    columns as the scored rows are projected; a backbone that has none, such as :class:`~pyg_ckd.nn.VBPR`, whose scores
    are sums over blocks of columns, only alternates.

    Validation, test and serving rank with a sum of uni-modal scores, in which every user trusts the modalities that
    tell the items apart most clearly. With the entropy :math:`H_{um}` of :math:`\textrm{softmax}_i(s^m_{ui} / T)` over
    about a thousand items,

    .. math::
        s_{ui} = \sum_{m \in S} w_{um} s^m_{ui}, \qquad w_{um} = \frac{\exp(\max_n H_{un} - H_{um})}
        {\sum_{m'} \exp(\max_n H_{un} - H_{um'})}.

    Overrides ``views``, ``balance``, ``triple_weights``, ``backward`` and ``forward_views``. A step costs no further
    view; an evaluation computes the uni-modal views instead of each view of several modalities.

    Differs from the published code, in which the projection is never reached (it looks for a parameter of another
    name), divides by a matrix instead of a number, and lets a step's own rows take part in its projection; the
    entropies there are taken over the batch, one for each modality. Its :math:`\alpha` falls from 0.1 to 0.01 within
    an epoch. It makes one step for every modality and batch, so that an epoch here is a part of an epoch there.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        alternate: Whether modalities take turns; if not, training is plain.
        project: Whether gradients of shared tables are projected.
        gate: Whether the model ranks with the weighted uni-modal scores; if not, with the joint view.
        ridge: Ridge :math:`\alpha` of the projection; the larger, the less it takes away.
        temperature: Temperature :math:`T` of the entropies.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. Triples with such an item do not count in the steps of the modality,
            neither in the loss nor in :math:`\bar{\mathbf{r}}_t`; where no triple counts, the projection stays.

    Raises:
        InputError: If there are fewer than two modalities, no parameter belongs to one alone, ``project`` is on
            without ``alternate``, a number is out of its range or a mask does not fit.
    """

    name = "mla"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"ridge": (1e-3, 1.0), "temperature": (0.1, 10.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"alternate": False, "project": False, "gate": False}
    needs_whole = ""
    reports: ClassVar[Mapping[str, str]] = {
        "weight": "weight of the modality's scores in the last evaluation, mean over users",
    }

    mean_weight: Tensor

    def __init__(
        self,
        student: Backbone,
        alternate: bool = True,
        project: bool = True,
        gate: bool = True,
        ridge: float = 0.1,
        temperature: float = 1.0,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        if alternate:
            check_steerable(student, self.name)
            self.check_views()
        elif project:
            raise InputError("project: found True without alternate, expected both, or project=False")
        check_positive("ridge", ridge)
        check_positive("temperature", temperature)
        self.alternate, self.project, self.gate = alternate, project, gate
        self.ridge, self.temperature = ridge, temperature
        self._alone = unimodal_views(student.modalities)
        self._order = sorted(student.modalities)  # Not the order of the data, which must not decide about a result.
        self._step = 0
        self._projector: Tensor | None = None
        self._row: Tensor | None = None
        self.register_state("mean_weight", torch.ones(len(self.modalities)))

    @property
    def batch_items(self) -> int | None:  # type: ignore[override]
        """Positives of a batch that a step reads the rows of."""
        return None if self.project else 0

    @property
    def turn(self) -> str:
        """The modality that the next step trains; the epoch decides about the first one."""
        return self._order[(self.progress.epoch - 1 + self._step) % len(self._order)]

    @property
    def views(self) -> Sequence[View]:
        """The view of the modality whose turn it is."""
        return [self._alone[self.turn]] if self.alternate else [self.view]

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Begin again with the first turn of the epoch and without a projection."""
        self._step, self._projector = 0, None
        return super().begin_epoch(features, graphs)

    def end_fit(self) -> None:
        """Let go of the projection."""
        self._projector = self._row = None

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return zero for triples with an item that lacks the modality, and one number for all others."""
        counted = self._counted(batch) if self.alternate else None
        return None if counted is None else batch.own(counted)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Keep the mean row of the batch for the projection; there is no further term."""
        if self.project:
            with torch.no_grad():
                one, other = (item_rows(out[self._alone[self.turn]], x) for x in batch.whole[1:3])
                difference, counted = one - other, self._counted(batch)
                if counted is not None:
                    difference = difference * counted.to(difference.dtype).unsqueeze(-1)
                mean = difference.mean(dim=0)
                self._row = mean / mean.norm().clamp(min=torch.finfo(mean.dtype).tiny)
        return {}

    def _counted(self, batch: TripletBatch) -> Tensor | None:
        """Return weights of the whole batch in the step of the modality whose turn it is; None if all items have it."""
        known = self.available(*batch.whole[1:3])
        return None if known is None else counted_weights(known[:, self.modalities.index(self.turn)])

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of the modality's own parameters and of shared ones, and project the latter."""
        run(total(terms))
        if not self.alternate:
            return
        only(self.student, self.turn)
        self._step += 1
        if not self.project or self._row is None:
            return
        width, before = self._row.numel(), self._projector
        if before is None:
            before = torch.eye(width, dtype=self._row.dtype, device=self._row.device)
        else:
            turned = before.t()
            tables = [p for p in parameter_groups(self.student)[SHARED] if p.dim() == 2 and p.size(1) == width]
            edit(tables, lambda grad: grad @ turned.to(grad.dtype))
        self._projector = update_projector(before, self._row, self.ridge)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return tables that score with the weighted sum of the uni-modal scores of every view."""
        asked = as_views(views, self.modalities)
        if not self.gate or all(len(view) < 2 for view in asked):
            return super().forward_views(features, edge_index_dict, views, **kw)
        parts = dict.fromkeys(view for view in asked if len(view) < 2)
        parts |= dict.fromkeys(self._alone[m] for m in self.modalities if any(m in view for view in asked))
        out = dict(zip(parts, super().forward_views(features, edge_index_dict, list(parts), **kw), strict=True))
        return [out[view] if len(view) < 2 else self._gated(view, out) for view in asked]

    def _gated(self, view: View, out: Mapping[View, Embeddings]) -> Embeddings:
        tables = [out[self._alone[m]] for m in self.modalities if m in view]
        weights = user_weights(tables, lambda scores: entropy_weights(scores / self.temperature))
        if view == self.view:
            self.mean_weight.copy_(weights.mean(dim=1) * len(tables))
        return fuse(tables, weights)

    def epoch_statistics(self) -> dict[str, float]:
        """Return every modality's mean weight over users in the last evaluation; one where all weigh the same."""
        if not self.gate:
            return {}
        return {f"weight/{m}": w for m, w in zip(self.modalities, self.mean_weight.tolist(), strict=True)}


def update_projector(projector: Tensor, row: Tensor, ridge: float, form: str = "rls") -> Tensor:
    r"""Return a projector that also takes one more row away, see :class:`AlternatingAdaptation`.

    Args:
        projector: The projector :math:`\mathbf{P}` so far, ``[D, D]``.
        row: The row :math:`\mathbf{r}`, ``[D]``.
        ridge: The ridge :math:`\alpha`.
        form: ``"rls"`` for recursive least squares; ``"normalised"`` divides the result by its Frobenius norm;
            ``"published"`` divides entry by entry by :math:`\alpha + \mathbf{k} \mathbf{r}^\top` before that, as the
            published code does, for comparison with it alone.

    Raises:
        InputError: If ``form`` is none of them.
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    k = projector @ row
    denominator = ridge + (torch.outer(k, row) if form == "published" else row @ k)
    projector = projector - torch.outer(k, k) / denominator
    return projector if form == "rls" else projector / projector.norm()


def entropy_weights(logits: Tensor, published: bool = False) -> Tensor:
    r"""Return weights that fall with the entropy of predictions, :math:`\exp(\max_n H_n - H_m)` over their sum.

    Args:
        logits: Logits of every modality, user and item, ``[M, B, C]``.
        published: Whether predictions are taken over the batch instead of the items and their entropies added up over
            everything, as the published code does, for comparison with it alone.

    Returns:
        The weights ``[M, B]``, or ``[M]`` as published.
    """
    log = logits.log_softmax(dim=1 if published else -1)
    entropy = -(log.exp() * log).sum(dim=(1, 2) if published else -1)
    return torch.softmax(-entropy, dim=0)
