"""What is in a data set, and what is wrong with it: the numbers behind ``pyg-ckd data describe``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_seed
from pyg_ckd.data.blockwise import Digests, Spread, repeated
from pyg_ckd.data.checks import SPLITS, check_size, finite_rows
from pyg_ckd.data.inputs import check_features, check_graph, held_out
from pyg_ckd.data.mapped import row_blocks
from pyg_ckd.data.neighbors import knn_graph
from pyg_ckd.data.summary import describe
from pyg_ckd.data.transforms import StandardizeFeatures
from pyg_ckd.scoring.pairs import pair_keys

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
FEW_USERS = 50
"""With fewer users in a part, what is measured on it rests on few."""
SCALES_APART = 100.0
"""From this ratio of their median row norms on, modalities have wildly different scales."""


@dataclass(frozen=True)
class Modality:
    """The features of one modality, over the rows of items that have it and are finite.

    Attributes:
        dim: Number of columns.
        coverage: Share of the items that have the modality, by the mask.
        not_finite: Number of items that have it with a NaN or an infinite value.
        zeros: Number of items that have it with only zeros.
        identical: Number of items that have it with the same features as another item, without those with only zeros.
        constant: Number of columns with a single value.
        repeated: Number of columns with the same values as another one; constant columns are not counted.
        row_norm: Quantiles of the Euclidean norm of the rows.
        column_std: Quantiles of the standard deviation of the columns.
        binary: Whether every column has two values at most.
        outliers: Columns of which a single item holds more than half of the variance, with the row of the item and its
            share. Columns in which most items have the same value, such as those of rare tags, are left out, and all of
            fewer than 20 items.
        effective_rank: :math:`\\exp(-\\sum_i p_i \\log p_i)` for the singular values
            :math:`p_i = \\sigma_i / \\sum_j \\sigma_j` of the centred rows (Roy and Vetterli, *The effective rank*,
            EUSIPCO 2007), between 1 and ``dim``; 0 if all rows are the same.
    """

    dim: int
    coverage: float
    not_finite: int
    zeros: int
    identical: int
    constant: int
    repeated: int
    row_norm: dict[str, float]
    column_std: dict[str, float]
    binary: bool
    outliers: dict[int, tuple[int, float]]
    effective_rank: float


@dataclass(frozen=True)
class Agreement:
    """How much two modalities agree on which items are similar.

    Attributes:
        first: One modality.
        second: The other modality.
        overlap: Mean share of the nearest neighbours of an item that both have in common.
        chance: The overlap of random neighbours.
        items: Number of items that were compared: those that have both modalities, or a sample of them.
    """

    first: str
    second: str
    overlap: float
    chance: float
    items: int


@dataclass(frozen=True)
class DataDescription:
    """The results of :func:`describe_data`.

    Attributes:
        facts: Source, sizes, density and fingerprint, see :func:`pyg_ckd.data.summary.describe`.
        splits: For each split its numbers of ``interactions``, ``users`` and ``items``, of ``duplicates`` (repetitions
            of an interaction), and of ``cold_users`` and ``cold_items``, who have no training interaction.
        degrees: Training interactions of every user (``user``) and item (``item``), int64.
        modalities: The features of each modality.
        agreement: Each pair of modalities that some items have both.
        k: Number of neighbours of an item that :attr:`agreement` compares.
        warnings: Problems and oddities, one line each: what, where, and what to do about it.
        content: Recall of ranking by each modality alone, as of :func:`pyg_ckd.evaluation.content_ranking`, or
            :obj:`None`; :func:`pyg_ckd.evaluation.with_content` adds it.
    """

    facts: dict[str, Any]
    splits: dict[str, dict[str, int]]
    degrees: dict[str, np.ndarray]
    modalities: dict[str, Modality]
    agreement: list[Agreement]
    k: int
    warnings: list[str]
    content: pd.DataFrame | None = None

    def degree_quantiles(self) -> dict[str, dict[str, float]]:
        """Return mean and quantiles of the number of training interactions of users and of items."""
        return {
            kind: {"mean": float(degree.mean())} | quantiles(torch.from_numpy(degree))
            for kind, degree in self.degrees.items()
        }


def describe_data(data: HeteroData, k: int = 10, sample: int = 10_000, seed: int = 0) -> DataDescription:
    """Compute statistics of interactions and features, and look for what is wrong with them.

    A graph with repeated interactions or features that are not finite, which :func:`build_data` refuses, comes from a
    reader with ``strict=False``. Rows should be as in the source: ``transform="none"`` and ``impute="given"``.

    Args:
        data: The graph.
        k: Number of nearest neighbours of an item by which modalities are compared; fewer if there are fewer items.
        sample: Largest number of items for effective rank and agreement; larger catalogues are sampled.
        seed: Seeds the sample.

    Raises:
        InputError: If ``k`` or ``sample`` is not positive, or features are no dense tensors.
    """
    check_graph(data)
    check_features(data, data.modalities)
    check_size(k, "k", "describe", inferred=False)
    check_size(sample, "sample", "describe", inferred=False)
    k, sample = int(k), int(sample)
    generator = torch.Generator().manual_seed(as_seed(seed))
    order = torch.randperm(data["item"].num_nodes, generator=generator)
    usable = {m: _usable(data, m) for m in data.modalities}
    modalities = {m: _modality(data, m, usable[m], order, sample) for m in data.modalities}
    keys = {split: _keys(data, split) for split in SPLITS}
    splits = _splits(data, keys)
    degrees = {
        kind: torch.bincount(row, minlength=data[kind].num_nodes).numpy()
        for kind, row in zip(("user", "item"), held_out(data, "train"), strict=True)
    }
    return DataDescription(
        facts=describe(data),
        splits=splits,
        degrees=degrees,
        modalities=modalities,
        agreement=_agreement(data, usable, order, k, sample),
        k=k,
        warnings=[
            *_repetition_warnings(splits, keys, data["item"].num_nodes),
            *_split_warnings(splits),
            *_feature_warnings(modalities, data["item"].num_nodes),
            *_scale_warnings(modalities),
        ],
    )


def quantiles(values: Tensor) -> dict[str, float]:
    """Return the quantiles of :data:`QUANTILES`, none of no values.

    Args:
        values: Numbers ``[N]``.
    """
    if values.numel() == 0:
        return {}
    levels = np.quantile(values.double().numpy(), list(QUANTILES.values()))
    return dict(zip(QUANTILES, levels.tolist(), strict=True))


def effective_rank(x: Tensor) -> float:
    """Return the effective rank of the centred rows of a matrix, see :class:`Modality`.

    Args:
        x: Features, float ``[N, d]``.
    """
    wide = x.double()
    wide = wide - wide.mean(dim=0)
    gram = wide.t() @ wide if wide.size(0) >= wide.size(1) else wide @ wide.t()
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = float(values.sum())
    # What rounding leaves of rows that are all the same is no direction.
    if not total > 1e-6 * float(x.double().norm()):
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def neighbor_overlap(first: Tensor, second: Tensor, k: int) -> float:
    """Return the mean share of the ``k`` nearest rows, by the cosine, that each row has in common in two matrices.

    Args:
        first: Features, float ``[N, d]``.
        second: Features of the same items, float ``[N, d']``.
        k: Neighbours of a row, from 1 to ``N - 1``; the row itself is none.
    """
    near = [knn_graph(x, k, include_self=False)[0][0].view(-1, k) for x in (first, second)]
    shared = [
        (a.unsqueeze(2) == b.unsqueeze(1)).any(dim=2).sum() for a, b in zip(*(n.split(4096) for n in near), strict=True)
    ]
    return float(torch.stack(shared).sum()) / near[0].numel()


def _usable(data: HeteroData, modality: str) -> Tensor:
    """Return which items have a modality and finite features of it."""
    has = data["item"].get(f"has_{modality}")
    finite = finite_rows(data["item"][modality])
    return finite if has is None else finite & has


def _modality(data: HeteroData, m: str, usable: Tensor, order: Tensor, sample: int) -> Modality:
    """Go through the rows twice, block by block, so that features in files of any size can be described."""
    x = data["item"][m]
    has, width = data["item"].get(f"has_{m}", torch.ones_like(usable)), x.size(1)
    low, high = torch.full((width,), torch.inf), torch.full((width,), -torch.inf)
    total = torch.zeros(width, dtype=torch.float64)
    norms, count = [torch.empty(0, dtype=torch.float64)], int(usable.sum())
    digests = Digests(width)
    for rows in _usable_rows(x, usable):
        low, high = torch.minimum(low, rows.amin(dim=0)), torch.maximum(high, rows.amax(dim=0))
        total += rows.sum(dim=0, dtype=torch.float64)
        norms.append(rows.norm(dim=1, dtype=torch.float64))
        digests.add(rows)
    spread = Spread(total / count, low, high)
    for rows in _usable_rows(x, usable):
        spread.add(rows)
    constant, norm = (low == high) | (count == 0), torch.cat(norms)
    chosen = order[usable[order]][:sample]
    return Modality(
        dim=width,
        coverage=float(has.double().mean()),
        not_finite=int((has & ~usable).sum()),
        zeros=int((norm == 0).sum()),
        identical=repeated(digests.rows[norm > 0], every=True),
        constant=int(constant.sum()),
        repeated=repeated(digests.columns[~constant], every=False),
        row_norm=quantiles(norm),
        column_std=quantiles((spread.square / count).sqrt()) if count else {},
        binary=bool((spread.at_ends == count).all()),
        outliers=spread.outliers(usable),
        effective_rank=effective_rank(x[chosen].float()) if chosen.numel() else 0.0,
    )


def _usable_rows(x: Tensor, usable: Tensor) -> Iterator[Tensor]:
    """Yield blocks of the rows that are there and finite, float32, none of them empty."""
    for start, block in row_blocks(x):
        chosen = usable[start : start + block.size(0)]
        if bool(chosen.any()):
            yield (block if bool(chosen.all()) else block[chosen]).float()


def _agreement(data: HeteroData, usable: Mapping[str, Tensor], order: Tensor, k: int, sample: int) -> list[Agreement]:
    """Compare modalities with each other on features as models see them by default, standardized."""
    found = []
    for first, second in combinations(data.modalities, 2):
        both = order[(usable[first] & usable[second])[order]][:sample].sort().values
        near = min(k, both.numel() - 1)
        if near < 1:
            continue
        x, y = (StandardizeFeatures().transform_rows(data["item"][m][both].float()) for m in (first, second))
        chance = near / (both.numel() - 1)
        found.append(Agreement(first, second, neighbor_overlap(x, y, near), chance, both.numel()))
    return found


def _splits(data: HeteroData, keys: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    train = held_out(data, "train")
    out = {}
    for split in SPLITS:
        edges = held_out(data, split)
        rows = [row.unique() for row in edges]
        cold = [int((~torch.isin(row, seen)).sum()) for row, seen in zip(rows, train, strict=True)]
        out[split] = {
            "interactions": edges.size(1),
            "users": rows[0].numel(),
            "items": rows[1].numel(),
            "duplicates": edges.size(1) - keys[split].size,
            "cold_users": cold[0],
            "cold_items": cold[1],
        }
    return out


def _keys(data: HeteroData, split: str) -> np.ndarray:
    """Return the different interactions of a split as sorted numbers ``user * num_items + item``."""
    user, item = held_out(data, split)
    return pair_keys(user, item, data["item"].num_nodes).unique().numpy()


def _repetition_warnings(
    splits: Mapping[str, Mapping[str, int]], keys: Mapping[str, np.ndarray], num_items: int
) -> list[str]:
    out = [
        f"duplicates: {split} repeats {about['duplicates']:,} of its {about['interactions']:,} interactions; keep one "
        "of each, a data set with duplicates is refused"
        for split, about in splits.items()
        if about["duplicates"]
    ]
    for first, second in combinations(SPLITS, 2):
        shared = np.intersect1d(keys[first], keys[second], assume_unique=True)
        if shared.size:
            user, item = divmod(int(shared[0]), num_items)
            out.append(
                f"leakage: {second} shares {shared.size:,} of its {splits[second]['interactions']:,} interactions with "
                f"{first}, the first is user {user}, item {item}; remove them from one of the two, a data set with "
                "leakage is refused"
            )
    return out


def _split_warnings(splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    out = []
    for split in ("val", "test"):
        about = splits[split]
        if about["interactions"] == 0:
            out.append(f"splits: {split} is empty; split in another way to have something to measure on")
        if 0 < about["users"] < FEW_USERS:
            what = "the choice of epochs and winners rests" if split == "val" else "all comparisons rest"
            users = f"{about['users']} user{'s' if about['users'] > 1 else ''}"
            out.append(f"few users: {what} on {users} of {split}; hold out more")
        if about["cold_users"]:
            out.append(
                f"cold users: {about['cold_users']:,} of {about['users']:,} users of {split} have no training "
                "interaction; nothing personal can be recommended to them"
            )
        if about["cold_items"]:
            out.append(
                f"cold items: {about['cold_items']:,} of {about['items']:,} items of {split} have no training "
                "interaction; only features can find them, so evaluate cold and warm items apart"
            )
    return out


def _feature_warnings(modalities: Mapping[str, Modality], num_items: int) -> list[str]:
    out = []
    for m, about in modalities.items():
        items, columns = f"of {num_items:,} items", f"of {about.dim:,} columns"
        mark = f"mark them in has_{m}"
        missing = num_items - round(about.coverage * num_items)
        found = [
            (missing, "coverage", f"missing in {{}} {items}; the option impute says what stands in"),
            (about.not_finite, "not finite", f"NaN or infinite in {{}} {items}, which is refused; repair or {mark}"),
            (about.zeros, "empty items", f"nothing but zeros in {{}} {items}; if they lack the modality, {mark}"),
            (about.identical, "identical items", f"as in another item in {{}} {items}; content cannot tell them apart"),
            (about.constant, "constant columns", f"a single value in {{}} {columns}; leave them out"),
            (about.repeated, "duplicate columns", f"the same as in another column in {{}} {columns}; leave them out"),
        ]
        out += [f"{kind}: {m}: {text.format(f'{count:,}')}" for count, kind, text in found if count]
        out += _column_warnings(m, about)
    return out


def _column_warnings(m: str, about: Modality) -> Iterator[str]:
    if about.outliers:
        column, (row, share) = next(iter(about.outliers.items()))
        yield (
            f"outliers: {m}: a single item holds more than half of the variance in {len(about.outliers):,} of "
            f"{about.dim:,} columns, first item {row} with {100 * share:.1f} % in column {column}; standardized, the "
            "others lie close together there, so clip such values, or take logarithms"
        )
    varied = about.dim - about.constant - about.repeated
    if varied in (1, 2) and not about.binary:
        seen = "the sign of its one column" if varied == 1 else "the direction of its two columns"
        yield (
            f"few columns: {m}: nearest neighbours and kernels by the cosine see only {seen}; give it as several "
            "columns, such as one-hot bins of its values"
        )


def _scale_warnings(modalities: Mapping[str, Modality]) -> list[str]:
    norms = {m: about.row_norm["median"] for m, about in modalities.items() if about.row_norm.get("median", 0) > 0}
    if not norms:
        return []
    small, large = min(norms, key=lambda m: norms[m]), max(norms, key=lambda m: norms[m])
    if norms[large] < SCALES_APART * norms[small]:
        return []
    return [
        f"scales: rows of {large} are {norms[large] / norms[small]:,.0f} times as long as those of {small}; keep the "
        "transform standardize, or take l2"
    ]
