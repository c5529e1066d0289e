"""Who is who in two graphs: users and items of an earlier one are found in a later one by their ids."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.columns import COLUMN_LABELS, check_labels, labels_of, places
from pyg_ckd.data.ids import as_ids, comparable, id_column, rows_among, value_at
from pyg_ckd.data.inputs import EdgeType, check_whole
from pyg_ckd.data.mapped import row_blocks
from pyg_ckd.data.prepared import current, same_steps, settings_of
from pyg_ckd.errors import InputError, unknown_name

KINDS = ("user", "item")
Ids = Tensor | list[str] | None
ENOUGH, ALIKE = 30, 0.5
"""Known items from which on features are compared, and the correlation with the earlier ones that they must have."""
SCALES, LAGS = 0.1, (1, 2, 3, 5, 7, 11, 13, 17)
"""How much larger or smaller features may be than before, and how far apart the rows are whose items are compared."""


@dataclass(frozen=True)
class Identity:
    """What the rows and columns of a model's tables stand for.

    Attributes:
        sizes: Number of users and of items.
        feature_dims: Feature width of every modality, in order.
        ids: The id of every row of users and of items; :obj:`None` where ids are row numbers.
        prepared: What was done to the features, by modality, see :mod:`pyg_ckd.data.prepared`.
        marks: What :func:`feature_marks` says of every modality; empty if nobody kept it.
    """

    sizes: Mapping[str, int]
    feature_dims: Mapping[str, int]
    ids: Mapping[str, Ids] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What of a graph an earlier model knows.

    Attributes:
        user: Row of every user in the earlier graph, int64 ``[U]``, -1 for new ones.
        item: Row of every item in the earlier graph, int64 ``[I]``, -1 for new ones.
        modality: Position of every modality in the earlier graph, -1 for new ones, int64 ``[M]``.
        modalities: Names of the modalities.
        source: Where the earlier model is from.
        earlier: Returns the earlier backbone, with the features and the interactions and graphs that it was trained on;
            :obj:`None`, after a warning, where these cannot be had. (default: :obj:`None`, nobody knows it)
    """

    user: Tensor
    item: Tensor
    modality: Tensor
    modalities: tuple[str, ...]
    source: str
    earlier: Callable[[], tuple[Any, dict[str, Tensor], dict[EdgeType, Tensor]] | None] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def new_modalities(self) -> tuple[str, ...]:
        """Names of the modalities that the earlier graph had not."""
        return tuple(m for m, row in zip(self.modalities, self.modality.tolist(), strict=True) if row < 0)

    def __str__(self) -> str:
        parts = [f"{int((rows >= 0).sum())} of {rows.numel()} {kind}s" for kind, rows in self._rows.items()]
        new = f", new modalities {', '.join(self.new_modalities)}" if self.new_modalities else ""
        return f"{self.source} knows {' and '.join(parts)}{new}"

    @property
    def _rows(self) -> dict[str, Tensor]:
        return {"user": self.user, "item": self.item}


def identity_of(data: HeteroData) -> Identity:
    """Return what the rows of a graph stand for.

    Args:
        data: The graph.

    Raises:
        InputError: If it was cut, so that its ids are those of other rows, or ids are as in :func:`ids_of`.
    """
    check_whole(data, with_ids=True)
    ids = {kind: ids_of(data, kind) for kind in KINDS}
    records = {m: current(data, m) for m in data.modalities}
    return Identity(
        {kind: data[kind].num_nodes for kind in KINDS},
        {m: data["item"][m].size(1) for m in data.modalities},
        ids,
        {m: record for m, record in records.items() if record is not None},
        {m: feature_marks(data, m) for m in data.modalities},
    )


def feature_marks(data: HeteroData, modality: str) -> Tensor:
    """Return two numbers of every item that tell its features from others, float32 ``[I, 2]``, NaN where it has none.

    They are sums of the features with fixed weights, so that they hardly differ where features differ by rounding.

    Args:
        data: The graph.
        modality: The modality.
    """
    x, has = data["item"][modality].cpu(), data["item"].get(f"has_{modality}")
    place = torch.arange(1, x.size(1) + 1, dtype=torch.float64)
    weights = torch.stack([torch.cos(place.square() * step) for step in (0.7, 1.3)], dim=1)
    marks = torch.cat([part.double() @ weights for _, part in row_blocks(x)]).float()
    return marks if has is None else marks.masked_fill(~has.cpu().unsqueeze(1), float("nan"))


def ids_of(data: HeteroData, kind: str) -> Tensor | list[str] | None:
    """Return the ids of a kind of nodes, an int64 tensor or a list of strings; :obj:`None` if they have none.

    Args:
        data: The graph.
        kind: ``"user"`` or ``"item"``.

    Raises:
        InputError: If there are more or fewer ids than nodes, or one is there twice.
    """
    values = getattr(data, f"{kind}_id", None)
    if values is None:
        return None
    column = id_column(values, f"{kind}_id")
    if len(column) != data[kind].num_nodes or not column.is_unique:
        found = f"{len(column)} ids" if column.is_unique else f"{value_at(column[column.duplicated()], 0)!r} twice"
        raise InputError(f"{kind}_id: found {found}, expected {data[kind].num_nodes} different ones, one per {kind}")
    return as_ids(column)


def usable_ids(data: HeteroData) -> dict[str, Ids]:
    """Return ids by kind, int64 tensors or lists of strings; :obj:`None` where there are none that can be used.

    Args:
        data: The graph.

    Warns:
        UserWarning: If ids cannot be used, such as those of which one is there twice.
    """
    return {kind: _ids_or_none(data, kind) for kind in KINDS}


def with_ids(data: HeteroData, ids: Mapping[str, Any]) -> HeteroData:
    """Return a shallow copy of a graph that has ids.

    Args:
        data: The graph.
        ids: What :func:`usable_ids` returned.
    """
    out = copy.copy(data)
    for kind, values in ids.items():
        if values is not None:
            out[f"{kind}_id"] = values
    return out


def other_ids(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Return a text that names the first row of two graphs that has another id in each, or :obj:`None`.

    Args:
        first, second: What :func:`usable_ids` returned of each; without ids on one side, none is another.
    """
    for kind in KINDS:
        pair = first.get(kind), second.get(kind)
        if pair[0] is None or pair[1] is None:
            continue
        one, other = comparable(*(id_column(ids, f"{kind}_id") for ids in pair))
        if len(one) != len(other):
            return f"{len(one)} and {len(other)} {kind}s"
        differ = np.flatnonzero(one.to_numpy() != other.to_numpy())
        if differ.size:
            row = int(differ[0])
            return f"{kind} {value_at(one, row)!r} and {kind} {value_at(other, row)!r} in row {row}"
    return None


def digest_of_ids(ids: Mapping[str, Ids]) -> str:
    """Return a digest of the ids of users and items.

    Args:
        ids: The ids, by kind.
    """
    digest = hashlib.sha256()
    for kind, values in sorted(ids.items()):
        digest.update(f"|{kind}:{values.tolist() if isinstance(values, Tensor) else values}".encode())
    return digest.hexdigest()[:16]


def match(earlier: Identity, later: Identity, source: str, new_modalities: bool = False) -> Known:
    """Find the users, items and modalities of a graph among those of an earlier one.

    Where neither graph has ids, rows are the same by number and new ones stand at the end. Ids that are text in one
    graph and numbers in the other are compared as text.

    Args:
        earlier: The earlier graph.
        later: The later graph.
        source: Where the earlier one is from, for messages.
        new_modalities: Whether the later graph may have modalities that the earlier one has not.

    Raises:
        InputError: If one graph has ids and the other has none, no id of the one is in the other, rows without ids are
            fewer than before, or a modality is missing, new, of another width, prepared otherwise, has columns of
            other names or in another order, or features that have nothing to do with those that the same items had or
            are on another scale though they were prepared by the same numbers.
    """
    rows = {kind: _rows(earlier, later, kind, source) for kind in KINDS}
    names = list(earlier.feature_dims)
    for m in names:
        if m not in later.feature_dims:
            raise InputError(
                f"{source}: {unknown_name('modality', m, later.feature_dims)}; it was trained with {', '.join(names)}, "
                "expected the same modalities"
            )
    for m, width in later.feature_dims.items():
        if m in names:
            if width != earlier.feature_dims[m]:
                raise InputError(
                    f"{source}: found features of {m!r} of width {earlier.feature_dims[m]}, expected {width} as in the "
                    "graph; prepare them as they were"
                )
            _check_prepared(earlier.prepared.get(m), later.prepared.get(m), m, source)
            if m in earlier.marks and m in later.marks:
                replayed = _is_replayed(earlier.prepared.get(m), later.prepared.get(m))
                _check_marks(earlier.marks[m], later.marks[m], rows["item"], m, source, replayed)
        elif not new_modalities:
            raise InputError(
                f"{source}: it was trained without modality {m!r}, which the graph has; leave it out, or train with a "
                "strategy that takes new ones, such as incremental"
            )
    positions = [names.index(m) if m in names else -1 for m in later.feature_dims]
    return Known(rows["user"], rows["item"], torch.tensor(positions), tuple(later.feature_dims), source)


def _ids_or_none(data: HeteroData, kind: str) -> Ids:
    """Return the ids, or none with a warning if they cannot be used: a trained model must not be lost for that."""
    try:
        return ids_of(data, kind)
    except InputError as error:
        warnings.warn(f"{error}; ids of {kind}s are not stored with the model", stacklevel=4)
        return None


def _rows(earlier: Identity, later: Identity, kind: str, source: str) -> Tensor:
    old, new, size = earlier.ids.get(kind), later.ids.get(kind), later.sizes[kind]
    if old is None and new is None:
        if earlier.sizes[kind] > size:
            raise InputError(
                f"{source}: found {earlier.sizes[kind]} {kind}s without ids, but the graph has {size}; {kind}s without "
                f"ids are told apart by number and can only be added at the end: give the graphs ids, data.{kind}_id"
            )
        rows = torch.arange(size)
        return torch.where(rows < earlier.sizes[kind], rows, -1)
    if old is None or new is None:
        there, lacks = ("the graph", "the earlier model") if old is None else ("the earlier model", "the graph")
        raise InputError(
            f"{source}: {there} names {kind}s by ids and {lacks} has none, expected ids on both sides to match them; "
            f"build both graphs from frames, or with {kind}_id"
        )
    old_ids, new_ids = (id_column(x, f"ids of {kind}s") for x in (old, new))
    found = torch.from_numpy(rows_among(new_ids, old_ids))
    if not bool((found >= 0).any()):
        raise InputError(
            f"{source}: found no {kind} of the graph among its {len(old_ids)} {kind}s (there {_first(old_ids)}, here "
            f"{_first(new_ids)}), expected ids of the same kind"
        )
    return found


def _first(ids: pd.Series) -> str:
    return ", ".join(map(repr, ids.iloc[:2].tolist()))


def _check_marks(old: Tensor, new: Tensor, rows: Tensor, m: str, source: str, replayed: bool) -> None:
    """Refuse features that stand under other ids than before; a few new features are no reason.

    Nor is another scale, unless ``replayed`` says that features were prepared with the numbers that were recorded.
    """
    pairs = torch.cat([old[rows.clamp(min=0)], new], dim=1)[rows >= 0]
    pairs = pairs[pairs.isfinite().all(dim=1)].double()
    centred = pairs - pairs.mean(dim=0)
    norms = centred.square().sum(dim=0).sqrt()
    if len(pairs) < ENOUGH or not bool((norms > 1e-6 * (1 + pairs.abs().amax(dim=0))).all()):
        return  # Too few to tell, or all alike.
    alike = (centred[:, :2] * centred[:, 2:]).sum(dim=0) / (norms[:2] * norms[2:])
    if float(alike.max()) < ALIKE:
        raise InputError(
            f"{source}: features {m!r} of the {len(pairs)} items that both graphs know have nothing to do with each "
            f"other (correlation {float(alike.max()):.2f}), expected the same features under the same ids; were ids "
            "shuffled, or do the features come from another encoder? Then train anew"
        )
    scale = _scale(pairs, float(alike.max())) if replayed else 1.0
    if scale != 1:
        raise InputError(
            f"{source}: features {m!r} of the {len(pairs)} items that both graphs know lie {scale:.3g} times as far "
            "apart as they did, expected the earlier scale, whose means and deviations the graph was prepared with; "
            "were they read in other units, such as pixels up to 255 instead of 1? Bring them to the earlier ones, or "
            "train anew"
        )


def _scale(pairs: Tensor, alike: float) -> float:
    """Return how many times as far apart items are by the second two columns as by the first two, 1 if about as far.

    Each column is asked twice, by the median distance of items and by the median of quotients of distances: the one
    stays where all features change a little, the other where those of a few items change much. It is another scale if
    all say so, by more than a tenth and more than chance explains where features are less alike.
    """
    found, lags = [], [lag for lag in LAGS if lag < len(pairs)]
    apart = torch.cat([pairs - pairs.roll(lag, dims=0) for lag in lags]).abs()
    for before, after in zip(apart[:, :2].t(), apart[:, 2:].t(), strict=True):
        differ = before > 1e-6 * before.max()
        if not bool(differ.any()):
            return 1.0
        found += [float(after[differ].median() / before[differ].median()), float((after / before)[differ].median())]
    least = max(math.log(1 + SCALES), 3 * math.sqrt(max(1 - alike**2, 0.0) / len(pairs)))
    logs = [math.log(max(ratio, 1e-12)) for ratio in found]
    same_way = all(log > least for log in logs) or all(log < -least for log in logs)
    return sorted(found)[1] if same_way else 1.0


def _is_replayed(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Return whether features were prepared with the numbers that were recorded, as RecordedTransform does."""
    if old is None or new is None or not any("from" in step for step in new["steps"]):
        return False
    return same_steps(old["steps"], new["steps"])


def _check_prepared(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, m: str, source: str) -> None:
    """Refuse features whose columns do not mean what they meant; other means and deviations are no reason."""
    if old is None or new is None:  # Nobody knows what became of them.
        return
    where = f"{source}: features of {m!r}"
    check_labels(labels_of(new), labels_of(old), where)
    order = places(labels_of(new), labels_of(old))
    if order is not None:
        raise InputError(
            f"{where}: found the columns in another order than in training (the first was {old[COLUMN_LABELS][0]!r}, "
            f"now in place {order[0]}), expected the same; prepare the graph with "
            "transform=pyg_ckd.data.RecordedTransform(earlier), which brings them there, or order them yourself"
        )
    before, now = (settings_of(record["steps"]) for record in (old, new))
    if before != now:
        steps = [" and ".join(name for name, _ in names) or "no transform" for names in (before, now)]
        raise InputError(
            f"{source}: features of {m!r} were prepared by {steps[0]}, those of the graph by {steps[1]} or with other "
            "settings, expected the same; give the graph the transform that it had"
        )
    for was, step in zip(old["steps"], new["steps"], strict=True):
        first, second = (s.get("fitted", {}).get("components") for s in (was, step))
        if first is not None and not torch.allclose(first.cpu(), second.cpu(), rtol=0, atol=1e-3):
            raise InputError(
                f"{source}: the principal components of {m!r} were fitted anew, so that its columns mean something "
                "else; prepare the graph as the earlier one, with transform=pyg_ckd.data.RecordedTransform(earlier), "
                "or on the command line with --transform none, which applies the components in the earlier file"
            )
