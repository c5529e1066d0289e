"""The one builder of graphs: whatever the source, interactions and features become a checked HeteroData here."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import (
    SPLITS,
    as_edge_index,
    as_mask,
    check_finite,
    check_keep,
    check_mask_names,
    check_modality_name,
    check_range,
    check_repetition,
    check_rows,
    check_size,
    check_splits,
    check_unique_rows,
    checked_before,
    finite_rows,
    repeated,
    without_repetition,
)
from pyg_ckd.data.columns import COLUMN_LABELS
from pyg_ckd.data.cut import keep_whole
from pyg_ckd.data.feedback import Positive, check_feedback, liked_parts
from pyg_ckd.data.frames import as_frame, is_frame, join, pair_columns
from pyg_ckd.data.impute import GIVEN, Impute, imputation, impute_mean
from pyg_ckd.data.inputs import (
    HELD_OUT,
    RATES,
    check_features,
    check_graph,
    check_interactions,
    check_kind,
    check_whole,
)
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.opinions import TIME, opinions_of
from pyg_ckd.data.precision import feature_matrix, in_single, subtracts_means
from pyg_ckd.data.prepared import begin, bits_of, current, describe_record
from pyg_ckd.data.prepared import keep as keep_record
from pyg_ckd.data.transforms import RecordedTransform, feature_transform
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.pairs import pair_keys

MIXERS = (-7046029254386353131, -4658895280553007687)
"""Odd numbers that spread what they are multiplied with over 64 bits."""


def build_data(
    train: Any,
    features: Mapping[str, Any],
    *,
    val: Any = None,
    test: Any = None,
    num_users: int | None = None,
    num_items: int | None = None,
    has: Mapping[str, Any] | None = None,
    source: str = "input",
    transform: str | Callable[[HeteroData], HeteroData] | None = "standardize",
    impute: Impute = "mean",
    strict: bool = True,
    user_id: Any = None,
    item_id: Any = None,
    keep: str = "error",
    min_rating: float | None = None,
    positive: Positive = None,
    prepared: Mapping[str, Any] | None = None,
) -> HeteroData:
    r"""Build and check the graph that all other parts of the package use.

    Ids may be integers, strings or UUIDs; if they are text in one place and numbers in another, they are compared as
    text. Frames are joined by id, never by position. An id without a feature row, or a row without an id, raises an
    error that names it.

    Args:
        train: Training interactions: integers of shape ``[2, E]`` (zero-based user row, item row), or a data frame
            or table of Arrow with the columns ``user`` and ``item`` (or ``user_id`` and ``item_id``), which hold ids.
        features: The feature matrix ``[num_items, d_m]`` of each modality, of any real dtype; the order of the
            dictionary is the order of the modalities. A data frame has a row for each item, indexed by item id (or with
            a column ``item`` or ``item_id``); a series holds one number or vector for each. Further columns whose names
            are those of ids or row numbers, such as ``asin`` or ``index``, are refused. A default index, from 0, is the
            row number of the item, which is its id where interactions hold integers. Names of columns, if they are
            text, are kept in ``data.prepared``: frames that come later are brought to their order.
        val: Validation interactions, as ``train``. (default: :obj:`None`, none)
        test: Test interactions, as ``train``. (default: :obj:`None`, none)
        num_users: Number of users. (default: :obj:`None`, the largest user index plus one)
        num_items: Number of items. (default: :obj:`None`, the larger of the largest item index plus one and the
            number of feature rows)
        has: For some modalities, a bool mask ``[num_items]`` of the items that have it, or a series indexed by item id.
            Rows of the others may be NaN or, in frames, be left out; ``impute`` says how they are replaced. (default:
            :obj:`None`)
        source: Name of the input, with which every message begins. (default: :obj:`"input"`)
        transform: Name or callable of the feature transform, see :func:`feature_transform`.
            (default: :obj:`"standardize"`)
        impute: Name or callable of the imputation of missing features after the transform, see :func:`imputation`.
            (default: :obj:`"mean"`, over the items that have the modality)
        strict: If set to :obj:`False`, accept repeated interactions, held-out parts with only cold users, and features
            that are not finite. This is for :func:`describe_data`, not for training. (default: :obj:`True`)
        user_id: The id of each user row. (default: :obj:`None`, the ids of the frames in ascending order, if there are
            any)
        item_id: The id of each item row: that of arrays. (default: :obj:`None`, the ids of the features in ascending
            order, if there are any)
        keep: Which of repeated interactions to keep, within a split or across splits in their order: ``"first"``,
            ``"last"``, or ``"error"``, which refuses them. Frames with a column ``timestamp`` go by it within a split,
            others by row. It is chosen before ``min_rating`` and ``positive`` apply. (default: :obj:`"error"`)
        min_rating: Keep interactions with at least this rating, for frames with a column ``rating``. (default:
            :obj:`None`, all, with a warning if ratings differ)
        positive: Keep interactions whose column ``label`` has this value, or one of these. (default: :obj:`None`, all,
            with a warning if labels differ)
        prepared: Record of how the features were made, ``data.prepared`` of the graph that they come from. (default:
            :obj:`None`, they are raw)

    Returns:
        A graph with the node types ``user`` and ``item``; ``data['item'][m]`` float32 ``[num_items, d_m]`` and, where
        a mask was given, ``data['item']['has_<m>']`` bool ``[num_items]``; ``data['user', 'rates', 'item']`` with
        ``edge_index``, ``val_edge_index`` and ``test_edge_index``, int64 ``[2, E]``; ``data.modalities`` and
        ``data.source``; and where there are ids, ``data.user_id`` and ``data.item_id``, the id of each row: an int64
        tensor, or a list of strings; and ``data.prepared``, what was done to the features.

    Raises:
        InputError: If anything about the input is wrong; the message says what, where and how to mend it.

    Example:
        >>> data = build_data([[0, 0, 1], [0, 1, 1]], {"visual": [[1.0, 0.0], [0.0, 1.0]]})
        >>> data["item"].visual.shape
        torch.Size([2, 2])
    """
    apply_transform, fill_in = feature_transform(transform), imputation(impute)
    given = {"train": as_frame(train), "val": as_frame(val), "test": as_frame(test)}
    num_users, num_items = check_size(num_users, "num_users", source), check_size(num_items, "num_items", source)
    _check_names(features, has or {}, source)
    given, kept = _likes(given, min_rating, positive, keep, source)
    joined = join(given, features, has or {}, user_id, item_id, num_users, source, kept)
    known = checked_before(joined.parts, (num_users, num_items))
    edges = {
        split: as_edge_index([] if part is None else part, split, source, known) for split, part in joined.parts.items()
    }
    records = apply_transform.records if isinstance(apply_transform, RecordedTransform) else {}
    centred = bool(records) or subtracts_means(apply_transform)
    matrices = {
        m: feature_matrix(matrix, m, source, joined.has.get(m), records.get(m), centred)
        for m, matrix in joined.features.items()
    }
    sizes = _sizes(edges, matrices, _size(num_users, joined.user_id, "user", source), num_items)
    for split in SPLITS if not known else ():
        check_range(edges[split], split, sizes, source)
    edges = without_repetition(edges, keep)
    check_splits(edges, sizes, source)
    if strict:
        for split in filter(lambda split: is_frame(given[split]) and repeated(edges[split]).any(), SPLITS):
            columns = pair_columns(given[split], source)  # Named as they were given.
            row_of = kept[split].__getitem__ if split in kept else None
            check_unique_rows(edges[split], columns["user"], columns["item"], f"{source}: {split}", row_of)
        if not known:
            check_repetition(edges, sizes, source, (joined.user_id, joined.item_id))

    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = sizes
    _add_features(data, matrices, joined.has, source, impute == GIVEN, strict, prepared or {}, joined.columns)
    for split, name in zip(SPLITS, ("edge_index", "val_edge_index", "test_edge_index"), strict=True):
        data[RATES][name] = _same_or_new(joined.parts[split], edges[split])
    data.modalities = list(matrices)
    data.source = source
    if joined.user_id is not None:
        data.user_id = joined.user_id
    if joined.item_id is not None or any(map(is_frame, given.values())):
        data.item_id = torch.arange(sizes[1]) if joined.item_id is None else joined.item_id
    keep_whole(data)
    return fill_in(in_single(apply_transform(data)))


def check_data(data: HeteroData, impute: Impute = "mean") -> HeteroData:
    r"""Check a graph that was not made by :func:`build_data`, and give it the dtypes and attributes of one that was.

    Args:
        data: A graph with the node types ``user`` and ``item``, the edge type ``('user', 'rates', 'item')`` and
            ``data.modalities``, the names of the feature matrices in ``data['item']``. Held-out interactions and
            ``has_<m>`` masks are optional; further attributes and edge types are kept.
        impute: What stands in for missing features, see :func:`imputation`. (default: :obj:`"mean"`)

    Returns:
        A checked shallow copy. Features are not transformed, but rows of items without a modality are imputed.

    Raises:
        InputError: As :func:`build_data`, and if a node type, the edge type or a modality is missing.
    """
    check_kind(data)
    source = getattr(data, "source", "data")
    modalities = _declared_modalities(data, source)
    data = _with_tensors(data, source)
    check_whole(data)
    rates, item = data[RATES], data["item"]
    checked = build_data(
        rates.edge_index,
        {m: item[m] for m in modalities},
        val=rates.get("val_edge_index"),
        test=rates.get("test_edge_index"),
        num_users=data["user"].num_nodes,
        num_items=item.get("num_nodes"),
        has={m: item[f"has_{m}"] for m in modalities if f"has_{m}" in item},
        source=source,
        transform="none",
        impute=impute,
        prepared=getattr(data, "prepared", None),
    )
    out = copy.copy(data)
    out.modalities, out.source, out.prepared = checked.modalities, checked.source, checked.prepared
    for store in checked.stores[1:]:
        out[store._key].update(store.to_dict())
    return keep_whole(out)


def fingerprint(data: HeteroData) -> str:
    r"""Return a SHA-256 digest of sizes, modalities, features, masks, interactions of all splits and all further edges.

    For features, it uses the raw values and the settings of transforms and imputations, see
    :mod:`pyg_ckd.data.prepared`, because the last bits of their results depend on threads and processors. Without such
    a record, or if features were changed since, it uses the features themselves. The digest is the same in every
    process and on every device, and changes with the order of modalities or interactions.

    Args:
        data: A graph from :func:`build_data`.

    Raises:
        InputError: If ``data`` is not such a graph, or its features are no dense tensors.
    """
    check_graph(data)
    check_features(data, data.modalities)
    digest = hashlib.sha256(repr((data["user"].num_nodes, data["item"].num_nodes, list(data.modalities))).encode())
    item, rates = data["item"], data[RATES]
    for m in data.modalities:
        has = item.get(f"has_{m}")
        missing = has is not None and not bool(has.all())
        digest.update(f"|{m}:{describe_record(current(data, m), item[m], missing)}".encode())
        _update(digest, f"has_{m}", has)
    for name in ("edge_index", "val_edge_index", "test_edge_index"):
        _update(digest, name, rates.get(name))
    for kind, index in sorted(data.edge_index_dict.items()):
        if kind != RATES:  # Graphs that a backbone takes in the place of those it would compute.
            _update(digest, "/".join(kind), index)
    return digest.hexdigest()


def training_digest(data: HeteroData) -> str:
    """Return a digest of the numbers of users and items and of the training interactions, in any order.

    It is a sum of 64 bits, made a million interactions at a time: it tells graphs apart, but not from those that
    somebody made to have the same.

    Args:
        data: A graph from :func:`build_data`.
    """
    users, items = data["user"].num_nodes, data["item"].num_nodes
    total = 0
    for part in data[RATES].edge_index.split(2**20, dim=1):
        key = pair_keys(part[0], part[1], items)
        for factor in MIXERS:  # Products wrap around.
            key = (key + 1) * factor
            key ^= key >> 29
        total += int(key.sum())
    return f"{users}-{items}-{total % 2**64:016x}"


def _likes(
    parts: dict[str, Any], min_rating: float | None, positive: Positive, keep: str, source: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return interactions without those that are no likes, and which rows of the frames are left, if some are not.

    Of repeated ones, the one that ``keep`` names is chosen first, where ratings, labels or times depend on it.
    """
    check_feedback(min_rating, positive)
    check_keep(keep)
    frames = {split: part for split, part in parts.items() if is_frame(part)}
    for split, part in parts.items():
        if part is not None and split not in frames and (min_rating is not None or positive is not None):
            raise InputError(f"{source}: {split} is no frame with ratings or labels; leave out min_rating and positive")
    asked = {f"{source}: {split}": frame for split, frame in frames.items()}
    masks = liked_parts(asked, min_rating, positive, f"{source}: {', '.join(frames)}") if frames else None
    if keep != "error" and (masks is not None or any(TIME in frame.columns for frame in frames.values())):
        stay = opinions_of(frames, keep, source)
        if stay is not None:
            masks = stay if masks is None else [one & other for one, other in zip(masks, stay, strict=True)]
    if masks is None:
        return parts, {}
    kept = {split: np.flatnonzero(mask) for split, mask in zip(frames, masks, strict=True)}
    return parts | {split: frames[split][mask] for split, mask in zip(frames, masks, strict=True)}, kept


def _check_names(features: Mapping[str, Any], has: Mapping[str, Any], source: str) -> None:
    if not isinstance(features, Mapping):
        raise InputError(
            f"{source}: features are a {type(features).__name__}, expected a dictionary from modality to matrix"
        )
    if not features:
        raise InputError(f"{source}: no modality found, expected at least one matrix [num_items, d] of item features")
    for name in features:
        check_modality_name(name, source)
    check_mask_names(has, list(features), source)


def _size(number: int | None, ids: Tensor | list[str] | None, kind: str, source: str) -> int | None:
    """Return the number of rows of users, which ids tell."""
    if ids is not None and number not in (None, len(ids)):
        raise InputError(f"{source}: num_{kind}s is {number}, but there are {len(ids)} ids; leave it out")
    return number if ids is None else len(ids)


def _sizes(
    edges: dict[str, np.ndarray], matrices: dict[str, Tensor], num_users: int | None, num_items: int | None
) -> tuple[int, int]:
    def count(row: int) -> int:
        return 1 + max(int(e[row].max(initial=-1)) for e in edges.values())

    rows = max(x.size(0) for x in matrices.values())
    return count(0) if num_users is None else num_users, max(count(1), rows) if num_items is None else num_items


def _same_or_new(given: Any, edges: np.ndarray) -> Tensor:
    """Return interactions as a tensor: the one that was given, if it is mapped from a file and stays as it is."""
    if file_of(given) is not None and np.may_share_memory(given.numpy(), edges) and given.shape == edges.shape:
        return given
    return torch.from_numpy(edges)


def _add_features(
    data: HeteroData,
    matrices: dict[str, Tensor],
    has: Mapping[str, Any],
    source: str,
    as_given: bool,
    strict: bool,
    prepared: Mapping[str, Any],
    columns: Mapping[str, list[str]],
) -> None:
    item = data["item"]
    for m, x in matrices.items():
        check_rows(x, m, item.num_nodes, source)
        mask = None if has.get(m) is None else as_mask(has[m], m, item.num_nodes, source)
        if strict:
            check_finite(x, mask, m, source)
        before = prepared.get(m)
        before = before if before and before["bits"] == bits_of(x) else None
        filled = before is not None and before["imputation"] is not None and file_of(x) is not None
        item[m] = x if filled else impute_mean(x, mask)
        if mask is not None:
            item[f"has_{m}"] = mask
            if as_given and not filled:
                item[m] = torch.where((mask | finite_rows(x)).view(-1, 1), x, item[m])
        record = before or begin(x, mask, as_given)
        keep_record(data, m, {**record, COLUMN_LABELS: columns[m]} if m in columns else record)


def _declared_modalities(data: HeteroData, source: str) -> list[str]:
    for kind in ("user", "item"):
        if kind not in data.node_types:
            raise InputError(f"{source}: {unknown_name('node type', kind, data.node_types)}")
    if "num_nodes" not in data["user"] and "x" not in data["user"]:
        raise InputError(f"{source}: the number of users is unknown; set data['user'].num_nodes")
    if RATES not in data.edge_types:
        raise InputError(f"{source}: data[{RATES}].edge_index is missing; it holds the training interactions [2, E]")
    declared: Any = getattr(data, "modalities", None)
    listed = isinstance(declared, (Iterable, np.ndarray)) and not isinstance(declared, (str, Iterator))
    modalities = list(declared) if listed else declared
    if not listed or not all(isinstance(m, str) for m in modalities):
        candidates = [k for k, v in data["item"].items() if isinstance(v, Tensor) and v.dim() == 2]
        raise InputError(
            f"{source}: data.modalities is {modalities!r}, expected the list of feature matrices of data['item'], "
            f"e.g. {candidates}"
        )
    for m in modalities:
        if m not in data["item"]:
            raise InputError(
                f"{source}: data['item'] has no features for {unknown_name('modality', m, data['item'].keys())}"
            )
    return [str(m) for m in modalities]


def _with_tensors(data: HeteroData, source: str) -> HeteroData:
    """Return a graph whose interactions are tensors ``[2, E]``; one in which they are not is left alone and copied."""
    given = {name: data[RATES].get(name) for name in ("edge_index", *HELD_OUT)}
    others = {name: edges for name, edges in given.items() if edges is not None and not isinstance(edges, Tensor)}
    if others:
        data = copy.copy(data)
    for name, edges in others.items():
        split = SPLITS[("edge_index", *HELD_OUT).index(name)]
        data[RATES][name] = torch.from_numpy(as_edge_index(edges, split, source))
    check_interactions(data)
    return data


def _update(digest: Any, name: str, tensor: Tensor | None) -> None:
    digest.update(f"|{name}".encode())
    if tensor is not None:
        digest.update(f":{tensor.dtype}{tuple(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
