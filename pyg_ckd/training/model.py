"""Trained backbones on disk: weights plus what is needed to build the model again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.nn.models.discovery import backbones as discovered
from pyg_ckd.training.checkpoint import load_checkpoint, save_checkpoint
from pyg_ckd.wrappers import unwrap


def save_model(path: str | os.PathLike[str], model: Objective | Backbone, data: HeteroData) -> None:
    """Write a trained backbone; of an objective, its student.

    Args:
        path: The file.
        model: The backbone, or an objective that holds one.
        data: The graph it was trained on; only its fingerprint is stored.
    """
    model = unwrap(model)
    backbone = model.student if isinstance(model, Objective) else model
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"save_model: found {type(backbone).__name__}, expected a backbone or an objective; adapt any other module "
            "with as_backbone(module, data)"
        )
    content = {
        "kind": "model",
        "backbone": type(backbone).__name__,
        "options": dict(backbone.options),
        "sizes": [backbone.num_users, backbone.num_items],
        "feature_dims": dict(backbone.feature_dims),
        "state": backbone.state_dict(),
        "data": fingerprint(data),
    }
    save_checkpoint(path, content)


def load_model(
    path: str | os.PathLike[str], data: HeteroData, backbones: Mapping[str, type[Backbone]] | None = None
) -> Backbone:
    """Read a trained backbone.

    Args:
        path: The file.
        data: The graph; it must be the one the model was trained on.
        backbones: The classes that the checkpoint may name; nothing else is ever built. (default: :obj:`None`, those
            of :mod:`pyg_ckd.nn`)

    Raises:
        InputError: If the file is damaged, of another version, names an unknown backbone, or belongs to other data.
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
    return model
