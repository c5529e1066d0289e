"""The checks of interactions, features and masks: one function per thing that can be wrong with input from outside.

They turn arrays of any kind into the tensors that a graph holds, and are called by :func:`pyg_ckd.data.build_data`
alone; everything after it relies on them.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data.storage import NodeStorage

from pyg_ckd.arguments import as_integer
from pyg_ckd.data.arrays import as_array
from pyg_ckd.data.ids import value_at
from pyg_ckd.data.mapped import FLOATS, file_of, first_row_not_finite, register, remembered, row_blocks
from pyg_ckd.errors import InputError, unknown_name

SPLITS = ("train", "val", "test")
KEEP = ("error", "first", "last")
KEEPING = "keep='first' or keep='last' (--data_options.keep first on the command line)"
"""How to choose one of several interactions of the same user and item, for messages."""
IMAGES = (
    "; these look like images: give one vector per item, from an encoder as pyg_ckd.datasets.encode_files takes, or "
    "flatten them with x.reshape(len(x), -1)"
)
"""What to do with features of more than two dimensions, for messages."""
TEXTS = "; texts become vectors with pyg_ckd.datasets.text_features"
CHECKED = "interactions that were checked together"
"""Name under which is :func:`~pyg_ckd.data.mapped.remembered` where interactions in a file were checked, with which
others, and for how many users and items."""

# Names that loaders, views or PyTorch containers give a meaning of their own on a node store or as a module key, and
# those that other arrays have in an .npz file.
_RESERVED = {"full", "id", "x", "y", "batch", "ptr", "n_id", "input_id", "batch_size", "num_sampled_nodes", "training"}
_RESERVED |= {*SPLITS, "edge_index", "num_users", "num_items", "modalities", "user_id", "item_id", "prepared"}


def check_size(size: Any, name: str, source: str, inferred: bool = True) -> int | None:
    """Return ``size`` as a positive :obj:`int`, or :obj:`None` if it may be and is to be ``inferred``."""
    if size is None and inferred:
        return None
    expected = "a positive integer or None to infer it" if inferred else "a positive integer"
    try:
        number = as_integer(size, name, least=1)
    except InputError:
        raise InputError(f"{source}: {name} is {size!r}, expected {expected}") from None
    return number


def check_keep(keep: str) -> None:
    """Refuse an unknown way to treat repeated interactions.

    Raises:
        InputError: If it is none of ``"error"``, ``"first"`` and ``"last"``.
    """
    if not isinstance(keep, str) or keep not in KEEP:
        raise unknown_name("keep", keep, KEEP)


def repeated(pairs: np.ndarray, keep: str = "first") -> np.ndarray:
    """Return which interactions are there again, bool ``[E]``.

    Args:
        pairs: Interactions ``[2, E]``, not negative.
        keep: Which of several is not counted: the ``"first"`` or the ``"last"``.
    """
    key = pairs[0] * (int(pairs[1].max(initial=0)) + 1) + pairs[1]
    return pd.Series(key).duplicated(keep=keep).to_numpy(dtype=bool)


def check_unique_rows(
    pairs: np.ndarray, users: pd.Series, items: pd.Series, where: str, row_of: Callable[[int], object] | None = None
) -> None:
    """Refuse repeated interactions of one file, naming the ids that the user knows.

    Args:
        pairs: User row and item row, ``[2, E]``.
        users: The id of the user of each.
        items: The id of the item of each.
        where: What the file is, for messages.
        row_of: From the position of an interaction to its row, for messages. (default: :obj:`None`, the same)

    Raises:
        InputError: If an interaction is there again.
    """
    again = np.flatnonzero(repeated(pairs))
    if again.size:
        first = int(again[0])
        user, item = value_at(users, first), value_at(items, first)
        raise InputError(
            f"{where} has {again.size} duplicate interactions, the first is user {user!r}, item {item!r} again in row "
            f"{first if row_of is None else row_of(first)}; keep one of each, with {KEEPING}"
        )


def without_repetition(edge_indices: dict[str, np.ndarray], keep: str) -> dict[str, np.ndarray]:
    """Return the interactions of each split without those that are there again, in this split or another one.

    Args:
        edge_indices: Interactions ``[2, E]`` of each split.
        keep: ``"first"``, ``"last"``, or ``"error"``, which leaves them for :func:`check_repetition`.
    """
    check_keep(keep)
    if keep == "error":
        return edge_indices
    ends = np.cumsum([edges.shape[1] for edges in edge_indices.values()])[:-1]
    masks = np.split(~repeated(np.concatenate([*edge_indices.values()], axis=1), keep), ends)
    return {split: edges[:, mask] for (split, edges), mask in zip(edge_indices.items(), masks, strict=True)}


def checked_before(parts: Mapping[str, Any], sizes: tuple[int | None, int | None]) -> bool:
    """Return whether interactions lie in files, as they were when they were checked together, see :data:`CHECKED`.

    Args:
        parts: Interactions of each split.
        sizes: Number of users and items.
    """
    given = [
        part for part in parts.values() if part is not None and not (isinstance(part, Tensor) and part.numel() == 0)
    ]
    if not given or any(file_of(part) is None for part in given):
        return False
    found = {remembered(part, CHECKED, lambda _: None) for part in given}
    first = found.pop()
    return not found and first is not None and first[1:] == sizes


def as_edge_index(interactions: Any, split: str, source: str, checked: bool = False) -> np.ndarray:
    """Return interactions as int64 ``[2, E]`` (user row, item row) with no negative index.

    Args:
        interactions: Array-like, or a tensor, of shape ``[2, E]``.
        split: The name of the split, for messages.
        source: Where the input came from, for messages.
        checked: Whether they were looked through before.
    """
    where = f"{source}: {split}"
    pairs = as_array(interactions, where)
    if pairs.size == 0:
        return np.empty((2, 0), dtype=np.int64)
    if pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.shape[0] != 2:
        raise InputError(
            f"{where} has shape {_shape(pairs)}, expected [2, E] (user row, item row); transpose it with .T"
        )
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise InputError(f"{where} has shape {_shape(pairs)}, expected [2, E] (user row, item row)")
    _require_integers(pairs, where)
    for row, kind in () if checked else zip(pairs, ("user", "item"), strict=True):
        limit = np.iinfo(np.int64).max
        _reject_outside(row, (row < 0) | (row > limit), kind, where, "zero-based row numbers")
    return np.require(pairs, np.int64, ["C", "W"])


def check_range(edge_index: np.ndarray, split: str, sizes: tuple[int, int], source: str) -> None:
    """Refuse indices of users or items that do not exist."""
    for row, kind, size in zip(edge_index, ("user", "item"), sizes, strict=True):
        expected = f"0 to {size - 1} (num_{kind}s={size}, rows count from zero)"
        _reject_outside(row, row >= size, kind, f"{source}: {split}", expected)


def check_unique(edge_index: np.ndarray, split: str, num_items: int, source: str) -> np.ndarray:
    """Refuse duplicates; return the sorted keys ``user * num_items + item`` of the interactions."""
    key = edge_index[0] * num_items + edge_index[1]
    order = np.sort(key)
    repeated = order[1:][order[1:] == order[:-1]]
    if repeated.size:
        position = int(np.flatnonzero(np.isin(key, repeated))[0])
        user, item = edge_index[:, position]
        raise InputError(
            f"{source}: {split} has {repeated.size} duplicate interactions, the first is user {user}, item {item} at "
            f"position {position}; drop them, or give {KEEPING}"
        )
    return order


def check_splits(edge_indices: dict[str, np.ndarray], sizes: tuple[int, int], source: str) -> None:
    """Refuse an empty training set, a single item, and row numbers that are none."""
    if sizes[1] == 1:
        raise InputError(
            f"{source}: found a single item, expected at least two: there is nothing to rank it against; if the rows "
            "are not items, transpose the features with .T"
        )
    if edge_indices["train"].shape[1] == 0:
        raise InputError(f"{source}: train has no interactions, expected at least one (user, item) pair")
    if max(sizes) > np.iinfo(np.int32).max:  # Below that, user * num_items + item fits into 64 bits.
        raise InputError(
            f"{source}: indices imply {sizes[0]} users and {sizes[1]} items, too many to be row numbers; "
            f"map raw ids to rows first, e.g. with pandas.factorize"
        )


def check_repetition(
    edge_indices: dict[str, np.ndarray], sizes: tuple[int, int], source: str, ids: tuple[Any, Any] = (None, None)
) -> None:
    """Refuse duplicates, overlaps of the splits, and held-out parts of cold users only.

    Args:
        edge_indices: Interactions ``[2, E]`` of each split.
        sizes: Number of users and items.
        source: Where they came from, for messages.
        ids: The ids behind the rows of users and items, where there are any.
    """
    keys = {split: check_unique(edges, split, sizes[1], source) for split, edges in edge_indices.items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = np.intersect1d(keys[first], keys[second], assume_unique=True)
        if shared.size:
            rows = divmod(int(shared[0]), sizes[1])
            user, item = (row if names is None else names[row] for row, names in zip(rows, ids, strict=True))
            user, item = (repr(one.item() if isinstance(one, Tensor) else one) for one in (user, item))
            raise InputError(
                f"{source}: {second} repeats {shared.size} interactions of {first}, the first is user {user}, "
                f"item {item}; remove them from one of the two, or give {KEEPING}"
            )
    for split in ("val", "test"):
        users = edge_indices[split][0]
        if users.size and not np.isin(users, edge_indices["train"][0]).any():
            raise InputError(
                f"{source}: no user of {split} has an interaction in train, so nothing could be recommended to them; "
                f"split the interactions per user"
            )


def check_modality_name(name: Any, source: str) -> None:
    """Refuse names that cannot be attributes of a node store or keys of a module dictionary.

    Fine are identifiers of Python that are none of the attributes of PyG's storages and PyTorch's module and parameter
    dictionaries (``keys``, ``items``, ``pop``, ``type``, ...), of the names in ``_RESERVED``, and of the forms ``_*``,
    ``has_*`` (masks), ``prepared_<n>`` and ``*_dict``.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(
            f"{source}: modality name {name!r} is not an identifier; use letters, digits and _ and no digit first, "
            f"e.g. {_identifier(name)!r}"
        )
    taken = name in _RESERVED or re.match(r"_|has_|prepared_\d", name) or name.endswith("_dict")
    if taken or any(hasattr(cls, name) for cls in (NodeStorage, torch.nn.ModuleDict, torch.nn.ParameterDict)):
        stem = re.sub("^(has)?_+|_dict$", "", name) or "visual"
        raise InputError(
            f"{source}: modality name {name!r} is reserved by PyG, PyTorch or the .npz format; rename it, e.g. "
            f"'{stem}_features'"
        )


def as_features(features: Any, modality: str, source: str) -> Tensor:
    """Return a feature matrix as a float32 copy of shape ``[num_items, d_m]``.

    A matrix that is mapped from a file copy-on-write, and holds float32 already, is not copied: nothing that is done to
    the graph reaches the file, and pages are read when they are used. A tensor that is known to lie in a file, see
    :mod:`pyg_ckd.data.mapped`, is returned as it is, in half precision too.
    """
    if file_of(features) is not None and features.dim() == 2 and features.dtype in FLOATS:
        return features
    mapped = isinstance(features, np.memmap) and features.mode == "c"
    where = f"{features.filename if mapped else source}: features of {modality!r}"
    try:
        matrix = as_array(features, where)
    except InputError as error:
        raise InputError(f"{error}{TEXTS if 'dtype object' in str(error) else ''}") from None
    if matrix.dtype.kind not in "fiub":
        hint = TEXTS if matrix.dtype.kind in "US" else ""
        raise InputError(f"{where} have dtype {matrix.dtype}, expected real numbers such as float32{hint}")
    if matrix.ndim != 2:
        hint = "; reshape a single column with [:, None]" if matrix.ndim == 1 else IMAGES if matrix.ndim > 2 else ""
        raise InputError(f"{where} have shape {_shape(matrix)}, expected [num_items, d]{hint}")
    if matrix.shape[1] == 0:
        raise InputError(f"{where} have zero columns (shape {_shape(matrix)}); leave the modality out")
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite and is reported by `check_finite`.
        convert = np.ascontiguousarray if mapped else _contiguous_copy
        out = torch.from_numpy(convert(matrix, dtype=np.float32))
    inside = mapped and np.may_share_memory(out.numpy(), features)
    return register(out, features.filename) if inside else out


def check_rows(features: Tensor, modality: str, num_items: int, source: str) -> None:
    """Refuse a feature matrix that has not one row per item."""
    if features.size(0) != num_items:
        problem = "too few" if features.size(0) < num_items else "too many"
        raise InputError(
            f"{file_of(features) or source}: features of {modality!r} have {features.size(0)} rows, {problem} for "
            f"{num_items} items; give one row per item, in the order of the item indices"
        )


def check_finite(features: Tensor, has: Tensor | None, modality: str, source: str, mend: str = "") -> None:
    """Refuse NaN and infinite values in rows of items that have the modality; a matrix is looked through once."""
    if first_row_not_finite(features) < 0:
        return
    bad = ~finite_rows(features)
    if has is not None:
        bad &= has
    rows = bad.nonzero().view(-1)
    if rows.numel() == 0:
        return
    row = int(rows[0])
    column = int((~torch.isfinite(features[row])).nonzero()[0])
    mask = "set them to False in" if has is not None else "give the mask"
    mend = mend or f"{mask} has_{modality} if these items lack the modality"
    raise InputError(
        f"{file_of(features) or source}: features of {modality!r} are not finite in {rows.numel()} rows, first in row "
        f"{row}, column {column}: {float(features[row, column])} as float32; repair them, or {mend}"
    )


def finite_rows(features: Tensor) -> Tensor:
    """Return which rows ``[N]`` of features ``[N, d]`` hold finite numbers only."""
    blocks = [torch.isfinite(block).all(dim=1) for _, block in row_blocks(features)]
    return torch.cat(blocks) if blocks else torch.ones(0, dtype=torch.bool, device=features.device)


def as_mask(mask: Any, modality: str, num_items: int, source: str) -> Tensor:
    """Return the mask of the items that have a modality as bool ``[num_items]``."""
    where = f"{source}: has_{modality}"
    array = as_array(mask, where)
    if array.dtype.kind != "b":
        raise InputError(f"{where} has dtype {array.dtype}, expected bool; convert it with .astype(bool)")
    if array.shape != (num_items,):
        raise InputError(f"{where} has shape {_shape(array)}, expected [{num_items}], one value per item")
    if not array.any():
        raise InputError(f"{where} is False for every item, so there is nothing to learn from; leave the modality out")
    return torch.from_numpy(np.array(array, dtype=bool))


def check_mask_names(masks: Any, modalities: list[str], source: str) -> None:
    """Refuse a mask for a modality that has no features."""
    for name in masks:
        if name not in modalities:
            raise InputError(f"{source}: mask given for {unknown_name('modality', name, modalities)}")


def _identifier(name: Any) -> str:
    words = re.sub(r"\W+", "_", str(name)).strip("_")
    return words if words.isidentifier() and not keyword.iskeyword(words) else "visual"


def _contiguous_copy(array: np.ndarray, dtype: Any) -> np.ndarray:
    return np.array(array, dtype=dtype, order="C")


def _require_integers(array: np.ndarray, where: str) -> None:
    if array.size and array.dtype.kind not in "iu":
        raise InputError(
            f"{where} has dtype {array.dtype}, expected integers; map ids to rows first, e.g. with pandas.factorize"
        )


def _reject_outside(row: np.ndarray, outside: np.ndarray, kind: str, where: str, expected: str) -> None:
    positions = np.flatnonzero(outside)
    if positions.size:
        raise InputError(
            f"{where} has {positions.size} {kind} indices out of range, the first at position {positions[0]}: "
            f"{row[positions[0]]}, expected {expected}"
        )


def _shape(array: np.ndarray) -> list[int]:
    return list(array.shape)
