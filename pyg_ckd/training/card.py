"""The model card: what a model file says of the model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

OLD = "not stored: an older version wrote the file"


def model_card(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model file says of the model.

    Args:
        content: What :func:`~pyg_ckd.training.model.read_model` returned.

    Returns:
        Plain values in parts: ``model`` (backbone, import path, options, number of weights), ``data`` (sizes, ids,
        modalities with their transforms and imputation, interactions, fingerprint), ``training`` (objective with its
        options, seed, date, epochs, settings), ``metrics`` by split, ``versions``, and ``format``.
    """
    weights = [w for w in content["state"].values() if isinstance(w, Tensor)]
    model: dict[str, Any] = {"backbone": content["backbone"]}
    if "module" in content:
        model["module"] = {"class": content["module"]["class"], "options": content["module"]["options"]}
    elif "class" in content:
        model["class"] = content["class"]
    if "strategy" in content:
        model["ranks with"] = content["strategy"]["path"]
    model |= {"options": dict(content["options"]), "weights": sum(w.numel() for w in weights)}
    model["type"] = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights if w.is_floating_point()}))
    about = dict(content.get("about") or {})
    metrics = about.pop("metrics", {})
    return {
        "model": model,
        "data": _data(content),
        "training": {**_objective(content.get("objective")), **about} if "about" in content else {"about": OLD},
        "metrics": {str(split): dict(values) for split, values in metrics.items()},
        "versions": dict(content.get("versions") or {"about": OLD}),
        "format": content["format"],
    }


def _objective(about: Mapping[str, Any] | None) -> dict[str, Any]:
    if about is None:
        return {}
    inside = _objective(about.get("inner"))
    return {"objective": about["name"], "class": about["class"], "options": dict(about["options"])} | (
        {"around": inside} if inside else {}
    )


def _data(content: Mapping[str, Any]) -> dict[str, Any]:
    users, items = content["sizes"]
    graph = content.get("graph")
    data: dict[str, Any] = {"users": users, "items": items}
    if graph is None:
        data["ids"] = OLD
    else:
        data |= {f"{kind} ids": _ids(ids) for kind, ids in graph["ids"].items()}
        data["interactions"] = {"train": graph["interactions"].size(1)} | {
            name.removesuffix("_edge_index"): part["count"] for name, part in graph["held_out"].items()
        }
    data["modalities"] = {m: _modality(m, width, graph) for m, width in content["feature_dims"].items()}
    return data | {"fingerprint": content["data"]}


def _ids(ids: Any) -> str:
    if ids is None:
        return "none, row numbers"
    if isinstance(ids, Tensor):
        return f"integers from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "none"
    return f"texts from {min(ids)!r} to {max(ids)!r}" if ids else "none"


def _modality(name: str, width: int, graph: Mapping[str, Any] | None) -> dict[str, Any]:
    about: dict[str, Any] = {"columns": width}
    if graph is None:
        return about
    has = ~graph["marks"][name].isnan().any(dim=1)
    about["items with it"] = int(has.sum())
    record = graph["prepared"].get(name)
    if record is None:
        return {**about, "transform": "unknown, of one's own"}
    steps = [_step(step) for step in record["steps"]]
    about |= {"columns read": record["dim"], "transform": " then ".join(steps) or "none"}
    if not bool(has.all()):
        about["imputation"] = "as given" if record["imputation"] is None else _step(record["imputation"])
    return about


def _step(step: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in step.get("settings", {}).items())
    return f"{step['name']}({settings})"
