"""The one place where a heterogeneous graph is unpacked into the arguments of a backbone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_geometric.data import Batch, HeteroData

from pyg_ckd.data.ids import comparable, id_column, value_at
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.modules import (
    check_forward,
    check_memory,
    checked_outputs,
    device_of,
    dtype_of,
    evaluating,
    lazy_parameters,
    module_views,
    reads_rows,
)
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.tables import check_dense
from pyg_ckd.scoring.views import as_views
from pyg_ckd.wrappers import unwrap

RATES = ("user", "rates", "item")
"""Edge type of the interactions."""

HELD_OUT = ("val_edge_index", "test_edge_index")
"""Names of the held-out interactions beside those."""

EdgeType = tuple[str, str, str]


def unpack(
    data: HeteroData,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    rows: bool = False,
    own: Mapping[str, slice] | None = None,
    interactions: bool = True,
) -> tuple[dict[str, Tensor], dict[EdgeType, Tensor]]:
    """Return ``(features, edge_index_dict)`` of a graph, the first two arguments of every backbone.

    Args:
        data: The graph.
        device: Device of the tensors; by default, they stay where they are.
        dtype: Floating-point type of the features; by default they stay as they are.
        rows: Whether features are read row by row, see :func:`~pyg_ckd.data.modules.reads_rows`: matrices in
            memory-mapped files then stay there, whatever the device and the type.
        own: The items whose features are read, by modality. (default: :obj:`None`, all items)
        interactions: Whether the training interactions are brought to the device too.

    Returns:
        ``features``, from modality to the float matrix ``[num_items, d_m]`` or its own rows, and ``edge_index_dict``,
        from edge type to the int64 indices ``[2, E]`` of the training interactions and of every further graph.
    """
    check_graph(data)
    features = {m: data["item"][m] for m in data.modalities}
    features |= {m: features[m][items] for m, items in (own or {}).items()}
    for m, x in features.items():
        if not rows or file_of(x) is None:
            features[m] = x.to(device=device, dtype=dtype)
    moved = data.edge_index_dict.items()
    return features, {kind: index.to(device) if interactions or kind != RATES else index for kind, index in moved}


@torch.no_grad()
def embed(model: nn.Module, data: HeteroData, views: Sequence[Any] | str | None = (None,)) -> list[Embeddings]:
    """Return the embeddings of a model in evaluation mode, one pair of tables for every view.

    Features are brought to the device and the floating-point type of the model's parameters.

    Args:
        model: A backbone, an objective, or any module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph.
        views: The views. (default: the full view alone)
    """
    model = unwrap(model)
    check_graph(data)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: found {type(model).__name__}, expected a backbone, an objective or a module with forward(x_dict, "
            "edge_index) -> (user, item): tables have no views"
        )
    check_memory(model)
    features, graph = unpack(data, device_of(model), dtype_of(model), reads_rows(model))
    with evaluating(model):
        if hasattr(model, "forward_views"):
            views = list(views) if isinstance(views, Iterator) else views
            number = None if isinstance(views, str) or views is None else len(as_views(views, data.modalities))
            outputs = model.forward_views(features, graph, views)  # type: ignore[operator]
            return checked_outputs(type(model).__name__, outputs, number)
        check_forward(model)
        sizes = (data["user"].num_nodes, data["item"].num_nodes)
        found = module_views(model, features, graph[RATES], as_views(views, data.modalities), sizes)
        return [out.detach() for out in found]


def check_kind(data: Any) -> None:
    """Refuse what is no heterogeneous graph, such as a data set or a batch instead of its graph.

    Args:
        data: What was given as the graph.

    Raises:
        InputError: If it is none.
    """
    if isinstance(data, Batch):
        raise InputError(
            "graph: found a batch of a loader, expected the graph that was batched; pass that graph, or one of "
            "batch.to_data_list()"
        )
    if not isinstance(data, HeteroData):
        mend = "make one with pyg_ckd.data.build_data"
        if isinstance(data, Dataset):
            mend = f"pass the graph of the data set, {type(data).__name__}(...)[0]"
        elif isinstance(data, nn.Module):
            mend = "the model comes first, as in fit(model, data)"
        raise InputError(f"graph: found {type(data).__name__}, expected a HeteroData; {mend}")


def check_graph(data: Any) -> None:
    """Refuse what is no graph of :func:`~pyg_ckd.data.build_data`, such as a data set instead of its graph.

    Only kinds, names and shapes are looked at, whatever the size of the graph.

    Args:
        data: What was given as the graph.

    Raises:
        InputError: If it is none, or lacks interactions, the names of its modalities or one of these, or interactions
            are no integers ``[2, E]``.
    """
    check_interactions(data)
    modalities = getattr(data, "modalities", None)
    if not isinstance(modalities, (list, tuple)):
        found = f"modalities {modalities!r} in the place of a list of names"
    elif any(not isinstance(m, str) for m in modalities):
        found = f"modalities {modalities!r} that are no names"
    elif any(m not in data["item"] for m in modalities):
        found = f"no features of items named {next(m for m in modalities if m not in data['item'])!r}"
    else:
        return
    raise InputError(
        f"graph: found {found}, expected a graph of pyg_ckd.data.build_data; build it with that, or set "
        "data.modalities and call pyg_ckd.data.check_data(data)"
    )


def check_features(data: HeteroData, modalities: Sequence[str]) -> None:
    """Refuse features of items that are no dense tensors.

    Args:
        data: The graph.
        modalities: Names of features of its items.

    Raises:
        InputError: If some are not.
    """
    for m in modalities:
        x = data["item"][m]
        if not isinstance(x, Tensor):
            found, mend = type(x).__name__, "call pyg_ckd.data.check_data(data), which converts it"
        elif x.is_nested or x.layout != torch.strided:
            found = "a nested tensor" if x.is_nested else "a sparse tensor"
            mend = f"write data['item'].{m}.{'to_padded_tensor(0.0)' if x.is_nested else 'to_dense()'}"
        else:
            continue
        raise InputError(f"graph: data['item'].{m}: found {found}, expected a dense tensor [N, d]; {mend}")


def check_interactions(data: Any) -> None:
    """Refuse what is no graph with training interactions in ``edge_index``, or has interactions of other shapes.

    Args:
        data: What was given as the graph.

    Raises:
        InputError: If it is none, has no training interactions, or interactions that are no integers ``[2, E]``.
    """
    check_kind(data)
    if RATES not in data.edge_types:
        raise InputError(
            f"graph: found no interactions of the type {RATES}, expected a graph of pyg_ckd.data.build_data; build it "
            "with that"
        )
    store = data[RATES]
    if store.get("edge_index") is None:
        adjacency = next((name for name in ("adj_t", "adj") if name in store), None)
        found, mend = "none", "it holds the training interactions"
        if adjacency is not None:
            found, mend = f"{adjacency} in its place", "leave ToSparseTensor out, or set its remove_edge_index=False"
        raise InputError(
            f"graph: data[{RATES}].edge_index is missing: found {found}, expected int64 [2, E] (user row, item row); "
            f"{mend}"
        )
    for name in ("edge_index", *HELD_OUT):
        edges = store.get(name)
        if edges is None or (name in HELD_OUT and isinstance(edges, Tensor) and not edges.numel()):
            continue
        if not isinstance(edges, Tensor):
            found, mend = type(edges).__name__, "call pyg_ckd.data.check_data(data), which converts it"
        elif edges.dim() != 2 or edges.size(0) != 2:
            found = f"shape {list(edges.shape)}"
            mend = "transpose it with .t()" if edges.dim() == 2 and edges.size(1) == 2 else "give two rows"
        elif edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool:
            found, mend = str(edges.dtype), "give row numbers"
        else:
            continue
        raise InputError(
            f"graph: data[{RATES}].{name}: found {found}, expected a tensor int64 [2, E] (user row, item row); {mend}"
        )


def as_tables(model: Any, data: HeteroData, view: Any = None) -> Embeddings:
    """Return the two tables of a model, or those that are given.

    Args:
        model: As in :func:`embed`; or :class:`~pyg_ckd.data.Embeddings`, or a pair of tensors or arrays (user
            ``[U, D]``, item ``[I, D]``).
        data: The graph.
        view: The view; tables have but one, which is that of :obj:`None`.

    Raises:
        InputError: If it is neither, tables are sparse or hold no numbers, or a view of tables is asked for.

    Warns:
        UserWarning: If a model was trained on other ids, see :func:`warn_of_other_ids`.
    """
    if isinstance(model, nn.Module):
        warn_of_other_ids(model, data)
        return embed(model, data, [view])[0]
    check_no_view(model, view)
    if isinstance(model, Embeddings) and all(isinstance(x, Tensor) and x.layout == torch.strided for x in model):
        return model
    pair = isinstance(model, (tuple, list)) and len(model) == 2
    if pair and all(isinstance(x, (Tensor, np.ndarray)) for x in model):
        user, item = (as_table(x) for x in model)
        dtype = torch.promote_types(user.dtype, item.dtype)
        return Embeddings(user.to(dtype), item.to(dtype))
    dense: Any = None if isinstance(model, Embeddings) else getattr(model, "dense", None)
    if dense is not None:  # Embeddings that are computed when they are read.
        return dense()
    parts = f" of {' and '.join(type(x).__name__ for x in model)}" if pair else ""
    raise InputError(
        f"model: found {type(model).__name__}{parts}, expected a backbone, an objective, a module with forward(x_dict, "
        "edge_index) -> (user, item), or a pair of tables (user [U, D], item [I, D])"
    )


def as_table(x: Tensor | np.ndarray) -> Tensor:
    """Return a table as a tensor, in the memory of an array where PyTorch can read it.

    Args:
        x: A tensor or an array, of any byte order and with steps of any sign.

    Raises:
        InputError: If it is sparse, or an array that holds no numbers.
    """
    if isinstance(x, Tensor):
        check_dense(x)
        return x
    if x.dtype.kind not in "biufc":
        raise InputError(
            f"embeddings: found an array of {x.dtype}, expected floating-point numbers; convert it with "
            ".astype('float32')"
        )
    if x.dtype.kind in "fc" and x.dtype.itemsize > 8 * (1 + (x.dtype.kind == "c")):
        x = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    readable = all(step >= 0 and step % x.itemsize == 0 for step in x.strides)
    return torch.as_tensor(x if readable else np.ascontiguousarray(x))


def check_no_view(model: Any, view: Any) -> None:
    """Refuse a view of what has none, as tables and closed forms.

    Args:
        model: What is no module.
        view: The view that was asked for.

    Raises:
        InputError: If it is not :obj:`None`.
    """
    if view is not None:
        raise InputError(
            f"view: found {view!r} of {type(model).__name__}, expected a model: tables have no views; leave it out"
        )


def warn_of_other_ids(model: nn.Module, data: HeteroData) -> None:
    """Warn of a graph whose rows have other ids than those of the graph that a model was trained on.

    Args:
        model: The model; nothing is known of one that was not trained by this library.
        data: The graph; nothing is said of one without ids, or of another size.

    Warns:
        UserWarning: If users or items have other ids, or the same in another order.
    """
    known = (getattr(getattr(part, "trained_on", None), "ids", None) for part in model.modules())
    before = next((ids for ids in known if isinstance(ids, Mapping)), {})
    for kind in ("user", "item"):
        mine, theirs = before.get(kind), getattr(data, f"{kind}_id", None)
        if mine is None or theirs is None or (isinstance(mine, list) and isinstance(theirs, list) and mine == theirs):
            continue
        try:
            was, found = comparable(*(id_column(ids, f"{kind}_id") for ids in (mine, theirs)))
        except InputError:
            continue  # A model is evaluated without a look at ids.
        other = np.flatnonzero(was.to_numpy() != found.to_numpy()) if len(was) == len(found) else np.empty(0)
        if other.size:
            row = int(other[0])
            warnings.warn(
                f"model: found a graph with other {kind} ids than it was trained on ({other.size} of {len(was)}; row "
                f"{row} is {value_at(found, row)!r} and was {value_at(was, row)!r}), so that its scores are those of "
                "others; give the graph of training, or open the model with pyg_ckd.training.open_model(path, data)",
                stacklevel=4,
            )
            return


def initialise_lazy(model: nn.Module, data: HeteroData) -> None:
    """Give lazy parameters, such as those of ``SAGEConv((-1, -1), 8)``, their shapes, with one pass over the graph.

    Args:
        model: As in :func:`embed`; one without lazy parameters is left alone.
        data: The graph.

    Raises:
        InputError: If a parameter is still without a shape after it.
    """
    if not lazy_parameters(model):
        return
    embed(model, data)
    left = lazy_parameters(model)
    if left:
        raise InputError(
            f"{type(model).__name__}: found lazy parameters that a forward pass does not reach ({', '.join(left[:3])}),"
            " expected all to have shapes before training; remove their layers or give these their sizes"
        )


def held_out(data: HeteroData, split: str) -> Tensor:
    """Return the interactions of a split, int64 ``[2, E]``.

    Args:
        data: The graph.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        The interactions; none if the graph has no such part.

    Raises:
        InputError: If ``split`` is not one of them, the graph is none, see :func:`check_interactions`, or was
            cut, see :func:`check_whole`.
    """
    check_interactions(data)
    names = dict(zip(("train", "val", "test"), ("edge_index", *HELD_OUT), strict=True))
    if not isinstance(split, str) or split not in names:
        raise unknown_name("split", split, names)
    if split != "train":
        check_whole(data)
    edges = data[RATES].get(names[split])
    return data[RATES].edge_index[:, :0] if edges is None or not edges.numel() else edges


def check_whole(data: HeteroData, with_ids: bool = False) -> None:
    """Refuse a graph that was cut or renumbered while its held-out interactions were not.

    :meth:`HeteroData.subgraph` and PyG's loaders give nodes new numbers in ``edge_index`` alone.

    Args:
        data: The graph.
        with_ids: Whether a graph without held-out interactions is refused as well, because its ids are used.

    Raises:
        InputError: If nodes have other numbers than when the graph was built, or held-out interactions name nodes that
            do not exist.
    """
    parts = [data[RATES][name] for name in HELD_OUT if data[RATES].get(name) is not None]
    parts = [part for part in parts if part.numel()]
    if not parts and not with_ids:
        return
    for row, kind in enumerate(("user", "item")):
        size, n_id = data[kind].num_nodes, data[kind].get("n_id")
        last = max((int(part[row].max()) for part in parts), default=-1)
        if n_id is not None and not torch.equal(n_id, torch.arange(size, device=n_id.device)):
            found = f"{kind}s in other numbers than those that the graph was built with (data[{kind!r}].n_id)"
        elif last >= size:
            found = f"held-out interactions of {kind} {last} among {size} {kind}s"
        else:
            continue
        raise InputError(
            f"graph: found {found}: it was cut or renumbered, and its held-out interactions and ids were not; cut it "
            "with pyg_ckd.data.subgraph, or give loaders pyg_ckd.data.training_graph(data)"
        )


def item_masks(data: HeteroData) -> dict[str, Tensor]:
    """Return, for each modality that some items lack, which items have it, bool ``[num_items]``.

    Args:
        data: The graph.
    """
    check_graph(data)
    masks = {m: data["item"].get(f"has_{m}") for m in data.modalities}
    return {m: has for m, has in masks.items() if has is not None and not bool(has.all())}
