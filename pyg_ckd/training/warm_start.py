"""Warm start: a model begins with what an earlier one has learnt, matched by the ids of users and items."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import innermost
from pyg_ckd.balance.objective import Objective, as_objective
from pyg_ckd.data.identity import Identity, Known, identity_of, match
from pyg_ckd.data.ids import id_column, value_at
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.ridge import Ridge, within_known
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.training.earlier import Earlier, Inputs, StartFrom, class_name, own_tensors, read_earlier, strategy_of
from pyg_ckd.training.seen_before import seen_before
from pyg_ckd.wrappers import unwrapped_state

LOGGER = logging.getLogger("pyg_ckd.training")
KINDS = ("user", "item", "modality")


@dataclass(frozen=True)
class Start:
    """What a model has begun from.

    Attributes:
        known: Which users, items and modalities the earlier model knows.
        digest: A digest of the earlier model.
        seen: Share of the held-out interactions that the earlier model was trained on, by split; empty if nobody knows.
        carried: Of which users the earlier model, or one before it, had learnt something, bool ``[U]``.
    """

    known: Known
    digest: str
    seen: Mapping[str, float]
    carried: Tensor


def warm_start(model: nn.Module, data: HeteroData, start_from: StartFrom) -> Start:
    r"""Give a model, in place, the parameters of an earlier one; users and items are matched by their ids.

    =============================================== ===================================================================
    what                                            becomes
    =============================================== ===================================================================
    rows of users and items that both models know   the earlier rows
    rows of new users                               the mean row of the earlier table
    rows of new items                               what their features say: the ridge regression from the features of
                                                    all modalities to the rows of the items that both know and that have
                                                    a training interaction, see :class:`~pyg_ckd.data.ridge.Ridge`; the
                                                    mean row if there are fewer than two of them; a value far outside of
                                                    those of known items counts as the farthest of these, with a warning
    parameters that count neither                   the earlier ones
    parameters of new modalities                    what they are in ``model``
    parameters of the objective itself              the earlier ones, if both are of one class and the shapes fit; rows
                                                    of users and items as above, new ones as in ``model``
    =============================================== ===================================================================

    Ids are those of ``data.user_id`` and ``data.item_id``; where neither graph has any, rows are the same by number and
    new ones stand at the end. Which dimensions of a parameter count users, items or modalities is found by building the
    backbone's class in other sizes, without memory for it; of an adapted module, by comparing shapes with the numbers
    of users and items.

    An objective that asks, as :class:`~pyg_ckd.balance.Incremental` does, is given the earlier backbone with the graph
    that it was trained on: of a model, as long as that graph is there and unchanged, or where it is given beside the
    model; of a file, the recorded interactions with the features of ``data``, if all users and items of the earlier
    model are in ``data`` with the same features.

    Args:
        model: The model, a backbone or an objective, built for ``data``. New modalities are taken only by an objective
            whose ``takes_new_modalities`` is true.
        data: The graph.
        start_from: A file of :func:`~pyg_ckd.training.model.save_model` or a ``model.pt`` of the command line; or a
            model that a :class:`~pyg_ckd.Trainer` has trained; or any model with the graph that it was trained on.

    Raises:
        InputError: If the file cannot be read, the backbone is of another class or has other shapes, ids are missing on
            one side or have nothing in common, or a modality is missing, new, or of another width.

    Warns:
        UserWarning: If the earlier model was trained on held-out interactions of ``data``.
    """
    objective = as_objective(model, data)
    student = objective.student
    earlier = read_earlier(start_from, student)
    if earlier.backbone != class_name(student):
        raise InputError(
            f"start_from: found a {earlier.backbone} in {earlier.name}, expected a {class_name(student)} as is to be "
            "trained; choose that backbone, or another model to start from"
        )
    takes_new = bool(getattr(innermost(objective), "takes_new_modalities", False))
    known = match(earlier.identity, identity_of(data), f"start_from: {earlier.name}", takes_new)
    _carry(student, data, earlier, known)
    objective.begin_from(replace(known, earlier=lambda: _inputs(earlier, data)))
    if strategy_of(objective) == earlier.strategy:
        _carry_own(innermost(objective), earlier.own, known)
    LOGGER.info("%s: %s", type(student).__name__, known)
    interactions, items = earlier.interactions(), earlier.identity.sizes["item"]
    seen = {} if interactions is None else seen_before(data, known, interactions, items)
    carried = (known.user >= 0) & earlier.learnt_users()[known.user.clamp(min=0)]
    return Start(known, earlier.digest(), seen, carried)


def table_dims(backbone: Backbone) -> dict[str, dict[int, str]] | None:
    """Return which dimensions of a backbone's parameters and buffers count users, items or modalities.

    Args:
        backbone: The backbone.

    Returns:
        From name to the kind of every such dimension; :obj:`None` if the class cannot be built in other sizes.
    """
    if isinstance(backbone, AdaptedBackbone):
        return None
    sizes: dict[str, Any] = {"user": backbone.num_users, "item": backbone.num_items}
    own = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    dims: dict[str, dict[int, str]] = {name: {} for name in own}
    for kind in KINDS:
        widths = dict(backbone.feature_dims)
        if kind == "modality":
            widths["another_one"] = 1
        more = {other: size + (other == kind) for other, size in sizes.items()}
        try:
            with torch.device("meta"):
                built = type(backbone)(more["user"], more["item"], widths, **backbone.options)
        except Exception:  # A class of somebody else's, which may raise whatever it likes.
            return None
        shapes = {name: tuple(value.shape) for name, value in built.state_dict().items()}
        counted = len(backbone.feature_dims) if kind == "modality" else sizes[kind]
        for name, shape in own.items():
            if len(shapes.get(name, ())) != len(shape):
                return None
            for dim, (before, after) in enumerate(zip(shape, shapes[name], strict=True)):
                if after == before + 1 and before == counted:
                    dims[name][dim] = kind
                elif after != before and kind != "modality":
                    return None
    return dims


def _inputs(earlier: Earlier, data: HeteroData) -> Inputs | None:
    """Return the earlier backbone with what it was trained on, or nothing, with a warning, if it cannot be had."""
    try:
        return earlier.inputs(data)
    except InputError as error:
        warnings.warn(
            f"start_from: {earlier.name}: found no graph that it was trained on ({error}); what it says of users and "
            "items is read off its parameters on the graph of today. Give start_from=(model, graph) to have it as it "
            "was",
            stacklevel=4,
        )
        return None


@torch.no_grad()
def _carry(student: Backbone, data: HeteroData, earlier: Earlier, known: Known) -> None:
    """Copy the earlier parameters and buffers into a backbone."""
    target = student.state_dict()
    state = unwrapped_state(earlier.state, target.keys())
    new = known.new_modalities
    for name in (*state, *target):
        if name not in target or (name not in state and not _is_of(name, new)):
            where = "the model" if name not in target else earlier.name
            raise InputError(
                f"start_from: {where} has no {name!r}, expected the parameters of one backbone with the same options"
            )
    dims = table_dims(student)
    rows = {"user": known.user, "item": known.item, "modality": known.modality}
    moved: dict[str, Tensor] = {}
    fill = _Newcomers(data, known)
    for name, value in target.items():
        if name not in state:
            continue
        old = state[name].to(value.device)
        found = _dims_by_size(name, old, value, earlier, student, known) if dims is None else dims[name]
        for dim, kind in found.items():
            if old.dim() != value.dim() or old.size(dim) != _count(earlier.identity, kind):
                raise _shape_error(name, state[name], value, earlier)
            old = fill(old, dim, kind, rows[kind].to(value.device))
        if old.shape != value.shape:
            raise _shape_error(name, state[name], value, earlier)
        moved[name] = old
    for name, old in moved.items():  # Only now that all of it fits.
        target[name].copy_(old)


@torch.no_grad()
def _carry_own(objective: Objective, earlier: Mapping[str, Tensor], known: Known) -> None:
    """Copy the earlier parameters of the objective itself, as far as they fit; newcomers keep theirs."""
    rows = {"user": known.user, "item": known.item}
    own = dict(own_tensors(objective))
    for name in own.keys() & earlier.keys():
        new, old = own[name], earlier[name].to(own[name].device)
        kind = _rows_of(objective, name)
        if kind is None and new.shape == old.shape:
            new.copy_(old)
        elif kind in rows and new.shape[1:] == old.shape[1:]:
            row = rows[kind].to(new.device)
            new[row >= 0] = old[row[row >= 0]]


def _rows_of(objective: Objective, name: str) -> str | None:
    """Return what the rows of a parameter of an objective stand for, or of one inside of wrappers."""
    while objective.wraps and name.startswith("inner."):
        objective, name = getattr(objective, "inner"), name.removeprefix("inner.")  # noqa: B009  Of wrappers alone.
    return objective.own_rows.get(name.partition(".")[0])


class _Newcomers:
    """Moves tables to the rows of another graph, and knows what to give to those who are new there."""

    def __init__(self, data: HeteroData, known: Known) -> None:
        self._data, self._known = data, known
        self._features: Tensor | None = None

    def __call__(self, table: Tensor, dim: int, kind: str, rows: Tensor) -> Tensor:
        """Return a table whose dimension ``dim`` has an entry for every row.

        Args:
            table: The earlier table, of any shape.
            dim: The dimension.
            kind: What it counts.
            rows: The earlier row of each, int64, -1 for new ones.
        """
        old = table.movedim(dim, 0)
        flat, is_new = old.reshape(old.size(0), -1), rows < 0
        out = flat.index_select(0, rows.clamp(min=0))
        if bool(is_new.any()) and flat.is_floating_point():
            out[is_new] = flat.double().mean(dim=0).to(flat.dtype)
            if kind == "item":
                self._from_features(out, is_new)
        return out.view(-1, *old.shape[1:]).movedim(0, dim)

    def _from_features(self, out: Tensor, is_new: Tensor) -> None:
        warm = torch.zeros(out.size(0), dtype=torch.bool)
        warm[self._data[RATES].edge_index[1].cpu()] = True
        learn = warm.to(is_new.device) & ~is_new
        if int(learn.sum()) < 2:
            return
        if self._features is None:
            self._features = self._near(unpack(self._data, out.device)[0], is_new)
        out[is_new] = Ridge(self._features[learn], out[learn])(self._features[is_new])

    def _near(self, features: Mapping[str, Tensor], is_new: Tensor) -> Tensor:
        """Return features of all items, modalities side by side, those of new ones not far outside of the others."""
        rows = is_new.nonzero().view(-1)
        known, new = ({m: x[chosen] for m, x in features.items()} for chosen in (~is_new, is_new))
        ids = getattr(self._data, "item_id", None)

        def name(row: int) -> object:
            place = int(rows[row])
            return place if ids is None else value_at(id_column(ids, "item_id"), place)

        out = torch.cat(list(features.values()), dim=1)
        return out.index_copy(0, rows, torch.cat(within_known(known, new, name, "start_from"), dim=1))


def _dims_by_size(
    name: str, old: Tensor, new: Tensor, earlier: Earlier, student: Backbone, known: Known
) -> dict[int, str]:
    """Return which dimensions of a parameter of an adapted module count users or items, as far as its shapes tell."""
    if old.dim() != new.dim():
        raise _shape_error(name, old, new, earlier)
    before, after = earlier.identity.sizes, {"user": student.num_users, "item": student.num_items}
    owner = student.get_submodule(name.rpartition(".")[0])
    layer = any(hasattr(owner, size) for size in ("in_features", "in_channels", "num_features"))
    rows = {"user": known.user, "item": known.item}
    dims: dict[int, str] = {}
    for dim, pair in enumerate(zip(old.shape, new.shape, strict=True)):
        kinds = [k for k in rows if pair == (before[k], after[k]) and not _all_stay(rows[k], before[k])]
        chance = pair[0] == pair[1] and (layer or dim > 0)  # A width that happens to be the number of users.
        if len(kinds) > 1 or (kinds and chance):
            raise InputError(
                f"start_from: {earlier.name}: found {name!r} of shape {list(old.shape)}, which may or may not count "
                f"{' or '.join(f'{kind}s' for kind in kinds)}, expected a shape that tells; make the module a backbone "
                "of its own, a subclass of LateFusion or EarlyFusion"
            )
        if kinds:
            dims[dim] = kinds[0]
    return dims


def _all_stay(rows: Tensor, before: int) -> bool:
    """Return whether every row is where it was."""
    return rows.numel() == before and torch.equal(rows, torch.arange(before))


def _is_of(name: str, modalities: tuple[str, ...]) -> bool:
    """Return whether a parameter stands under the name of one of some modalities."""
    return any(part in modalities for part in name.split("."))


def _count(identity: Identity, kind: str) -> int:
    return len(identity.feature_dims) if kind == "modality" else identity.sizes[kind]


def _shape_error(name: str, old: Tensor, new: Tensor, earlier: Earlier) -> InputError:
    return InputError(
        f"start_from: {earlier.name}: found {name!r} of shape {list(old.shape)}, which does not grow to "
        f"{list(new.shape)} as in the model; give the model the options that the earlier one had"
    )
