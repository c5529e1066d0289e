"""Some columns of a model at a time: inference of backbones that treat every column by itself, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn

from pyg_ckd.memory import returned_memory
from pyg_ckd.nn.bounded import column_groups, empty_table

M = TypeVar("M", bound=nn.Module)


def narrowed(model: M, dims: Mapping[str, int], columns: slice) -> M:
    """Return a model with some columns of its embeddings, whose parameters are parts of the given one's memory.

    Args:
        model: The model, which stays as it is.
        dims: The dimension of parameters along which the columns lie, by what stands before the first dot of their
            names. All others are whole.
        columns: The columns.
    """
    parts: dict[int, Tensor] = {}
    for name, x in chain(model.named_parameters(), model.named_buffers()):
        dim = dims.get(name.split(".")[0])
        part = x.detach()
        parts[id(x)] = part if dim is None else part.narrow(dim, columns.start, columns.stop - columns.start)
    # What the model keeps beside, such as the ids of all users, is shared; lists and mappings it may write to are not.
    kept = [x for x in vars(model).values() if not isinstance(x, (Tensor, dict, list, set))]
    return copy.deepcopy(model, {id(x): x for x in kept} | parts)  # Takes the parts for the copies of the parameters.


def by_columns(
    model: M, dims: Mapping[str, int], width: int, streams: int, compute: Callable[[M], Sequence[Tensor]]
) -> list[Tensor]:
    """Return the tables that a model computes, from some of its columns at a time.

    At the peak there are the tables, and what the computation of some columns takes.

    Args:
        model: The model.
        dims: As in :func:`narrowed`.
        width: Columns of the tables.
        streams: As in :func:`~pyg_ckd.nn.bounded.column_groups`.
        compute: Returns the tables of a model; what is one tensor among them stays one.
    """
    tables: list[Tensor] = []
    with returned_memory():
        for columns in column_groups(width, streams):
            _compute_columns(tables, compute, narrowed(model, dims, columns), columns, width)
    return tables


def _compute_columns(
    tables: list[Tensor], compute: Callable[[M], Sequence[Tensor]], part: M, columns: slice, width: int
) -> None:
    """Compute some columns, in a function of its own so that nothing of them is left when the next ones come."""
    found = compute(part)
    if not tables:
        distinct = {id(x): empty_table(x, x.size(0), width) for x in found}
        tables += [distinct[id(x)] for x in found]
    for table, x in {id(table): (table, x) for table, x in zip(tables, found, strict=True)}.values():
        table[:, columns] = x
