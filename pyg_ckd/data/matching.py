"""The graph that a model was trained on, and a graph that it meets later: rows matched by id, or refused by name.

A model is a function of row numbers. What a row stood for in training is kept with the model as a record of plain
values and tensors: ids, interactions, what became of the features, and two numbers of every item and modality that tell
features apart. Nobody has to keep the data set for that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.columns import COLUMN_LABELS, labels_of, places
from pyg_ckd.data.cut import subgraph
from pyg_ckd.data.identity import KINDS, feature_marks, ids_of, other_ids, usable_ids
from pyg_ckd.data.ids import id_column, rows_among, value_at
from pyg_ckd.data.impute import recorded
from pyg_ckd.data.inputs import HELD_OUT, RATES
from pyg_ckd.data.mismatch import fitted_anew, named, names_of, other_width, outlier
from pyg_ckd.data.precision import reads_double
from pyg_ckd.data.prepared import KEY, current, digest_of, keep, same_steps
from pyg_ckd.data.transforms import StandardizeFeatures, prepare_rows
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.pairs import pair_keys

TOLERANCE = 1e-3
"""How far the numbers of an item may lie from those of training, in units of their spread over items."""
MOST_LOST = 0.25
"""Share of the interactions of training that a newer graph may have dropped, as one of the last months does."""
PARTS = {"edge_index": "training", "val_edge_index": "validation", "test_edge_index": "test"}


def graph_record(data: HeteroData) -> dict[str, Any]:
    """Return what tells later which row was whose: plain values and tensors.

    Args:
        data: The graph.

    Warns:
        UserWarning: If ids cannot be used, such as those of which one is there twice; then there are none.

    Returns:
        ``ids`` (an int64 tensor, a list of strings or :obj:`None`, by kind), ``interactions`` of the training part
        ``[2, E]``, ``held_out`` and ``graphs`` (digests that do not depend on the order of edges), ``marks`` of the
        features, see :func:`feature_marks`, and ``prepared``, what became of the features.
    """
    edges = {name: _sorted(data, data[RATES][name]) for name in PARTS if data[RATES].get(name) is not None}
    return {
        "ids": usable_ids(data),
        "interactions": edges["edge_index"].to(torch.int32),
        "held_out": {n: {"count": e.size(1), "digest": digest_of(e)} for n, e in edges.items() if n in HELD_OUT},
        "graphs": _graphs(data),
        "marks": {m: feature_marks(data, m) for m in data.modalities},
        KEY: {m: dict(record) for m in data.modalities if (record := current(data, m)) is not None},
    }


def matched(data: HeteroData, digest: str, record: Mapping[str, Any] | None, source: str) -> HeteroData | None:
    """Return the graph as a model knows it: itself, or, where only the order of ids differs, in the model's order.

    Features that are raw, or standardised with other means, are brought to the scale of the model.

    Args:
        data: The graph.
        digest: The fingerprint of the graph that the model was trained on.
        record: What :func:`graph_record` said of it; :obj:`None` if nobody kept it.
        source: Where both come from; begins every message.

    Returns:
        ``data`` itself, a copy in the order of the model, or :obj:`None` if it is another graph without ids to match.

    Raises:
        InputError: If a user or an item is missing or new, or has other features or interactions than in training; the
            message names the first.
    """
    if same_graph(data, digest, record):
        return data
    rows = _rows(data, record, source)
    if record is None or rows is None:
        return None
    for kind, order in rows.items():
        if order.numel() < data[kind].num_nodes:
            others = np.setdiff1d(np.arange(data[kind].num_nodes), order.numpy())
            raise InputError(
                f"{source}: found {named(data, kind, others)} in the graph, which the model does not know, expected "
                "those that it was trained with; train again, or serve new ones with Recommender.load"
            )
    out = reordered(data, record, rows, source)
    for name, title in PARTS.items():
        found = out[RATES].get(name)
        edges = _sorted(out, torch.empty(2, 0, dtype=torch.int64) if found is None else found)
        if name == "edge_index":
            missing, new = lost(record["interactions"], edges), lost(edges, record["interactions"])
            if missing.size(1) or new.size(1):
                if _split_otherwise(out, record, missing):
                    now = "held out now" if missing.size(1) else "not held out any more"
                    apart = f"{_pairs(out, missing if missing.size(1) else new)} {now}"
                    raise InputError(
                        f"{source}: found the same interactions as in training, split otherwise: {apart}, "
                        "expected the split of training; give its split, ratios and seed, and, where it is "
                        "random, rows of interactions in the order that they had"
                    )
                mend = "Train again, or serve newer interactions with Recommender.load"
                raise _others(out, missing, new, source, mend)
        elif digest_of(edges) != record["held_out"].get(name, {"digest": digest_of(edges[:, :0])})["digest"]:
            raise InputError(
                f"{source}: found another {title} part of the same users and items than in training, expected the same "
                "split; load the data set with the same split"
            )
    if _graphs(out) != record["graphs"]:
        raise InputError(f"{source}: found other graphs beside the interactions than in training, expected the same")
    return out


def same_graph(data: HeteroData, digest: str, record: Mapping[str, Any] | None) -> bool:
    """Return whether a graph is that of a model, in the same order and under the same ids.

    Args:
        data, digest, record: As in :func:`matched`.
    """
    return fingerprint(data) == digest and (record is None or _same_ids(data, record))


def matched_newer(data: HeteroData, record: Mapping[str, Any], source: str) -> tuple[HeteroData, HeteroData]:
    """Return the part of a newer graph that a model knows, in its order, and the whole graph on the model's scale.

    Args:
        data: The graph: all users and items of the model, with newer interactions, users and items beside them.
        record: What :func:`graph_record` said of the graph that the model was trained on.
        source: Where both come from; begins every message.

    Raises:
        InputError: If there are no ids, a user or an item of the model is missing or has other features than in
            training, or more than a quarter of the interactions of training is not there.

    Warns:
        UserWarning: If some of the interactions of training are not there any more.
    """
    rows = _rows(data, record, source)
    if rows is None:
        raise InputError(
            f"{source}: found another graph than in training, and no ids to match its users and items by, expected "
            "data.user_id and data.item_id in both, or the graph that the model was trained on"
        )
    whole = on_scale(data, record)
    known = reordered(whole, record, rows, source, scaled=True)
    for m in known.modalities:
        has, want = known["item"].get(f"has_{m}"), current(known, m)
        if has is not None and not bool(has.all()) and want is not None and want["imputation"] is not None:
            rows_of_others = recorded(want).rows(known, m, has)  # Those of the whole graph come from new items too.
            known["item"][m] = known["item"][m].index_put((~has,), rows_of_others.to(known["item"][m].dtype))
            keep(known, m, want)
    parts = [known[RATES][name] for name in PARTS if known[RATES].get(name) is not None]
    missing = lost(record["interactions"], _sorted(known, torch.cat(parts, dim=1)))
    if missing.size(1) > MOST_LOST * record["interactions"].size(1):
        mend = f"A newer graph may lack up to {MOST_LOST:.0%} of them: train again"
        raise _others(known, missing, missing[:, :0], source, mend)
    if missing.size(1):
        warnings.warn(
            f"{source}: {_pairs(known, missing)} of training not in the graph any more; what is not there does not "
            "count as seen",
            stacklevel=3,
        )
    return known, whole


def as_in_training(data: HeteroData, record: Mapping[str, Any], sizes: Sequence[int], source: str) -> HeteroData:
    """Return the graph that a model was trained on, with features and further graphs from a later one.

    Interactions are those that were recorded, whatever the later graph has; there are no held-out ones.

    Args:
        data: The later graph: all users and items of the model, and others beside them.
        record: What :func:`graph_record` said of the graph that the model was trained on.
        sizes: Its numbers of users and items.
        source: Where both come from; begins every message.

    Raises:
        InputError: If a user or an item of the model is missing or has other features than in training, or there were
            further graphs that the later graph has not.
    """
    marks = record.get("marks")
    if not marks:
        raise InputError(f"{source}: found a file without a record of its graph, expected one; save the model again")
    later, ids = copy.copy(data), dict(record["ids"])
    later.modalities = [m for m in data.modalities if m in marks]
    for kind, size in zip(KINDS, sizes, strict=True):
        if ids[kind] is None:  # Rows are the same by number.
            ids[kind], later[f"{kind}_id"] = torch.arange(size), torch.arange(data[kind].num_nodes)
    record = {**record, "ids": ids}
    rows = _rows(later, record, source)
    assert rows is not None
    interactions = record["interactions"].long().cpu()
    edges = torch.stack([rows[kind][side] for kind, side in zip(KINDS, interactions, strict=True)])
    later[RATES].edge_index = edges.to(data[RATES].edge_index.device)
    for name in HELD_OUT:
        later[RATES].pop(name, None)
    for kind in later.edge_types:
        if kind != RATES and "/".join(kind) not in record["graphs"]:
            del later[kind]
    known, _ = matched_newer(later, record, source)
    known[RATES].edge_index = interactions.to(known[RATES].edge_index.device)
    if _graphs(known) != record["graphs"]:
        raise InputError(f"{source}: found other graphs beside the interactions than in training, expected the same")
    return known


def reordered(
    data: HeteroData, record: Mapping[str, Any], rows: Mapping[str, Tensor], source: str, scaled: bool = False
) -> HeteroData:
    """Return a graph in the order of a model, with features on its scale, if they are those of training.

    Args:
        data: The graph.
        record: What :func:`graph_record` said of the graph of the model.
        rows: By kind, the row of ``data`` of every row of the model.
        source: Where both come from.
        scaled: Whether features are on the scale of the model already.

    Raises:
        InputError: If modalities or features differ; the message names the first item.
    """
    marks = record["marks"]
    if set(marks) != set(data.modalities):
        raise InputError(
            f"{source}: found modalities {', '.join(data.modalities)}, expected {', '.join(marks)} as in training"
        )
    if not scaled:
        data = on_scale(data, record)
    out = subgraph(data, rows)
    out.modalities = list(marks)
    for m in out.modalities:
        now = current(data, m)
        if (one := record[KEY].get(m) or now) is not None:
            labels = labels_of(now) or labels_of(one)  # Numbers are compared below, whatever columns are called now.
            keep(out, m, {**one, COLUMN_LABELS: labels} if labels else one)
    for m, mark in marks.items():
        found = feature_marks(out, m)
        spread = mark[mark.isfinite().all(dim=1)].std(dim=0, correction=0) if mark.numel() else mark.new_zeros(2)
        apart = (found - mark).abs() > TOLERANCE * spread + 1e-6 * (1 + mark.abs())
        wrong = (apart | (found.isnan() != mark.isnan())).any(dim=1).nonzero().view(-1).numpy()
        if wrong.size:
            record_of_m, most = record[KEY].get(m), 2 * wrong.size > mark.size(0)
            reason = other_width(data, record_of_m, m) or (fitted_anew(data, record_of_m, m) if most else None)
            if reason is None and most:
                reason = outlier(data, rows["item"], m, wrong.size)
            raise InputError(
                f"{source}: {reason}"
                if reason is not None
                else f"{source}: {named(out, 'item', wrong)} has other features {m!r} in the graph than in training, "
                "expected the same under the same id; were ids or features shuffled, or is another transform chosen?"
            )
    return out


def on_scale(data: HeteroData, record: Mapping[str, Any]) -> HeteroData:
    """Return a graph whose features are prepared as those of a model were, where it is known what became of them.

    That is where they are as they were read or were standardised; others stay as they are. Columns of the same names
    in another order are brought to that of the model.

    Args:
        data: The graph.
        record: What :func:`graph_record` said of the graph of the model.
    """
    out = copy.copy(data)
    for m in data.modalities:
        have, want = current(data, m), record[KEY].get(m)
        if have is None or want is None or have["dim"] != want["dim"]:
            continue
        order = places(labels_of(have), labels_of(want))
        if order is None and same_steps(have["steps"], want["steps"]):
            continue
        x = data["item"][m]
        raw = _as_read(x.double() if reads_double(have) else x, have["steps"])
        if raw is None:
            continue
        raw = raw if order is None else raw[:, order]
        has = data["item"].get(f"has_{m}")
        out["item"][m] = prepare_rows(raw, want).to(x.dtype) if reads_double(have) else prepare_rows(raw, want)
        keep(out, m, want)
        if has is not None and not bool(has.all()) and want["imputation"] is not None:
            out["item"][m][~has] = recorded(want).rows(out, m, has).to(x.dtype)
            keep(out, m, want)
    return out


def lost(first: Tensor, second: Tensor) -> Tensor:
    """Return the interactions of the first ``[2, E]`` that the second does not have."""
    size = 1 + max((int(e[1].max()) for e in (first, second) if e.numel()), default=0)
    keys = [pair_keys(e[0], e[1], size) for e in (first, second)]
    return first[:, ~torch.isin(keys[0], keys[1])].long()


def _rows(data: HeteroData, record: Mapping[str, Any] | None, source: str) -> dict[str, Tensor] | None:
    """Return the row of the graph of every row of the model, by kind; :obj:`None` without ids."""
    if record is None:
        return None
    out = {}
    for kind in KINDS:
        mine, theirs = record["ids"][kind], ids_of(data, kind)
        if mine is None or theirs is None:
            return None
        column = id_column(mine, f"{kind}_id")
        rows = rows_among(column, id_column(theirs, f"{kind}_id"))
        missing = np.flatnonzero(rows < 0)
        if missing.size:
            names = names_of(column, missing, kind)
            raise InputError(
                f"{source}: the graph lacks {names}, expected every {kind} that the model was trained with; load the "
                "data set with them, or train again"
            )
        out[kind] = torch.from_numpy(rows)
    return out


def _same_ids(data: HeteroData, record: Mapping[str, Any]) -> bool:
    """Return whether rows have the ids that they had in training; without ids on one side, numbers are all there is."""
    return other_ids(record["ids"], {kind: ids_of(data, kind) for kind in KINDS}) is None


def _as_read(x: Tensor, steps: list[dict[str, Any]]) -> Tensor | None:
    """Return features as they were read, or :obj:`None` if a transform cannot be undone."""
    for step in reversed(steps):
        if step["name"] != StandardizeFeatures.__name__:
            return None
        mean, factor = (step["fitted"][name].to(x.device) for name in ("mean", "factor"))
        inverse = torch.where(factor > 0, 1 / factor.clamp(min=1e-300), 0.0)
        x = (x.double() * inverse + mean).to(x.dtype)
    return x


def _sorted(data: HeteroData, edges: Tensor) -> Tensor:
    """Return interactions in the order of users and then items, int64 on the CPU."""
    edges = edges.cpu().long()
    return edges[:, torch.argsort(pair_keys(edges[0], edges[1], data["item"].num_nodes))]


def _graphs(data: HeteroData) -> dict[str, str]:
    """Return digests of further graphs that do not depend on the order of edges."""
    out = {}
    for kind, index in data.edge_index_dict.items():
        if kind != RATES:
            order = np.lexsort(index.cpu().numpy()[::-1])
            out["/".join(kind)] = digest_of(index.cpu()[:, torch.from_numpy(order)])
    return out


def _pairs(data: HeteroData, edges: Tensor) -> str:
    user, item = (value_at(id_column(data[f"{k}_id"], k), int(edges[n, 0])) for n, k in enumerate(KINDS))
    verb = "interaction is" if edges.size(1) == 1 else "interactions are"
    return f"{edges.size(1):,} {verb} (first: user {user!r}, item {item!r})"


def _split_otherwise(data: HeteroData, record: Mapping[str, Any], missing: Tensor) -> bool:
    """Return whether a graph has as many interactions as in training, and holds out those missing from training."""
    parts = [part for name in HELD_OUT if (part := data[RATES].get(name)) is not None]
    held = torch.cat(parts, dim=1).cpu() if parts else missing[:, :0]
    now = data[RATES].edge_index.size(1) + held.size(1)
    then = record["interactions"].size(1) + sum(part["count"] for part in record["held_out"].values())
    return now == then and not lost(missing, held).size(1)


def _others(data: HeteroData, missing: Tensor, new: Tensor, source: str, mend: str) -> InputError:
    parts = [f"{_pairs(data, missing)} not there any more"] if missing.size(1) else []
    parts += [f"{_pairs(data, new)} new"] if new.size(1) else []
    return InputError(
        f"{source}: under the same ids, the graph has other training interactions than the model was trained on: "
        f"{', '.join(parts)}; were ids shuffled? {mend}"
    )
