"""What the features of one modality tell about the taste of users, before any model is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_names, as_seed
from pyg_ckd.data.content import dense_features, items_with_content
from pyg_ckd.data.inputs import check_graph, held_out
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.evaluation.statistics import holm, paired_test
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.unit import unit_length

if TYPE_CHECKING:
    import pandas as pd

MOST_USERS = 3_000
"""Users that are ranked for at most; more are sampled."""
MOST_NUMBERS = 2**26
"""Columns times users and items of a modality up to which it is ranked unasked, in about two gigabytes."""
SIGNIFICANT, LIFT = 0.05, 1.5
"""Features are silent if they do not rank better by this p-value, nor so many times as well as shuffled ones."""


def content_ranking(
    data: HeteroData,
    split: str = "val",
    k: int = 20,
    modalities: Sequence[str] | str | None = None,
    shuffles: int = 9,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Rank by the features of each modality alone, and by the same features shuffled among items.

    Items are ranked by the cosine of their centred features with the mean of the user's training items. Nothing is
    trained. Features that rank no better than shuffled ones are noise, constant, assigned to the wrong items, or
    related to taste in a way that cosines do not show: of a single column, for one, they show the sign only.

    Whether the two differ is tested twice: over users, by a paired t-test against the mean of the shuffles, and over
    shuffles, by a t-test of one value against :math:`n` others. The larger p-value counts.

    Items that lack a modality have features of zeros, and keep them when rows are shuffled. At most 3,000 users are
    evaluated.

    Args:
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: The cut-off.
        modalities: The modalities. (default: :obj:`None`, all)
        shuffles: Number :math:`n` of shuffles, two or more; the mean over them is reported.
        seed: Seeds the shuffles and the choice of users.

    Returns:
        A row for every modality with the columns ``recall``, ``shuffled`` (recall of shuffled features), ``p_value``
        (after Holm's correction over modalities), ``high`` (the upper 95 % limit of the recall) and ``users``, the
        number of users. ``attrs["metric"]`` is the name of the metric, such as ``recall@20``.

    Raises:
        InputError: If a modality is unknown or there is none, ``k`` is not positive, ``shuffles`` is below two, or the
            split has fewer than two users.
    """
    import pandas as pd

    check_graph(data)
    names = tuple(data.modalities) if modalities is None else as_names(modalities, "modalities")
    for m in names:
        if m not in data.modalities:
            raise unknown_name("modality", m, data.modalities)
    if not names:
        raise InputError("modalities: found none, expected at least one whose features can be ranked by")
    shuffles, generator = as_integer(shuffles, "shuffles", 2), torch.Generator().manual_seed(as_seed(seed))
    recalls = ranker(data, split, k, seed)
    table = {}
    for m in names:
        rows, says = rows_of(data, m)
        own, places = recalls(rows), says.nonzero().squeeze(1)
        others = []
        for _ in range(shuffles):
            order = torch.arange(len(rows))
            order[places] = places[torch.randperm(len(places), generator=generator)]
            others.append(recalls(rows[order]))
        table[m] = _compared(own, np.stack(others))
    frame = pd.DataFrame.from_dict(table, orient="index").assign(users=lambda found: found["users"].astype(int))
    frame = frame.assign(p_value=holm(frame["p_value"])).rename_axis("modality")
    frame.attrs["metric"] = f"recall@{as_integer(k, 'k')}"
    return frame


def ranker(data: HeteroData, split: str, k: int, seed: int) -> Callable[[Tensor], np.ndarray]:
    """Return what ranks by rows of items ``[I, d]`` and returns the recall of every evaluated user ``[U]``.

    Args:
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: The cut-off.
        seed: Seeds the choice of at most 3,000 users.

    Raises:
        InputError: If ``k`` is not positive, or the split has fewer than two users.
    """
    from scipy.sparse import csr_array

    users = int(held_out(data, split).cpu()[0].unique().numel()) if split != "train" else 0
    evaluator = Evaluator(data, split, k, "recall", eval_users=MOST_USERS if users > MOST_USERS else None, seed=seed)
    if users < 2:
        raise InputError(f"{split}: found {users} user, expected two or more, over whom rankings are compared")
    user, item = held_out(data, "train").cpu().numpy()
    size = (data["user"].num_nodes, data["item"].num_nodes)
    met = csr_array((np.ones(len(user), dtype=np.float32), (user, item)), shape=size)

    def recalls(rows: Tensor) -> np.ndarray:
        found = evaluator(Embeddings(torch.from_numpy(met @ rows.numpy()), rows), per_user=True)
        assert found.per_user is not None
        return found.per_user.iloc[:, 0].to_numpy()

    return recalls


def _compared(own: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Compare the recall of every user ``[U]`` with that of shuffles ``[n, U]``."""
    from scipy import stats

    same = (others == others[0]).all(axis=0)
    mean = np.where(same, others[0], others.mean(axis=0))  # Without rounding, which tests would take for a difference.
    over_users, means = paired_test(own, mean), others.mean(axis=1)
    error = 0.0 if same.all() else float(means.std(ddof=1)) * np.sqrt(1 + 1 / len(means))
    lead = over_users.difference
    p_value = 2 * float(stats.t.sf(abs(lead) / error, len(means) - 1)) if error > 0 else float(lead == 0)
    high = max(over_users.high, lead + float(stats.t.ppf(0.975, len(means) - 1)) * error)
    return {
        "recall": over_users.mean_a,
        "shuffled": over_users.mean_b,
        "p_value": max(p_value, over_users.p_value),
        "high": over_users.mean_b + high,
        "users": over_users.num,
    }


def validated_ranking(data: HeteroData, k: int = 20, seed: int = 0) -> pd.DataFrame | None:
    """Return :func:`content_ranking` on the validation part, or :obj:`None` where there is nothing to rank.

    Modalities of a single column, and those with more than :math:`2^{26}` numbers in a row for every user and item, are
    left out.

    Args:
        data: The graph.
        k: The cut-off; the number of items if it is larger.
        seed: As of :func:`content_ranking`.
    """
    rows, width = (
        data["user"].num_nodes + data["item"].num_nodes,
        {m: np.shape(data["item"][m])[-1] for m in data.modalities},
    )
    chosen = [m for m, columns in width.items() if columns > 1 and rows * columns <= MOST_NUMBERS]
    if not chosen or held_out(data, "val").cpu()[0].unique().numel() < 2:
        return None
    return content_ranking(data, "val", min(k, data["item"].num_nodes), chosen, seed=seed)


def silent_modalities(ranking: pd.DataFrame) -> list[str]:
    """Return the modalities whose features rank no better than shuffled ones; none where that cannot be told.

    Args:
        ranking: What :func:`content_ranking` returned.
    """
    rows = ranking[["recall", "shuffled", "p_value", "high"]].to_dict("index")
    return [str(m) for m, row in rows.items() if is_silent(*row.values())]


def is_silent(recall: float, shuffled: float, p_value: float, high: float) -> bool:
    """Return whether features rank no better than shuffled ones, and so many times as well that it matters is excluded.

    Args:
        recall: Recall of the features.
        shuffled: Recall of shuffled features.
        p_value: Whether the two differ.
        high: Upper limit of the recall.
    """
    return high < LIFT * shuffled and (recall <= shuffled or p_value >= SIGNIFICANT)


def rows_of(data: HeteroData, modality: str) -> tuple[Tensor, Tensor]:
    """Return centred features of norm one in float32, zeros where an item has none, and which items have some."""
    says = items_with_content(data, modality)
    x = dense_features(data, modality).masked_fill(~says.unsqueeze(1), 0)
    x = (x - x.sum(dim=0) / says.sum().clamp(min=1)) * says.unsqueeze(1)
    return unit_length(x).float(), says
