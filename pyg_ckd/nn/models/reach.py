"""Which parameters of any module belong to one modality, found by following gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from pyg_ckd.scoring.autograd import leaf_of, nodes_behind


def parameters_by_modality(
    module: nn.Module, call: Callable[[nn.Module, dict[str, Tensor]], Iterable[Tensor]], features: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    r"""Return the names of the parameters that work on one modality alone, by modality.

    One forward pass with features that require gradients shows where a parameter is used. A parameter belongs to
    modality ``m`` if everything that it is first combined with depends on the features of ``m`` and on no others. What
    happens to it before, alone or with other parameters, does not count: transposes of a weight, or a table of which
    rows are read. So

    * the weight and the bias of a layer that sees the features of ``m``, or what became of them, belong to ``m``;
    * a layer that several modalities go through, one after the other or side by side, belongs to none;
    * nor does a table that is combined with features of several modalities, or returned as it is.

    The module stays as it is: the pass runs on a copy, and random numbers are drawn from a fork of the generators.

    Args:
        module: The module.
        call: Calls a module with features and returns the tensors that it makes.
        features: From modality to features ``[I, d_m]``.
    """
    device = next(iter(features.values())).device
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device.index or 0], device.type)
    with torch.random.fork_rng(devices, device_type=kind), torch.inference_mode(False), torch.enable_grad():
        twin = copy.deepcopy(module)
        inputs = {m: (x.clone() if x.is_inference() else x.detach()).requires_grad_() for m, x in features.items()}
        out = call(twin, inputs)
    nodes = nodes_behind(out)
    users = _users(nodes)
    leaves = {id(leaf): node for node in nodes if (leaf := leaf_of(node)) is not None}
    seen: dict[Node, frozenset[str]] = dict.fromkeys(nodes, frozenset())
    for m, x in inputs.items():
        for node in _reached([leaves[id(x)]] if id(x) in leaves else [], users):
            seen[node] |= {m}
    groups: dict[str, list[str]] = {m: [] for m in features}
    for name, p in twin.named_parameters():
        met = _first_met(leaves[id(p)], users, seen) if id(p) in leaves else set()
        if len(met) == 1 and len(only := next(iter(met))) == 1:
            groups[next(iter(only))].append(name)
    return groups


def _users(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """Return for every node those that use its result."""
    users: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for after, _ in node.next_functions:
            if after is not None:
                users[after].append(node)
    return users


def _reached(waiting: list[Node], users: Mapping[Node, list[Node]], stop: Collection[Node] = ()) -> set[Node]:
    """Return the nodes whose results depend on some nodes, these among them, going no further than ``stop``."""
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node in stop else users[node]
    return found


def _first_met(
    start: Node, users: Mapping[Node, list[Node]], seen: Mapping[Node, frozenset[str]]
) -> set[frozenset[str]]:
    """Return the modalities behind each node in which a parameter first meets any; none where it leaves without."""
    meets = {node for node in seen if seen[node]}
    reached = _reached([start], users, meets)
    return {seen[node] for node in reached if node in meets or not users[node]}
