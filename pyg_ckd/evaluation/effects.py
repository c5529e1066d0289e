"""How much every modality contributes to a trained model, measured on held-out interactions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_number, as_seed
from pyg_ckd.data.inputs import check_graph, embed, held_out
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.display import html_table
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.ranking import Evaluator, without_repetitions
from pyg_ckd.scoring.effects import effect_weights, margin_sums, relative_effects, signal_to_noise
from pyg_ckd.scoring.views import EMPTY, counterfactual_views, leave_one_out_views, unimodal_views

if TYPE_CHECKING:
    import pandas as pd


_BOOTSTRAP_VALUES = 2**22  # Held at once.
_UNKNOWN = "–"


@dataclass(frozen=True)
class EffectReport:
    """Causal effects of the modalities of a trained model, with bootstrap confidence intervals over users.

    Attributes:
        table: A row per modality, the weakest first, with columns ``effect``, ``low``, ``high`` (mean causal effect on
            the margin, in units of the score, and its interval; NaN of a single user), ``share`` (effect
            divided by the mean margin; NaN where that is not positive), ``ratio`` and ``weight`` (mean of :math:`e_m`
            and :math:`w_m` of :class:`ModalityEffectEstimator`), ``recall_drop``, ``recall_drop_low``,
            ``recall_drop_high`` (recall of the full view minus recall of the leave-one-out view), ``recall_alone``
            (recall of the uni-modal view) and ``snr`` (signal-to-noise ratio of what the modality says without the
            ids).
        recall: Recall of the full view.
        k: Cut-off of the recall.
        split: The split it was measured on.
        confidence: Level of the intervals.
    """

    table: pd.DataFrame
    recall: float
    k: int
    split: str
    confidence: float

    @property
    def weakest(self) -> str:
        """The modality with the smallest causal effect on the margin."""
        return str(self.table.index[0])

    @property
    def _head(self) -> str:
        level = f"{self.confidence:.0%}"
        return f"effects on {self.split}: recall@{self.k} {self.recall:.4f}, {level} intervals over users"

    def __str__(self) -> str:
        return f"{self._head}\n{self.table.to_string(float_format=_shown, na_rep=_UNKNOWN)}"

    def _repr_html_(self) -> str:
        rows = [(str(m), *map(_shown, row)) for m, *row in self.table.itertuples()]
        return html_table(self._head.capitalize(), ("modality", *map(str, self.table.columns)), rows)


@torch.no_grad()
def estimate_effects(
    model: nn.Module,
    data: HeteroData,
    split: str = "val",
    k: int = 20,
    num_negatives: int = 10,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> EffectReport:
    r"""Measure how much every modality contributes to a trained model.

    For every held-out interaction ``(u, i)`` and random items ``j`` that the user never interacted with, the causal
    effect of modality ``m`` is :math:`\delta_{uij}(\textrm{full}) - \delta_{uij}(\textrm{full} \setminus m)`. Effects
    and margins :math:`\delta_{uij}(\textrm{full})` are averaged per user and then over users; intervals are bootstrap
    percentiles over users. The share of a modality is its effect divided by the mean margin. It does not depend on the
    scale of the scores, so it can be compared between models. Shares sum to one if scores are additive over modalities
    and have no id part. With ids the sum is smaller; if modalities interact, it may be larger.

    The signal-to-noise ratio of a modality is the mean of :math:`\delta_{uij}(\{m\}) - \delta_{uij}(\emptyset)` over
    all triples divided by its standard deviation, at least zero, as explained in
    :func:`~pyg_ckd.scoring.effects.signal_to_noise`: how large the contribution of the modality to a margin is,
    relative to its variation.

    Args:
        model: A backbone, an objective, or any module with ``forward(x_dict, edge_index) -> (user, item)``, with one
            modality or more.
        data: The graph.
        split: Where to measure: ``"val"`` or ``"test"``.
        k: Cut-off of the recall.
        num_negatives: Random items for every interaction.
        num_bootstrap: Number of resamples.
        confidence: Level of the intervals, between 0 and 1.
        seed: Seed of negatives and resamples.

    Raises:
        InputError: If there is no graph or nothing to measure on, or an argument is out of its range.
    """
    import pandas as pd

    check_graph(data)
    k, seed, confidence = as_integer(k, "k"), as_seed(seed), as_number(confidence, "confidence")
    num_negatives = as_integer(num_negatives, "num_negatives")
    num_bootstrap = as_integer(num_bootstrap, "num_bootstrap")
    if not 0 < confidence < 1 or num_negatives < 1 or num_bootstrap < 1:
        raise InputError(
            f"estimate_effects: found confidence {confidence}, num_negatives {num_negatives}, num_bootstrap "
            f"{num_bootstrap}, expected 0 < confidence < 1 and at least one negative and one resample"
        )
    names = list(data.modalities)
    views = counterfactual_views(names, empty=True)
    out = dict(zip(views, embed(model, data, views), strict=True))
    full = out[views[0]]
    without = {m: out[view] for m, view in leave_one_out_views(names).items()}
    alone = {m: out[view] for m, view in unimodal_views(names).items()}

    user, preferred, other = _held_out_triples(data, split, num_negatives, seed, full.user.device)
    margin = full.margin(user, preferred, other)
    margin_without = torch.stack([without[m].margin(user, preferred, other) for m in names], dim=-1)
    margin_alone = torch.stack([alone[m].margin(user, preferred, other) for m in names], dim=-1)
    margin_empty = out[EMPTY].margin(user, preferred, other)

    evaluator = Evaluator(data, split, k=[k], metrics=["recall"])
    key = f"recall@{k}"
    recall = evaluator.per_user(full)[key]
    drop = torch.stack([recall - evaluator.per_user(without[m])[key] for m in names], dim=-1)

    resample = torch.Generator().manual_seed(seed)
    effect = _per_user_mean(margin.unsqueeze(-1) - margin_without, user, data["user"].num_nodes)
    lead = _per_user_mean(margin.unsqueeze(-1), user, data["user"].num_nodes).mean()
    effect_low, effect_high = _bootstrap(effect, num_bootstrap, confidence, resample)
    drop_low, drop_high = _bootstrap(drop, num_bootstrap, confidence, resample)
    columns = {
        "effect": effect.mean(dim=0),
        "low": effect_low,
        "high": effect_high,
        "share": torch.where(lead > 0, effect.mean(dim=0) / lead, torch.nan),
        "recall_drop": drop.mean(dim=0),
        "recall_drop_low": drop_low,
        "recall_drop_high": drop_high,
    }
    if len(names) > 1:  # With one modality there is nothing to weigh it against.
        ratio = relative_effects(margin, margin_without, margin_alone)
        columns |= {"ratio": ratio.mean(dim=0), "weight": effect_weights(ratio).mean(dim=0)}
    table = pd.DataFrame({c: v.tolist() for c, v in columns.items()}, index=pd.Index(names, name="modality"))
    table["snr"] = signal_to_noise(margin_sums(margin_alone, margin_empty)).tolist()
    table["recall_alone"] = [float(evaluator.per_user(alone[m])[key].mean()) for m in names]
    return EffectReport(
        table.sort_values("effect", kind="stable"), float(recall.mean()), k=k, split=split, confidence=confidence
    )


def _shown(value: float) -> str:
    return _UNKNOWN if math.isnan(value) else f"{value:.4f}"


def _held_out_triples(
    data: HeteroData, split: str, num_negatives: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    positives = without_repetitions(held_out(data, split))
    if positives.size(1) == 0:
        raise InputError(f"estimate_effects: the {split} split holds no interaction to measure on")
    known = torch.cat([held_out(data, split) for split in ("train", "val", "test")], dim=1)
    sampler = TripletSampler(known, data["user"].num_nodes, data["item"].num_nodes, seed=seed)
    positives = positives[:, ~torch.isin(positives[0], sampler.saturated_users)]
    if positives.size(1) == 0:
        raise InputError(
            f"estimate_effects: every user of the {split} split interacted with every item, expected at least one user "
            "with an item left to compare with"
        )
    user, preferred = positives.repeat_interleave(num_negatives, dim=1)
    return user.to(device), preferred.to(device), sampler.sample_negatives(user).to(device)


def _per_user_mean(value: Tensor, user: Tensor, num_users: int) -> Tensor:
    """Return the mean of ``value [B, M]`` over the rows of each user that occurs, ``[users, M]``, in float64."""
    total = value.new_zeros((num_users, value.size(1)), dtype=torch.float64).index_add_(0, user, value.double())
    count = torch.bincount(user, minlength=num_users)
    seen = count > 0
    return total[seen] / count[seen].unsqueeze(-1)


def _bootstrap(
    value: Tensor, num_bootstrap: int, confidence: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the percentile interval of the mean over rows of ``value [users, M]``; NaN of fewer than two rows."""
    value = value.double().cpu()
    if value.size(0) < 2:  # Resamples of one user are all the same, which says nothing about others.
        unknown = torch.full(value.shape[1:], torch.nan, dtype=torch.float64)
        return unknown, unknown
    means = []
    block = max(1, min(100, _BOOTSTRAP_VALUES // value.numel()))  # Memory grows neither with resamples nor users.
    for start in range(0, num_bootstrap, block):
        size = (min(block, num_bootstrap - start), value.size(0))
        means.append(value[torch.randint(value.size(0), size, generator=generator)].mean(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high
