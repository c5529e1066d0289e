"""Trained models on disk: weights plus what is needed to build the model again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import check_strategy, innermost, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.identity import stored_identity
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.nn.models.discovery import backbones as discovered
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.checkpoint import load_checkpoint, save_checkpoint
from pyg_ckd.training.warm_start import own_state, remember
from pyg_ckd.wrappers import unwrap

MASK = "item_mask_"
"""What the names of buffers begin with that say which items have a modality."""


def save_model(path: str | os.PathLike[str], model: Objective | Backbone, data: HeteroData) -> None:
    """Write a trained backbone; of an objective, its student and, if it ranks with scores of its own, itself.

    Of a wrapper, it is the objective inside that counts.

    Args:
        path: The file.
        model: The backbone, or an objective that holds one.
        data: The graph it was trained on; its fingerprint, ids, and what was done to its features are stored.
    """
    model = unwrap(model)
    if isinstance(model, Objective):
        model = innermost(model)
    backbone = model.student if isinstance(model, Objective) else model
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"save_model: found {type(backbone).__name__}, expected a backbone or an objective; adapt any other module "
            "with as_backbone(module, data)"
        )
    strategy = _strategy(model) if isinstance(model, Objective) and ranks_itself(model) else None
    content = {
        "kind": "model",
        "backbone": type(backbone).__name__,
        "options": dict(backbone.options),
        "sizes": [backbone.num_users, backbone.num_items],
        "feature_dims": dict(backbone.feature_dims),
        "state": backbone.state_dict(),
        "data": fingerprint(data),
        **stored_identity(data),
    }
    if isinstance(model, Objective):
        content |= own_state(model)
    save_checkpoint(path, content if strategy is None else {**content, "strategy": strategy})


def ranks_itself(objective: Objective) -> bool:
    """Return whether an objective ranks with other scores than its student's, as an ensemble does.

    Args:
        objective: The objective.
    """
    return type(objective).forward_views is not Objective.forward_views


def _strategy(objective: Objective) -> dict[str, Any]:
    cls, state = type(objective), objective.state_dict()
    teachers = {m: tuple(tables) for m, tables in objective.given_teachers().items()}
    if cls.needs_teachers and not teachers:
        raise InputError(
            f"{cls.__name__}: needs teachers but its given_teachers() returns none, so that a saved model could not be "
            "built again; derive from pyg_ckd.balance.TaughtObjective"
        )
    return {
        "path": f"{cls.__module__}.{cls.__qualname__}",
        "options": dict(objective.options),
        "teachers": teachers,
        "state": {k: v for k, v in state.items() if not k.startswith(("student.", "teacher_"))},
    }


def load_model(
    path: str | os.PathLike[str], data: HeteroData, backbones: Mapping[str, type[Backbone]] | None = None
) -> Backbone | Objective:
    """Read a trained model: a backbone, or an objective if it was trained with one that ranks with scores of its own.

    A strategy from outside the library is built again only if its module has been imported already: a file never
    causes an import.

    Args:
        path: The file.
        data: The graph; it must be the one the model was trained on.
        backbones: The classes that the checkpoint may name; nothing else is ever built. (default: :obj:`None`, those
            of :mod:`pyg_ckd.nn`)

    Raises:
        InputError: If the file is damaged, of another version, names an unknown backbone or a strategy that is not
            imported, or belongs to other data.
    """
    backbones = discovered() if backbones is None else backbones
    content = load_checkpoint(path, "model")
    missing = sorted({"backbone", "options", "sizes", "feature_dims", "state", "data"} - content.keys())
    if missing:
        raise InputError(f"checkpoint {path}: lacks {', '.join(missing)}; it is damaged, train again")
    if content["backbone"] not in backbones:
        raise unknown_name(f"backbone in checkpoint {path}:", content["backbone"], backbones)
    if content["data"] != fingerprint(data):
        sizes, dims = content["sizes"], content["feature_dims"]
        raise InputError(
            f"checkpoint {path}: it was trained on other data ({sizes[0]} users, {sizes[1]} items, modalities "
            f"{', '.join(f'{m} [{d}]' for m, d in dims.items())}, or other interactions or feature values), expected "
            "the graph given; load the same data with the same transform"
        )
    cls: Any = backbones[content["backbone"]]
    try:
        model: Backbone = cls(*content["sizes"], content["feature_dims"], **content["options"])
    except TypeError as error:
        raise InputError(
            f"checkpoint {path}: found options {content['options']}, expected those of {content['backbone']} "
            f"({error}); another version wrote it, train again"
        ) from None
    try:
        model.to(next((w.dtype for w in content["state"].values() if w.is_floating_point()), torch.float32))
        model.load_state_dict(content["state"])
    except RuntimeError:
        raise InputError(
            f"checkpoint {path}: found weights of other shapes than {content['backbone']} has with the stored options "
            f"{content['options']}, expected the same; another version wrote it, train again"
        ) from None
    remember(model, data)
    return model if "strategy" not in content else _restore(path, model, content["strategy"])


def _restore(path: str | os.PathLike[str], student: Backbone, content: Any) -> Objective:
    if not isinstance(content, dict) or {"path", "options", "teachers", "state"} - content.keys():
        raise InputError(f"checkpoint {path}: the part 'strategy' is damaged, train again")
    known = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in strategies().values()}
    name = str(content["path"])
    module, _, attribute = name.rpartition(".")
    cls = known.get(name) or getattr(sys.modules.get(module), attribute, None)
    if cls is None:
        raise InputError(
            f"checkpoint {path}: it ranks with the strategy {name}, which is not imported, expected it to be; import "
            f"{module} first, or give it on the command line with --strategy {name}"
        )
    check_strategy(name, cls)
    try:
        tables = {m: Embeddings(*pair) for m, pair in content["teachers"].items()}
        given: list[Any] = [tables] if cls.needs_teachers else []
        masks = {k.removeprefix(MASK): v for k, v in content["state"].items() if k.startswith(MASK)}
        options: dict[str, Any] = content["options"] | ({"has": masks} if masks else {})
        objective: Objective = cls(student, *given, **options)
        kept = {k: v for k, v in objective.state_dict().items() if k.startswith(("student.", "teacher_"))}
        objective.load_state_dict(kept | content["state"])
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"checkpoint {path}: found options and state that {name} does not take ({reason}); another version wrote "
            "it, train again"
        ) from None
    return objective
