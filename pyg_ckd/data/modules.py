"""What can be done with any module: see where its parameters are and of which type, and call it for views."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


def module_views(
    module: nn.Module,
    features: Mapping[str, Tensor],
    edge_index: Tensor,
    views: Sequence[View],
    sizes: tuple[int, int],
    n_id_dict: Mapping[str, Tensor] | None = None,
    means: Mapping[str, Tensor] | None = None,
) -> list[Embeddings]:
    """Return the embeddings of a module that knows nothing of views, which is called once for every distinct one.

    Interventions act from outside: in a view, the features of every modality that is not factual are replaced with
    their mean over items before the module sees them. Only the call for the first view, which a training ranks by,
    updates running statistics, such as those of :class:`~torch.nn.BatchNorm1d`.

    Args:
        module: The module, called with ``x_dict``, from modality to features ``[I, d_m]``, and ``edge_index``.
        features: From modality to features ``[I, d_m]``.
        edge_index: The interactions (user row, item row), int64 ``[2, E]``.
        views: The views.
        sizes: Numbers of users and items.
        n_id_dict: Row numbers of the users and items of a sampled subgraph, which the module is then given as well.
        means: From modality to the mean features over all items, ``[1, d_m]``. (default: :obj:`None`, those of
            ``features``)

    Raises:
        InputError: If the module returns anything but a pair (user ``[U, D]``, item ``[I, D]``), or changes features in
            place.
    """
    out: dict[View, Embeddings] = {}
    before = {m: _version(x) for m, x in features.items()}
    more = () if n_id_dict is None else (n_id_dict,)
    for view in dict.fromkeys(views):
        x_dict = {
            m: x if m in view else (x.mean(dim=0, keepdim=True) if means is None else means[m]).expand_as(x)
            for m, x in features.items()  # do(X_m = mean)
        }
        with without_tracking(module) if out else nullcontext():
            out[view] = checked_tables(module(x_dict, edge_index, *more), type(module).__name__, sizes)
    changed = [m for m, x in features.items() if _version(x) != before[m]]
    if changed:
        raise InputError(f"{changed_in_place(type(module).__name__, changed)}; build the graph again, it is changed")
    return [out[view] for view in views]


@contextmanager
def without_tracking(module: nn.Module) -> Iterator[None]:
    """Return a block in which calls of a module in training mode update no running statistics of normalisation layers.

    Args:
        module: The module.
    """
    parts = [
        part
        for part in module.modules()
        if part.training
        and getattr(part, "track_running_stats", None) is True
        and not isinstance(part, torch.jit.ScriptModule)  # Its flags are fixed.
    ]
    for part in parts:
        part.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in parts:
            part.track_running_stats = True  # type: ignore[assignment]


def changed_in_place(name: str, modalities: Sequence[str]) -> str:
    """Return what is wrong with a module that writes into the features that it is given.

    Args:
        name: Name of its class.
        modalities: Of which it is known.
    """
    return (
        f"{name}: found features of {', '.join(modalities)} changed in place, expected them as they were, for every "
        "view and every epoch reads them; use what returns a new tensor, such as x.relu() and nn.ReLU(inplace=False)"
    )


def _version(x: Tensor) -> int:
    """Return how often a tensor has been written to; zero where PyTorch does not count."""
    return 0 if x.is_inference() or torch.compiler.is_compiling() else x._version


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Return a block in which a model is in evaluation mode; after it, every module inside has its own mode again.

    Several threads may be in such blocks with one model: its modules have their own modes again after the last.

    Args:
        model: The model.
    """
    parts = list(model.modules())
    with _LOCK:
        modes = {part: part.training for part in parts}
        if any(modes.values()):
            model.eval()
        for part, training in modes.items():
            _EVALUATED.setdefault(part, _Evaluated(training)).blocks += 1
    try:
        yield
    finally:
        with _LOCK:
            _leave(model, parts)


@dataclass
class _Evaluated:
    """A module in blocks of :func:`evaluating`.

    Attributes:
        training: Its mode before the first.
        blocks: How many there are.
    """

    training: bool
    blocks: int = 0


_EVALUATED: dict[nn.Module, _Evaluated] = {}  # Only as long as they are, for copies of a model must not have it.
_LOCK = RLock()


def _begin_in_child() -> None:
    """Forget what other threads of the parent process were doing when this process was forked."""
    global _LOCK
    _LOCK = RLock()
    _EVALUATED.clear()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_begin_in_child)


def _leave(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    for part in parts:
        _EVALUATED[part].blocks -= 1
    modes = {part: _EVALUATED.pop(part).training for part in parts if not _EVALUATED[part].blocks}
    if len(modes) == len(parts):
        model.train(modes[model])  # What a module does in a ``train`` of its own, it does here too.
    for part, training in modes.items():
        if part.training != training:
            part.training = training


class MeanFeatures:
    """Mean features over all items, computed once for as long as the features stay what they are; copies begin anew."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def __reduce__(self) -> tuple[type[MeanFeatures], tuple[()]]:
        return MeanFeatures, ()

    def __call__(self, modality: str, x: Tensor) -> Tensor:
        """Return the mean row, ``[1, d_m]``.

        Args:
            modality: Name of the modality.
            x: Its features ``[I, d_m]``.
        """
        if x.requires_grad or x.is_inference():
            return x.mean(dim=0, keepdim=True)
        known = self._known.get(modality)
        if known is None or known[0]() is not x or known[1] != x._version:
            known = self._known[modality] = (weakref.ref(x), x._version, x.mean(dim=0, keepdim=True))
        return known[2]


def takes_node_ids(module: nn.Module) -> bool:
    """Return whether a module's ``forward`` has an argument ``n_id_dict``, so that it works on a part of a graph.

    Args:
        module: The module.
    """
    return "n_id_dict" in inspect.signature(module.forward).parameters


def checked_tables(result: object, name: str, sizes: tuple[int, int]) -> Embeddings:
    """Return what a module returned as embeddings.

    Args:
        result: What its ``forward`` returned.
        name: The name of its class, for the message.
        sizes: Numbers of users and items.

    Raises:
        InputError: If it is anything but a pair (user ``[U, D]``, item ``[I, D]``) of dense floating-point tensors.
    """
    expected = f"expected a pair (user [{sizes[0]}, D], item [{sizes[1]}, D])"
    if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(x, Tensor) for x in result):
        parts = f" of {', '.join(type(x).__name__ for x in result)}" if isinstance(result, tuple) else ""
        mend = ""
        if isinstance(result, Mapping):
            both = {"user", "item"} <= result.keys()
            keys = ", ".join(map(repr, result)) or "none"
            mend = "; write return out['user'], out['item']" if both else f"; take both from its keys ({keys})"
        raise InputError(f"{name}.forward returned {type(result).__name__}{parts}, {expected} of tensors{mend}")
    user, item = result
    if user.dim() != 2 or item.dim() != 2 or (user.size(0), item.size(0)) != sizes or user.size(1) != item.size(1):
        raise InputError(f"{name}.forward returned shapes {tuple(user.shape)} and {tuple(item.shape)}, {expected}")
    for table in (user, item):
        if table.layout != torch.strided:
            raise InputError(f"{name}.forward returned a sparse table, {expected} of dense ones; use .to_dense()")
        if not table.is_floating_point():
            raise InputError(
                f"{name}.forward returned a table of {table.dtype}, {expected} of floating-point numbers, which can be "
                "trained; leave out what converts them"
            )
    return Embeddings(user, item)


def checked_outputs(name: str, outputs: Any, number: int | None) -> list[Any]:
    """Return the embeddings of several views.

    Args:
        name: Name of the class whose ``forward_views`` returned them.
        outputs: What it returned.
        number: How many views it was asked for; :obj:`None` if that is not known.

    Raises:
        InputError: If it is no list of one for each view.
    """
    several = isinstance(outputs, (list, tuple)) and not hasattr(outputs, "_fields")
    whole = several and not any(isinstance(one, Tensor) for one in outputs)
    if not whole or number not in (None, len(outputs)):
        found = type(outputs).__name__
        if several:
            found += f" of {', '.join(type(one).__name__ for one in outputs) or 'nothing'}"
        raise InputError(
            f"{name}.forward_views: found {found}, expected a list with the embeddings of each of the views that it "
            "was asked for, such as [Embeddings(user, item)]"
        )
    return list(outputs)


def check_forward(module: nn.Module) -> None:
    """Refuse a module that cannot be called with ``x_dict`` and ``edge_index``.

    Args:
        module: The module; nothing is said of one whose call or whose hooks decide what ``forward`` is given.

    Raises:
        InputError: If it has no ``forward``, or one with other arguments.
    """
    if type(module).__call__ is not nn.Module.__call__ or module._forward_pre_hooks:
        return
    found = "no forward"
    if getattr(module.forward, "__func__", None) is not nn.Module.forward:
        try:
            signature = inspect.signature(module.forward, follow_wrapped=False)
        except (TypeError, ValueError):  # Of a program that was compiled.
            return
        with suppress(TypeError):
            signature.bind({}, None)
            return
        found = f"forward{signature}"
    raise InputError(
        f"{type(module).__name__}: found {found}, expected forward(x_dict, edge_index) -> (user, item), with x_dict "
        "from modality to features [I, d_m], edge_index int64 [2, E], and embeddings user [U, D] and item [I, D]; "
        "further arguments need defaults"
    )


def check_memory(model: nn.Module) -> None:
    """Refuse a model whose parameters or buffers have shapes alone.

    Args:
        model: The model.

    Raises:
        InputError: If one is on the meta device.
    """
    found = next((name for name, p in (*model.named_parameters(), *model.named_buffers()) if p.is_meta), None)
    if found is not None:
        raise InputError(
            f"model: found {found} of {type(model).__name__} on the meta device, which has no memory behind its "
            "parameters, expected numbers; create the model on another device, or call model.to_empty(device='cpu') "
            "and load its weights"
        )


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a model's parameters are, or :obj:`None` if it has none.

    Args:
        model: The model.
    """
    return next((p.device for p in (*model.parameters(), *model.buffers())), None)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the floating-point type of a model's parameters, that of the first one, or :obj:`None` if it has none.

    Args:
        model: The model.
    """
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def reads_rows(model: nn.Module) -> bool:
    """Return whether a model, or the one inside it, reads features row by row, see ``Backbone.reads_rows``.

    Args:
        model: The model.
    """
    while isinstance(getattr(model, "student", None), nn.Module):
        model = model.student  # type: ignore[assignment]
    return bool(getattr(model, "reads_rows", False))


def lazy_parameters(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that have no shape yet.

    Args:
        model: The model.
    """
    return [name for name, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)]
