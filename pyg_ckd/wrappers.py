"""Modules that hold another one: taken off where a model is taken, and out of the names of its parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_INNER = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
    "_FabricModule": "module",
}
_HOMES = ("torch", "lightning_fabric", "lightning", "accelerate")
_PREFIXES = ("_orig_mod.", "module.", "_forward_module.", "_original_module.")


def unwrap(model: Any) -> Any:
    """Return the module inside those of :func:`torch.compile`, data parallelism, weight averaging and lightning-fabric.

    Parameters are shared, so that what is trained is the model inside. A module that shall stay compiled is compiled in
    place, with :meth:`torch.nn.Module.compile`, which wraps nothing.

    Args:
        model: Anything; what is no such wrapper comes back as it is.
    """
    while True:
        kinds = [cls.__name__ for cls in type(model).__mro__ if cls.__module__.split(".")[0] in _HOMES]
        inner = next((_INNER[name] for name in kinds if name in _INNER), None)
        if inner is None:
            return model
        model = getattr(model, inner)


def unwrapped_state(state: Mapping[str, Any], own: Collection[str]) -> Mapping[str, Any]:
    """Return the weights of a model under its own names, whatever it was wrapped in when they were stored.

    Args:
        state: From name to weight.
        own: The names that the model has.
    """
    if state.keys() <= set(own):
        return state
    found = {name: value for name, value in state.items() if name != "n_averaged"}  # Of averaged weights, a counter.
    while not found.keys() <= set(own):
        prefix = next((p for p in _PREFIXES if found and all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    if not found.keys() <= set(own):
        found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
    return found if found.keys() <= set(own) else state
