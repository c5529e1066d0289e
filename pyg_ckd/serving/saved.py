"""A recommender as tensors and plain values, and back: one file that opens without the graph and without the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, writing
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.finite import all_finite
from pyg_ckd.serving.fold_in import Ridge, RidgeUsers
from pyg_ckd.serving.growth import GrowingLists
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.lists import without_pairs
from pyg_ckd.serving.search import SeenItems
from pyg_ckd.training.checkpoint import save_checkpoint
from pyg_ckd.training.model import VERSIONS, WRITERS, user_function_of
from pyg_ckd.versions import versions

KIND = "recommender"
NEEDED = {"class", "tables", "ids", "seen", "history", "trained", "columns", "users", "notes"}


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write a checkpoint whole or not at all.

    Args:
        path: The file. One that ends in ``.safetensors`` is written in that format, as model files are.
        content: Tensors and plain values; what it is stands under ``kind``.

    Raises:
        InputError: If it cannot be written.
    """
    target = as_path(path)
    with writing(target):
        if target.is_dir():
            raise InputError(f"out {target}: is a folder, expected the name of a file; choose another")
        WRITERS.get(target.suffix.lower(), save_checkpoint)(target, content)
    return target


def state_of(recommender: GrowingLists) -> dict[str, Any]:
    """Return all that lists need.

    Args:
        recommender: The recommender.
    """
    state: dict[str, Any] = {
        "class": type(recommender).__name__,
        "tables": {kind: table.cpu() for kind, table in recommender.embeddings._asdict().items()},
        "ids": {ids.kind: _id_values(ids) for ids in (recommender.users, recommender.items)},
        "seen": _packed(recommender.seen),
        "history": _packed(recommender.history),
        "trained": list(recommender.trained),
        "untrained": recommender.untrained,
        "columns": None if recommender.columns is None else _columns(recommender.columns),
        "users": _user_state(recommender),
        "notes": list(recommender.notes),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return state | {"versions": {name: value for name, value in versions().items() if name in VERSIONS}}


def restored(
    state: Mapping[str, Any],
    classes: Mapping[str, type[GrowingLists]],
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
) -> GrowingLists:
    """Return the recommender that :func:`state_of` was called with.

    Args:
        state: What it returned.
        classes: The classes that it may be of.
        path: The file that it comes from, for messages.
        device: Where to compute.

    Raises:
        InputError: If something is missing or does not fit.
    """
    missing = sorted(NEEDED - state.keys())
    if missing:
        raise InputError(f"checkpoint {path}: lacks {', '.join(missing)}; it is damaged, save the recommender again")
    if state["class"] not in classes:
        raise InputError(
            f"checkpoint {path}: found a recommender of class {state['class']!r}, expected one of "
            f"{', '.join(classes)}; import its module first"
        )
    try:
        cls = classes[state["class"]]
        out = cls.__new__(cls)
        out.model, out.data = None, None
        out.embeddings = Embeddings(*(state["tables"][kind].to(device) for kind in ("user", "item")))
        if out.embeddings.user.shape[1:] != out.embeddings.item.shape[1:]:
            raise ValueError(f"tables of shapes {[list(table.shape) for table in out.embeddings]}")
        if not all(map(all_finite, out.embeddings)):
            raise ValueError("embeddings that are not finite")
        sizes = [table.size(0) for table in out.embeddings]
        out.users, out.items = (
            Ids(kind, state["ids"][kind], size) for kind, size in zip(("user", "item"), sizes, strict=True)
        )
        out.seen, out.history = (_unpacked(state[name], sizes[0], sizes[1]) for name in ("seen", "history"))
        out.trained = (int(state["trained"][0]), int(state["trained"][1]))
        out.columns = None if state["columns"] is None else _frame(state["columns"], sizes[1])
        out.notes = tuple(state["notes"])
        out.exact_users, out._user_map = _user_function(state["users"], path, device)
        out.untrained = _untrained(state, out)
        out.load_more(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"checkpoint {path}: is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]}), save the "
            "recommender again"
        ) from None
    return out


def _id_values(ids: Ids) -> Tensor | list[str] | None:
    if not ids.given and isinstance(ids.index, pd.RangeIndex):
        return None
    values = ids.take(np.arange(len(ids)))
    return torch.from_numpy(values.astype(np.int64)) if ids.integers else values.tolist()


def _packed(seen: SeenItems) -> dict[str, Tensor]:
    return {"ptr": seen.ptr, "item": seen.item.to(torch.int32)}


def _unpacked(state: Mapping[str, Tensor], num_users: int, num_items: int) -> SeenItems:
    out = SeenItems.__new__(SeenItems)
    out.ptr, out.item = state["ptr"].long(), state["item"].long()
    fits = out.ptr.numel() == num_users + 1 and int(out.ptr[-1]) == out.item.numel() and int(out.ptr[0]) == 0
    if not fits or bool((out.ptr.diff() < 0).any()) or bool(((out.item < 0) | (out.item >= num_items)).any()):
        raise ValueError("interactions of users or items that are not there")
    return out


def _untrained(state: Mapping[str, Any], recommender: GrowingLists) -> Tensor:
    """Return which users had met nothing in training; a file of before does not say it, and has what they met since."""
    idle = without_pairs(recommender.history.ptr[: recommender.trained[0] + 1])
    found: Tensor = state.get("untrained", idle)
    if found.shape != idle.shape or found.dtype != torch.bool:
        raise ValueError(f"untrained users of shape {list(found.shape)}")
    return found if recommender.exact_users is None else idle  # Files of before say nobody of a function of items.


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, column in frame.items():
        if not isinstance(name, str):
            raise InputError(
                f"columns: found the name {name!r} ({type(name).__name__}), which no file can hold, expected text; "
                "rename it, as frame.rename(columns=str) does"
            )
        out[name] = _stored(name, column)
    return out


def _stored(name: str, column: pd.Series) -> Any:
    """Return a column as a tensor, as parts of one under their names, or as a list of plain values."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = torch.from_numpy(column.cat.codes.to_numpy(dtype=np.int64))
        categories = _stored(name, pd.Series(column.cat.categories))
        return {"codes": codes, "categories": categories, "ordered": bool(column.cat.ordered)}
    if pd.api.types.is_integer_dtype(column.dtype) and not isinstance(column.dtype, np.dtype) and column.hasnans:
        missing, filled = column.isna().to_numpy(dtype=bool), column.fillna(0)
        values = filled.to_numpy(dtype=np.uint64 if pd.api.types.is_unsigned_integer_dtype(column.dtype) else np.int64)
        return {"integers": torch.from_numpy(values.copy()), "missing": torch.from_numpy(missing.copy())}
    if pd.api.types.is_bool_dtype(column.dtype) and not isinstance(column.dtype, np.dtype):
        missing, values = column.isna().to_numpy(dtype=bool), column.fillna(False).to_numpy(dtype=bool)
        return {"booleans": torch.from_numpy(values.copy()), "missing": torch.from_numpy(missing.copy())}
    if isinstance(column.dtype, pd.StringDtype) and column.dtype.na_value is pd.NA:
        return {"texts": _plain(column)}
    values = column.to_numpy()
    if values.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))
    if values.dtype.kind == "M":
        return {"dates": torch.from_numpy(values.astype("datetime64[us]").astype(np.int64))}
    plain = _plain(column)
    there = [v for v in plain if v is not None]
    if there and all(isinstance(v, datetime) and v.tzinfo is None for v in there):
        return {"dates": torch.from_numpy(np.array(plain, dtype="datetime64[us]").astype(np.int64))}
    if there and all(type(v) is date for v in there):
        return {"days": [None if v is None else v.toordinal() for v in plain]}
    wrong = next((v for v in there if not isinstance(v, (str, bool, int, float))), None)
    if wrong is not None:
        zone = getattr(wrong, "tzinfo", None) is not None
        mend = "; take the time zone off, as column.dt.tz_convert(None) does" if zone else ""
        raise InputError(
            f"columns: found {type(wrong).__name__}{' with a time zone' if zone else ''} in {name!r}, which no file "
            f"can hold, expected numbers, texts or dates{' without a time zone' if zone else ', of one kind'}{mend}"
        )
    return plain


def _plain(column: pd.Series) -> list[Any]:
    """Return the values of a column as those of Python, :obj:`None` where one is missing."""
    values = (v.item() if isinstance(v, np.generic) and v.dtype.kind in "biufU" else v for v in column.astype(object))
    return [None if pd.isna(v) is True else v for v in values]


def _frame(columns: Mapping[str, Any], num_items: int) -> pd.DataFrame:
    return pd.DataFrame({name: _opened(values) for name, values in columns.items()}, index=range(num_items))


def _opened(values: Any) -> Any:
    """Return what :func:`_stored` was called with."""
    if isinstance(values, Tensor):
        return values.numpy()
    if not isinstance(values, Mapping):
        mixed = any(v is None for v in values) and any(type(v) is int for v in values)  # Floats would round these.
        return pd.Series(values, dtype=object) if mixed else values
    if "codes" in values:
        categories = pd.Index(_opened(values["categories"]))
        return pd.Categorical.from_codes(values["codes"].numpy(), categories, ordered=bool(values["ordered"]))
    if "integers" in values:
        return pd.arrays.IntegerArray(values["integers"].numpy(), values["missing"].numpy())
    if "booleans" in values:
        return pd.arrays.BooleanArray(values["booleans"].numpy(), values["missing"].numpy())
    if "texts" in values:
        return pd.array(values["texts"], dtype="string")
    if "days" in values:
        return pd.Series([None if v is None else date.fromordinal(v) for v in values["days"]], dtype=object)
    return values["dates"].numpy().astype("datetime64[us]")


def _user_state(recommender: GrowingLists) -> dict[str, Any] | None:
    if recommender.exact_users is not None:
        return {"class": recommender.exact_users}
    users = recommender._user_map  # If it is not learnt yet, it can be from what is saved.
    return {"ridge": users.ridge.state()} if isinstance(users, RidgeUsers) else None


def _user_function(
    state: Mapping[str, Any] | None, path: str | os.PathLike[str], device: torch.device | str
) -> tuple[str | None, Any]:
    if state is None:
        return None, None
    if "ridge" in state:
        return None, RidgeUsers(Ridge.from_state(state["ridge"], device))
    function = user_function_of(str(state["class"]))
    if function is None:
        raise InputError(
            f"checkpoint {path}: users are those of {state['class']}, which is not imported, expected it to be; import "
            f"{str(state['class']).rpartition('.')[0]} first"
        )
    return str(state["class"]), function
