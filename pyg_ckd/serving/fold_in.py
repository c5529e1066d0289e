"""Features and means that stand for newcomers; :class:`~pyg_ckd.data.ridge.Ridge` maps them to embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import as_features, check_finite
from pyg_ckd.data.columns import labels_of
from pyg_ckd.data.frames import in_order_of
from pyg_ckd.data.impute import recorded
from pyg_ckd.data.precision import as_double, reads_double
from pyg_ckd.data.prepared import changed, current
from pyg_ckd.data.ridge import Ridge as Ridge
from pyg_ckd.data.ridge import within_known
from pyg_ckd.data.transforms import prepare_rows
from pyg_ckd.errors import InputError, unknown_name


class RidgeUsers:
    """Users as a linear function of the mean embedding of what they have met.

    Args:
        ridge: The function.
    """

    def __init__(self, ridge: Ridge) -> None:
        self.ridge = ridge

    def __call__(self, item: Tensor, row: Tensor, member: Tensor, size: int) -> Tensor:
        """Return the embeddings of users ``[size, D]``; arguments are those of :func:`mean_of`."""
        return self.ridge(mean_of(item, row, member, size))


def mean_of(table: Tensor, row: Tensor, member: Tensor, size: int) -> Tensor:
    """Return the mean over each row's members of their rows in ``table``, ``[size, D]``.

    Args:
        table: Rows ``[I, D]``.
        row: int64 ``[E]``, from 0 to ``size - 1``; every row has a member.
        member: int64 ``[E]``, rows of ``table``.
        size: Number of rows of the result.
    """
    total = table.new_zeros(size, table.size(1))
    for part, chosen in zip(row.split(2**20), member.split(2**20), strict=True):
        total.index_add_(0, part, table.index_select(0, chosen))
    return total / torch.bincount(row, minlength=size).clamp(min=1).unsqueeze(1)


def stack_features(
    data: HeteroData,
    features: Mapping[str, Any],
    known: Mapping[str, Any] | None = None,
    transformed: bool = False,
    ids: Any = None,
) -> tuple[Tensor, Tensor, Any]:
    """Return features of the items of a graph and of new items, modalities side by side on the CPU, and the new ids.

    Features are prepared as those of the graph were, by the transforms that ``data.prepared`` holds. Columns of frames
    are joined by name where those of the graph had names.

    Args:
        data: The graph.
        features: From modality to the matrix ``[n, d_m]`` of the new items, as it was read; the imputation of the graph
            stands for one that is left out.
        known: From every modality to the matrix ``[num_items, d_m]`` of the graph's items, as it was read; rows of
            items that lack the modality may hold anything. (default: :obj:`None`, the features of the graph)
        transformed: Whether features are prepared already. (default: :obj:`False`)
        ids: The ids of the new items, by which frames are joined. (default: :obj:`None`, those of the frames)

    Raises:
        InputError: If a modality is unknown or missing, frames do not fit the ids, a matrix has a wrong shape or is not
            finite, or the features of the graph were changed since they were prepared.

    Warns:
        UserWarning: If features are far outside of those of the graph, see :func:`~pyg_ckd.data.ridge.far_outside`.
    """
    for what, one in (("new items", features), ("known items", {} if known is None else known)):
        if not isinstance(one, Mapping):
            raise InputError(
                f"{what}: found features of type {type(one).__name__}, expected a mapping from names of modalities "
                f"to matrices, such as {{{next(iter(data.modalities), 'visual')!r}: x}}"
            )
    modalities, num_items = list(data.modalities), data["item"].num_nodes
    for m in (*features, *(known or ())):
        if m not in modalities:
            raise unknown_name("modality", m, modalities)
    if not features:
        raise InputError(f"new items: found no features, expected those of {', '.join(modalities)}")
    records = {} if transformed else {m: current(data, m) for m in modalities}
    columns = {m: names for m, record in records.items() if (names := labels_of(record)) is not None}
    if known is not None:
        there = getattr(data, "item_id", None)
        there = range(num_items) if there is None else there
        known, _, labels = in_order_of(known, there, "known items", columns)
        columns = labels | columns
    features, ids, _ = in_order_of(features, ids, "new items", columns)
    given = {m: as_features(x, m, "new items") for m, x in features.items()}
    if not transformed:
        double = [m for m in given if reads_double(current(data, m))]
        given |= {m: as_double(features[m], "new items") for m in double}
    count = next(iter(given.values())).size(0)
    old, new = {}, {}
    for m in modalities:
        if known is not None and m not in known:
            raise InputError(f"known items: found no features {m!r}, expected those of every modality")
        record = records.get(m)
        if not transformed and known is None and changed(data, m):
            raise InputError(
                f"new items: features of {m!r} were changed since the graph was built, so that new ones cannot be "
                f"prepared alike; give known_features, or features on the scale of the graph and transformed=True"
            )
        x = data["item"][m].cpu()
        width = record["dim"] if record is not None and record["steps"] else x.size(1)
        if known is not None:
            matrix = as_features(known[m], m, "known items")
            matrix = as_double(known[m], "known items") if reads_double(record) else matrix
            width = width if record is not None and record["steps"] else matrix.size(1)
            x = _known(data, m, _checked(matrix, num_items, width, m, "known items"), record)
        old[m] = x
        if m in given:
            matrix = _checked(given[m], count, width, m, "new items")
            check_finite(matrix, None, m, "new items", f"add items that lack the modality by themselves, without {m!r}")
            new[m] = matrix if record is None else _prepared(matrix, record)
    for m in modalities:
        if m not in new:
            alike = known is None or torch.equal(old[m], data["item"][m].cpu())
            rows = recorded(current(data, m)).new_rows(data, m, new, count).cpu() if alike else None
            new[m] = old[m].mean(dim=0, keepdim=True).expand(count, -1) if rows is None else rows

    def name(row: int) -> Any:
        given = [] if ids is None else [ids] if isinstance(ids, (str, int)) else list(ids)
        one = given[row] if row < len(given) else num_items + row
        return one.item() if hasattr(one, "item") else one

    near = within_known(old, {m: new[m] for m in modalities}, name, "new items")
    return torch.cat([old[m] for m in modalities], dim=1), torch.cat(near, dim=1), ids


def _known(data: HeteroData, modality: str, x: Tensor, record: Mapping[str, Any] | None) -> Tensor:
    """Return given features of the items of a graph, prepared; those of the graph where they are the same."""
    there, has = data["item"][modality].cpu(), data["item"].get(f"has_{modality}")
    has = None if has is None or bool(has.all()) else has.cpu()
    if record is None:
        check_finite(x, None, modality, "known items")
        return x
    check_finite(x, has, modality, "known items")
    rows = _prepared(x if has is None else x[has], record)
    same = there if has is None else there[has]
    if rows.shape == same.shape and torch.allclose(rows, same, rtol=1e-4, atol=1e-5 * float(same.abs().max())):
        return there
    if has is None:
        return rows
    out = rows.double().mean(dim=0).to(rows.dtype).repeat(x.size(0), 1)
    out[has] = rows
    return out


def _prepared(x: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Return features of other items as those of a graph were prepared, in single precision at most."""
    rows = prepare_rows(x, record)
    return rows.float() if rows.dtype == torch.float64 else rows


def _checked(x: Tensor, rows: int, columns: int, modality: str, source: str) -> Tensor:
    if x.shape != (rows, columns):
        raise InputError(
            f"{source}: {modality!r} has shape {list(x.shape)}, expected [{rows}, {columns}]: a row for each "
            "item, and the same columns for known and new items"
        )
    return x
