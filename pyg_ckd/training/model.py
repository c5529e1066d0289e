"""Trained models on disk: weights plus what is needed to build the model again, to use it, and to know what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import plain_number
from pyg_ckd.balance.discovery import innermost
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.identity import KINDS
from pyg_ckd.data.inputs import check_graph
from pyg_ckd.data.matching import graph_record, matched
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, writing
from pyg_ckd.nn.models.adapter import AdaptedBackbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.options import is_plain
from pyg_ckd.training.checkpoint import save_checkpoint
from pyg_ckd.training.earlier import CARRIED, own_state, remember, trained_on
from pyg_ckd.training.history import History
from pyg_ckd.training.rebuild import build_backbone, build_strategy, class_of, path_of, recipe
from pyg_ckd.training.safe_file import SUFFIX, read_model, save_safetensors
from pyg_ckd.versions import versions
from pyg_ckd.wrappers import unwrap

VERSIONS = ("pyg-ckd", "torch", "torch-geometric", "python")
WRITERS = {".pt": save_checkpoint, SUFFIX: save_safetensors}


def save_model(
    path: str | os.PathLike[str],
    model: Objective | Backbone,
    data: HeteroData,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a trained backbone; of an objective, its student and, if it ranks with scores of its own, itself.

    Of a wrapper, it is the objective inside that counts. Beside the weights, the file holds the ids of users and items,
    the training interactions, what became of the features and two numbers that tell those of each item apart, versions,
    and what is known of the training, see :func:`~pyg_ckd.training.card.model_card`. It is read without executing
    anything. A module of one's own (:class:`~pyg_ckd.nn.AdaptedBackbone`) is stored by its import path and the
    arguments of its constructor.

    Args:
        path: The file. One that ends in ``.safetensors`` is written in that format, which needs the extra
            ``safetensors``.
        model: The backbone, or an objective that holds one.
        data: The graph it was trained on.
        about: What is known of the training, plain values such as :func:`about_training` returns. (default:
            :obj:`None`, nothing but the date)

    Raises:
        InputError: If ``model`` is neither or a part of one, ``data`` is no graph, ``about`` holds anything but plain
            values, the class of a module of one's own cannot be imported by another program, or the file cannot be
            written.
    """
    check_graph(data)
    if as_path(path).is_dir():
        raise InputError(f"save_model: found the folder {path}, expected the name of a file, such as {path}/model.pt")
    model = unwrap(model)
    outer = model if isinstance(model, Objective) else None
    if isinstance(model, Objective):
        model = innermost(model)
    backbone = model.student if isinstance(model, Objective) else model
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"save_model: found {type(backbone).__name__}, expected a backbone or an objective; adapt any other module "
            "with as_backbone(module, data)"
        )
    if backbone.is_part:
        raise InputError(
            f"save_model: found a {type(backbone).__name__} of which this process has a part alone, expected a whole "
            "one; save it after the training"
        )
    known = plain_number(dict(about or {}))
    for name, value in known.items():
        if not is_plain(value):
            raise InputError(f"about[{name!r}]: found {type(value).__name__}, expected plain values, lists or mappings")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content: dict[str, Any] = {
        "kind": "model",
        "backbone": type(backbone).__name__,
        "class": path_of(type(backbone)),
        "options": dict(backbone.options),
        "sizes": [backbone.num_users, backbone.num_items],
        "feature_dims": dict(backbone.feature_dims),
        "state": backbone.state_dict(),
        "data": fingerprint(data),
        "graph": graph_record(data),
        "objective": None if outer is None else describe_objective(outer),
        "about": {"date": now, **known},
        "versions": {name: value for name, value in versions().items() if name in VERSIONS},
    }
    if isinstance(backbone, AdaptedBackbone):
        content["module"] = recipe(backbone.module)
    if isinstance(model, Objective) and ranks_itself(model):
        content["strategy"] = _strategy(model)
    if isinstance(model, Objective):
        content |= own_state(model)
    carried = trained_on(backbone).carried
    if carried is not None and carried.numel() == backbone.num_users:
        content[CARRIED] = carried
    with writing(path, "save_model"):
        WRITERS.get(as_path(path).suffix.lower(), save_checkpoint)(path, content)


def about_training(
    history: History,
    seed: int | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a model file says of a training.

    Args:
        history: What :meth:`Trainer.fit` returned.
        seed: The seed of the run.
        metrics: Metrics by split, such as ``{"test": evaluate(model, data)}``. (default: :obj:`None`, those of the
            validation part that the history has)
        settings: What decided about the result, such as ``trainer.settings()``.
    """
    row = next((row for row in history.rows if row["epoch"] == history.best_epoch), {})
    val = {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/") and k.count("/") == 1}
    given = {split: {k: float(v) for k, v in values.items()} for split, values in (metrics or {}).items()}
    about: dict[str, Any] = {} if seed is None else {"seed": seed}
    about |= {"best_epoch": history.best_epoch, "epochs": len(history.rows), "stopped": history.stopped}
    about |= {"converged": history.converged, "seconds": float(sum(history.seconds))}
    if history.seen_by_start_from:
        about["seen_by_start_from"] = dict(history.seen_by_start_from)
    about["metrics"] = given if "val" in given or not val else {"val": val, **given}
    return about | ({} if settings is None else {"settings": dict(settings)})


def user_function(model: Any) -> tuple[str, Callable[..., Tensor]] | None:
    """Return how users of a model follow from what they have met, and the import path of the class that says so.

    Args:
        model: A model, or anything else.

    Returns:
        :obj:`None` if users are learnt, or the model ranks with scores of its own. See :attr:`Backbone.users_of`.
    """
    model = unwrap(model)
    if isinstance(model, Objective):
        model = innermost(model)
        model = None if ranks_itself(model) else model.student
    if not isinstance(model, Backbone) or model.users_of is None:
        return None
    return path_of(type(model)), type(model).users_of


def learns_users(model: Any) -> bool:
    """Return whether nothing is known of users without training interactions, see :attr:`Backbone.learnt_users`.

    Args:
        model: A backbone, an objective around one, or anything else, of which nobody knows.
    """
    model = unwrap(model)
    if isinstance(model, Objective):
        model = innermost(model).student
    return isinstance(model, Backbone) and model.learnt_users


def user_function_of(path: str) -> Callable[..., Tensor] | None:
    """Return what :func:`user_function` returned of a class, if it is imported or one of the library.

    Args:
        path: Its import path.
    """
    cls = class_of(path)
    return None if cls is None else cls.users_of


def ranks_itself(objective: Objective) -> bool:
    """Return whether an objective ranks with other scores than its student's, as an ensemble does.

    Args:
        objective: The objective.
    """
    return type(objective).forward_views is not Objective.forward_views


def describe_objective(objective: Objective) -> dict[str, Any]:
    """Return the name, the import path and the options of an objective, and those of the one inside a wrapper."""
    about: dict[str, Any] = {"name": objective.name, "class": path_of(type(objective))}
    about["options"] = {k: v for k, v in objective.options.items() if is_plain(v)}
    if objective.wraps:
        about["options"] = {k: v for k, v in about["options"].items() if k not in ("inner", "inner_options")}
        about["inner"] = describe_objective(getattr(objective, "inner"))  # noqa: B009  An attribute of wrappers alone.
    return about


def _strategy(objective: Objective) -> dict[str, Any]:
    cls, state = type(objective), objective.state_dict()
    teachers = {m: tuple(tables) for m, tables in objective.given_teachers().items()}
    if cls.needs_teachers and not teachers:
        raise InputError(
            f"{cls.__name__}: needs teachers but its given_teachers() returns none, so that a saved model could not be "
            "built again; derive from pyg_ckd.balance.TaughtObjective"
        )
    return {
        "path": path_of(cls),
        "options": dict(objective.options),
        "teachers": teachers,
        "state": {k: v for k, v in state.items() if not k.startswith(("student.", "teacher_"))},
    }


def open_model(
    path: str | os.PathLike[str],
    data: HeteroData,
    backbones: Mapping[str, type[Backbone]] | None = None,
) -> tuple[Backbone | Objective, HeteroData]:
    """Read a trained model, and return it with the graph in the order of its rows.

    A model is a function of row numbers. Where a graph has the users and items of training under the same ids but in
    another order, the rows of the graph are brought to that of the model; features that are raw, or standardised
    otherwise, are brought to the model's scale.

    Args:
        path: The file.
        data: The graph it was trained on, in any order.
        backbones: As in :func:`load_model`.

    Returns:
        The model, and ``data`` itself or a copy in the order of the model.

    Raises:
        InputError: As :func:`load_model`; and if ``data`` is no graph, or a user or an item is missing, new, or has
            other features or interactions than in training.
    """
    content = read_model(path)
    graph = matched(data, content["data"], content.get("graph"), f"checkpoint {path}")
    if graph is None:
        raise other_data(path, content, data)
    return build_model(path, content, graph, backbones), graph


def load_model(
    path: str | os.PathLike[str], data: HeteroData, backbones: Mapping[str, type[Backbone]] | None = None
) -> Backbone | Objective:
    """Read a trained model: a backbone, or an objective if it was trained with one that ranks with scores of its own.

    A class from outside the library is built again only if its module has been imported already: a file never causes
    an import.

    Args:
        path: The file.
        data: The graph; it must be the one the model was trained on, in the same order.
        backbones: The classes that the checkpoint may name; nothing else is ever built. (default: :obj:`None`, those
            of :mod:`pyg_ckd.nn`, and the one of the stored import path)

    Raises:
        InputError: If the file is damaged, of another version, names an unknown backbone or a class that is not
            imported, or belongs to other data or to the same in another order.
    """
    model, graph = open_model(path, data, backbones)
    if graph is not data:
        raise InputError(
            f"checkpoint {path}: the graph has the users and items of training in another order or its features on "
            "another scale, expected the same; take open_model(path, data), which returns the graph as the model knows "
            "it beside the model"
        )
    return model


def build_model(
    path: str | os.PathLike[str],
    content: Mapping[str, Any],
    data: HeteroData,
    backbones: Mapping[str, type[Backbone]] | None = None,
) -> Backbone | Objective:
    """Build the model of a file.

    Args:
        path: The file, for messages.
        content: What :func:`read_model` returned.
        data: The graph, in the order of the model.
        backbones: As in :func:`load_model`.

    Raises:
        InputError: As :func:`load_model`.
    """
    model = build_backbone(path, content, data, backbones)
    remember(model, data, carried=content.get(CARRIED))
    return model if "strategy" not in content else build_strategy(path, model, content["strategy"])


def other_data(path: str | os.PathLike[str], content: Mapping[str, Any], data: HeteroData) -> InputError:
    """Return the error for a graph that is not that of a model, and that cannot be matched with it by ids.

    Args:
        path: The file.
        content: What it holds.
        data: The graph.
    """
    sizes, dims = content["sizes"], content["feature_dims"]
    return InputError(
        f"checkpoint {path}: it was trained on other data ({sizes[0]} users, {sizes[1]} items, modalities "
        f"{', '.join(f'{m} [{d}]' for m, d in dims.items())}, or other interactions or feature values), expected "
        f"the graph given; load the same data with the same transform{_without_ids(content, data)}"
    )


def _without_ids(content: Mapping[str, Any], data: HeteroData) -> str:
    """Return who lacks the ids by which newer data, or other rows, are matched with a model, and how to add them."""
    record = content.get("graph")
    if not isinstance(record, Mapping):
        return "; a file of this old version matches no newer data, train again for that"
    lacks = {
        "the model has": [kind for kind in KINDS if record["ids"].get(kind) is None],
        "the data have": [kind for kind in KINDS if getattr(data, f"{kind}_id", None) is None],
    }
    found = [f"{who} no ids of {' and '.join(f'{k}s' for k in kinds)}" for who, kinds in lacks.items() if kinds]
    if len(found) == 2 and len(set(map(tuple, lacks.values()))) == 1:
        found = [found[0].replace("the model has no", "neither the model nor the data have")]
    names = [f"{kind}_id" for kind in KINDS if any(kind in kinds for kinds in lacks.values())]
    again = ", and train again" if lacks["the model has"] else ""
    return (
        f". Newer data, or the same in other rows, are matched by ids, but {' and '.join(found)}; give "
        f"{' and '.join(names)}, keys of an .npz file and arguments of build_data, one id per row{again}"
    )


def convert_model(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a model file in the format that a name ends in, with all that it holds.

    Args:
        path: A file of :func:`save_model`.
        out: The file to write, ``.safetensors`` or ``.pt``.

    Returns:
        The path of the new file.

    Raises:
        InputError: If the file cannot be read or written, or the name ends in neither.
    """
    target = as_path(out)
    suffix = target.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"out {out}: {unknown_name('format', suffix, WRITERS)}")
    content = read_model(path)
    with writing(out):
        WRITERS[suffix](target, content)
    return target
