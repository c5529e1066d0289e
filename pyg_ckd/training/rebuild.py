"""From what a file says of a model to the model: classes by import path, never an import that a file causes."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import plain_number
from pyg_ckd.balance.discovery import check_strategy, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.adapter import AdaptedBackbone, as_backbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.nn.models.discovery import backbones as discovered
from pyg_ckd.options import is_plain
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.checkpoint import seeded

MASK = "item_mask_"
"""What the names of buffers begin with that say which items have a modality."""


def path_of(cls: type) -> str:
    """Return the import path of a class, such as ``my_file.Net``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_importable(cls: type) -> bool:
    """Return whether another program finds a class under its import path: not one of a script or inside a function."""
    return cls.__module__ != "__main__" and _imported(path_of(cls)) is cls


def recipe(module: nn.Module) -> dict[str, Any]:
    """Return how a module of one's own is built again: its import path and the arguments of its constructor.

    Arguments are the mapping ``options`` of the module, if it has one. Else each argument of the constructor is read
    from the attribute of the same name, and one without such an attribute has its default.

    Args:
        module: The module.

    Raises:
        InputError: If another program cannot import the class, an argument cannot be found or stored, or the module
            that they build has other weights.
    """
    cls = type(module)
    where = f"save_model: {cls.__qualname__}"
    if not is_importable(cls):
        raise InputError(
            f"{where}: found a class that no other program can import ({path_of(cls)}), expected one at the top of a "
            "file; move it to a file such as my_model.py and import it from there"
        )
    options = plain_number(dict(_arguments(module, where)))
    for name, value in options.items():
        if not is_plain(value):
            raise InputError(
                f"{where}: found {type(value).__name__} as argument {name!r}, which no file can hold, expected "
                "numbers, texts, lists or mappings; let the class build it from such ones"
            )
    shapes = _shapes(module)
    again = _shapes(_build(cls, options, where))
    if again.keys() != shapes.keys() or any(again[k] not in (None, shape) for k, shape in shapes.items()):
        raise InputError(
            f"{where}: built again with {options}, it has other weights, expected the same; keep the arguments of the "
            "constructor in attributes of the same names, or in the mapping self.options"
        )
    return {"class": path_of(cls), "options": options}


def build_backbone(
    path: str | os.PathLike[str],
    content: Mapping[str, Any],
    data: HeteroData,
    backbones: Mapping[str, type[Backbone]] | None,
) -> Backbone:
    """Build the backbone of a file, with its weights.

    Args:
        path: The file, for messages.
        content: What it holds.
        data: The graph.
        backbones: The classes that the file may name; :obj:`None` are those of the library and those that are imported.

    Raises:
        InputError: If the class is none of them, or does not take what the file holds.
    """
    name = str(content["backbone"])
    if "module" in content:
        model = _adapted(path, content, data)
    else:
        cls: Any = _backbone_class(path, name, content.get("class"), backbones)
        try:
            model = cls(*content["sizes"], content["feature_dims"], **content["options"])
        except TypeError as error:
            raise InputError(
                f"checkpoint {path}: found options {content['options']}, expected those of {name} ({error}); another "
                "version wrote it, train again"
            ) from None
    try:
        model.to(next((w.dtype for w in content["state"].values() if w.is_floating_point()), torch.float32))
        model.load_state_dict(content["state"])
    except RuntimeError:
        raise InputError(
            f"checkpoint {path}: found weights of other shapes than {name} has with the stored options "
            f"{content['options']}, expected the same; another version wrote it, train again"
        ) from None
    return model


def build_strategy(path: str | os.PathLike[str], student: Backbone, content: Any) -> Objective:
    """Build the strategy that a model ranks with around its student.

    Args:
        path: The file, for messages.
        student: The backbone.
        content: What the file says of the strategy.

    Raises:
        InputError: If it is damaged, the strategy is not imported, or it does not take what the file holds.
    """
    if not isinstance(content, dict) or {"path", "options", "teachers", "state"} - content.keys():
        raise InputError(f"checkpoint {path}: the part 'strategy' is damaged, train again")
    known = {path_of(cls): cls for cls in strategies().values()}
    name = str(content["path"])
    cls: Any = known.get(name) or _imported(name)
    if cls is None:
        raise InputError(
            f"checkpoint {path}: it ranks with the strategy {name}, which is not imported, expected it to be; import "
            f"{name.rpartition('.')[0]} first, or give it on the command line with --strategy {name}"
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


def _backbone_class(
    path: str | os.PathLike[str], name: str, place: str | None, backbones: Mapping[str, type[Backbone]] | None
) -> type[Backbone]:
    if not isinstance(backbones, (Mapping, type(None))):
        raise InputError(
            f"backbones: found {type(backbones).__name__}, expected a mapping from names to classes, such as "
            f"{{{name!r}: {name}}}"
        )
    known = discovered() if backbones is None else backbones
    cls = known.get(name)
    if cls is not None and (backbones is not None or place in (None, path_of(cls))):
        return cls
    cls = None if place is None or backbones is not None else _imported(place)
    if inspect.isclass(cls) and issubclass(cls, Backbone):
        return cls
    if place is None or backbones is not None or place.startswith("pyg_ckd."):
        raise unknown_name(f"backbone in checkpoint {path}:", name, known)
    raise _not_imported(path, place, f"pass backbones={{{name!r}: {name}}}")


def class_of(path: str) -> type[Backbone] | None:
    """Return the backbone of an import path, if it is imported or one of the library.

    Args:
        path: The import path.
    """
    known = {path_of(cls): cls for cls in discovered().values()}
    cls = known.get(path) or _imported(path)
    return cls if inspect.isclass(cls) and issubclass(cls, Backbone) else None


def _adapted(path: str | os.PathLike[str], content: Mapping[str, Any], data: HeteroData) -> Backbone:
    given = content["module"]
    if not isinstance(given, dict) or {"class", "options"} - given.keys():
        raise InputError(f"checkpoint {path}: the part 'module' is damaged, train again")
    cls = _imported(str(given["class"]))
    if cls is None:
        raise _not_imported(path, str(given["class"]))
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise InputError(f"checkpoint {path}: found {given['class']}, which is no module, expected a torch.nn.Module")
    module = _build(cls, given["options"], f"checkpoint {path}")
    if isinstance(module, Backbone):
        raise InputError(f"checkpoint {path}: found {given['class']}, a backbone, expected a module that is none")
    with seeded(0):  # Lazy parameters draw their first values.
        found = as_backbone(module, data, content["options"].get("modality_parameters"))
    assert isinstance(found, AdaptedBackbone)
    return found


def _not_imported(path: str | os.PathLike[str], place: str, more: str = "") -> InputError:
    module = place.rpartition(".")[0]
    if module == "__main__" or "<locals>" in place:
        return InputError(
            f"checkpoint {path}: it is a {place}, a class of a script or a function, which no other program can import;"
            f" move it to a file of its own and train again{f', or {more}' if more else ''}"
        )
    return InputError(
        f"checkpoint {path}: it is a {place}, which is not imported, expected it to be: a file never causes an import; "
        f"import {module} first, or give --imports {module} on the command line"
    )


def _imported(path: str) -> Any:
    """Return what an import path names among modules that are imported already, or :obj:`None`."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is not None:
            for name in parts[cut:]:
                found = getattr(found, name, None)
            return found
    return None


def _arguments(module: nn.Module, where: str) -> Mapping[str, Any]:
    given = getattr(module, "options", None)
    if isinstance(given, Mapping):
        return given
    found = {}
    for name, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(module, name) and not isinstance(getattr(module, name), (nn.Module, torch.Tensor)):
            found[name] = getattr(module, name)
        elif parameter.default is parameter.empty:
            raise InputError(
                f"{where}: found no attribute {name!r}, so that a file cannot say how to build it again, expected one "
                f"for every argument of the constructor; write self.{name} = {name} there, or keep all of them in the "
                "mapping self.options"
            )
    return found


def _build(cls: Any, options: Mapping[str, Any], where: str) -> nn.Module:
    try:
        with seeded(0):
            built: nn.Module = cls(**options)
        return built
    except Exception as error:  # Whatever the user's own constructor raises.
        raise InputError(
            f"{where}: {path_of(cls)} cannot be built with {dict(options)} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); its constructor must take what is stored"
        ) from error


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {k: None if is_lazy(v) else tuple(v.shape) for k, v in module.state_dict().items()}
