"""What the features of one modality tell about the taste of users, before any model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_names, as_seed
from pyg_ckd.data.describe import DataDescription
from pyg_ckd.data.inputs import check_graph, held_out
from pyg_ckd.data.neighbors import without_content
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.ranking import Evaluator
from pyg_ckd.evaluation.statistics import holm, paired_test
from pyg_ckd.scoring.embeddings import Embeddings

if TYPE_CHECKING:
    import pandas as pd

MOST_USERS = 5_000
"""Users that are ranked for at most; more are sampled."""
MOST_NUMBERS = 2**27
"""Columns times users and items of a modality up to which it is ranked unasked, in about two gigabytes."""
SILENT, ENOUGH = 0.05, 100
"""From this p-value on, features are said to rank no better than shuffled ones, where there are so many users."""


def content_ranking(
    data: HeteroData,
    split: str = "val",
    k: int = 20,
    modalities: Sequence[str] | str | None = None,
    shuffles: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Rank by the features of each modality alone, and by the same features shuffled among items.

    Items are ranked by the cosine of their centred features with the mean of the user's training items. Nothing is
    trained. Features that rank no better than shuffled ones tell nothing about the taste of users by themselves: they
    are noise, constant, or assigned to the wrong items. A model may still find in them what cosines do not show.

    Items that lack a modality have features of zeros, and keep them when rows are shuffled. At most 5,000 users are
    evaluated.

    Args:
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: The cut-off.
        modalities: The modalities. (default: :obj:`None`, all)
        shuffles: Number of shuffles; the mean over them is reported.
        seed: Seeds the shuffles and the choice of users.

    Returns:
        A row for every modality with the columns ``recall``, ``shuffled`` (recall of shuffled features), ``p_value``
        (of a paired t-test over users whether the two differ, after Holm's correction over modalities) and ``users``,
        the number of users. ``attrs["metric"]`` is the name of the metric, such as ``recall@20``.

    Raises:
        InputError: If a modality is unknown, ``k`` or ``shuffles`` is not positive, or the split has fewer than two
            users.
    """
    import pandas as pd

    check_graph(data)
    names = data.modalities if modalities is None else as_names(modalities, "modalities")
    for m in names:
        if m not in data.modalities:
            raise unknown_name("modality", m, data.modalities)
    shuffles, generator = as_integer(shuffles, "shuffles"), torch.Generator().manual_seed(as_seed(seed))
    if shuffles < 1:
        raise InputError(f"shuffles: found {shuffles}, expected a positive number")
    users = int(held_out(data, split).cpu()[0].unique().numel()) if split != "train" else 0
    evaluator = Evaluator(data, split, k, "recall", eval_users=MOST_USERS if users > MOST_USERS else None, seed=seed)
    if users < 2:
        raise InputError(f"{split}: found {users} user, expected two or more, over whom rankings are compared")
    train, size = held_out(data, "train").cpu().numpy(), (data["user"].num_nodes, data["item"].num_nodes)

    def recalls(rows: Tensor) -> np.ndarray:
        found = evaluator(Embeddings(_sums(train, size, rows), rows), per_user=True)
        assert found.per_user is not None
        return found.per_user.iloc[:, 0].to_numpy()

    table: dict[str, tuple[float, float, float, int]] = {}
    for m in names:
        rows, says = _rows(data, m)
        own, places = recalls(rows), says.nonzero().squeeze(1)
        others = []
        for _ in range(shuffles):
            order = torch.arange(len(rows))
            order[places] = places[torch.randperm(len(places), generator=generator)]
            others.append(recalls(rows[order]))
        test = paired_test(own, np.mean(others, axis=0))
        table[m] = test.mean_a, test.mean_b, test.p_value, test.num
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["recall", "shuffled", "p_value", "users"])
    frame = frame.assign(p_value=holm(frame["p_value"])).rename_axis("modality")
    frame.attrs["metric"] = f"recall@{as_integer(k, 'k')}"
    return frame


def validated_ranking(data: HeteroData, k: int = 20) -> pd.DataFrame | None:
    """Return :func:`content_ranking` on the validation part, or :obj:`None` where there is nothing to rank.

    Modalities with more than :math:`2^{27}` numbers in a row for every user and item are left out.

    Args:
        data: The graph.
        k: The cut-off; the number of items if it is larger.
    """
    rows = data["user"].num_nodes + data["item"].num_nodes
    small = [m for m in data.modalities if rows * data["item"][m].size(-1) <= MOST_NUMBERS]
    if not small or held_out(data, "val").cpu()[0].unique().numel() < 2:
        return None
    return content_ranking(data, "val", min(k, data["item"].num_nodes), small)


def silent_modalities(ranking: pd.DataFrame) -> list[str]:
    """Return the modalities whose features rank no better than shuffled ones; none where users are too few to tell.

    Args:
        ranking: What :func:`content_ranking` returned.
    """
    return [str(m) for m, row in ranking.to_dict("index").items() if is_silent(**row)]


def is_silent(recall: float, shuffled: float, p_value: float, users: float) -> bool:
    """Return whether features rank no better than shuffled ones, of users enough to tell.

    Args:
        recall: Recall of the features.
        shuffled: Recall of shuffled features.
        p_value: Whether they differ.
        users: How many users that is the mean of.
    """
    return users >= ENOUGH and not (recall > shuffled and p_value < SILENT)


def with_content(description: DataDescription, data: HeteroData, k: int = 20) -> DataDescription:
    """Return the description of a data set with the ranking by each modality alone, and warnings of silent ones.

    Args:
        description: The description.
        data: The graph.
        k: The cut-off.
    """
    ranking = validated_ranking(data, k)
    if ranking is None:
        return description
    found = [
        f"silent features: {m}: rank no better than shuffled ones ({ranking.attrs['metric']} on "
        f"validation {ranking.loc[m, 'recall']:.4f}, shuffled {ranking.loc[m, 'shuffled']:.4f}); check that row i "
        "belongs to item i, or leave the modality out"
        for m in silent_modalities(ranking)
    ]
    return replace(description, content=ranking, warnings=[*description.warnings, *found])


def _rows(data: HeteroData, modality: str) -> tuple[Tensor, Tensor]:
    """Return centred features of norm one in float32, zeros where an item has none, and which items have some."""
    x = data["item"][modality].detach().cpu().double()
    x = x.reshape(len(x), -1)
    says, has = torch.isfinite(x).all(dim=1), data["item"].get(f"has_{modality}")
    says = says if has is None else says & has.cpu()
    if bool(says.any()):
        says[says.nonzero().squeeze(1)] = ~without_content(x[says])
    x = x.masked_fill(~says.unsqueeze(1), 0)
    x = (x - x.sum(dim=0) / says.sum().clamp(min=1)) * says.unsqueeze(1)
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return F.normalize(x / largest).float(), says


def _sums(train: np.ndarray, size: tuple[int, int], rows: Tensor) -> Tensor:
    from scipy.sparse import csr_matrix

    met = csr_matrix((np.ones(train.shape[1], dtype=np.float32), (train[0], train[1])), shape=size)
    return torch.from_numpy(np.asarray(met @ rows.numpy()))
