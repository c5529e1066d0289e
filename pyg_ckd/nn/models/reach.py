"""Which parameters of any module belong to one modality, found by following gradients."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from pyg_ckd.scoring.autograd import leaf_of, nodes_behind

Call = Callable[[nn.Module, dict[str, Tensor]], Iterable[Tensor]]
SUMS = ("AddBackward0", "SubBackward0")


def parameters_by_modality(
    module: nn.Module, call: Call, features: Mapping[str, Tensor]
) -> tuple[dict[str, list[str]], list[str]]:
    r"""Return the names of the parameters that work on one modality alone, by modality.

    One forward pass with features that require gradients shows where a parameter is used. A parameter belongs to
    modality ``m`` if everything that it is first combined with depends on the features of ``m`` and on no others. What
    happens to it before, alone or with other parameters, does not count: transposes of a weight, or a table of which
    rows are read. So

    * the weight and the bias of a layer that sees the features of ``m``, or what became of them, belong to ``m``;
    * a layer that several modalities go through, one after the other or side by side, belongs to none;
    * nor does a table that is combined with features of several modalities, or returned as it is.

    Where a table of as many rows and columns is added, the whole sum counts, however long and in whatever order: ids
    to which projections of several modalities are added one by one belong to none. Ids of a modality of their own,
    which stand under its name in a :class:`~torch.nn.ModuleDict` or :class:`~torch.nn.ParameterDict`, belong to it.

    The module stays as it is: the pass runs on a copy, and random numbers are drawn from a fork of the generators.

    Args:
        module: The module.
        call: Calls a module with features and returns the tensors that it makes.
        features: From modality to features ``[I, d_m]``.

    Returns:
        The names, and the modalities whose features the module reads without a gradient, so that it cannot be seen
        which parameters work on them. Nothing that is added to anything belongs to a modality then.
    """
    device = next(iter(features.values())).device
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device.index or 0], device.type)
    with torch.random.fork_rng(devices, device_type=kind), torch.inference_mode(False), torch.enable_grad():
        twin = copy.deepcopy(module)
        inputs = {m: (x.clone() if x.is_inference() else x.detach()).requires_grad_() for m, x in features.items()}
        out = list(call(twin, inputs))
        nodes = nodes_behind(out)
        leaves = {id(leaf): node for node in nodes if (leaf := leaf_of(node)) is not None}
        hidden = _without_gradient(twin, call, {m: x for m, x in inputs.items() if id(x) not in leaves}, inputs)
    users = _users(nodes)
    seen: dict[Node, frozenset[str]] = dict.fromkeys(nodes, frozenset())
    for m, x in inputs.items():
        for node in _reached([leaves[id(x)]] if id(x) in leaves else [], users):
            seen[node] |= {m}
    named = {id(p): m for m, own in parameters_by_name(twin, list(features)).items() for p in own}
    groups: dict[str, list[str]] = {m: [] for m in features}
    for name, p in twin.named_parameters():
        if id(p) not in leaves:
            continue
        first = _first_met(leaves[id(p)], users, seen)
        owner = _only(first, seen)
        sums = [node for node in first if node.name() in SUMS]
        if sums and owner is not None and owner != named.get(id(p)):
            if hidden:  # What is added may be made of their features.
                owner = named.get(id(p))
            elif p.dim() > 1 and p.size(-2) > 1:  # Else it is a bias.
                owner = _only({*first, *_whole(sums, users)}, seen)
        if owner is not None:
            groups[owner].append(name)
    return groups, hidden


def parameters_by_name(module: nn.Module, modalities: Sequence[str]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that stand under the name of one modality in a dictionary of modules or parameters.

    Args:
        module: The module.
        modalities: Names of the modalities; a dictionary with other keys is passed over.
    """
    groups: dict[str, dict[int, nn.Parameter]] = {m: {} for m in modalities}
    for part in module.modules():
        if isinstance(part, (nn.ModuleDict, nn.ParameterDict)) and set(part.keys()) <= groups.keys():
            for m, inner in part.items():
                own = inner.parameters() if isinstance(inner, nn.Module) else [inner]
                groups[m] |= {id(p): p for p in own if isinstance(p, nn.Parameter)}
    owners = Counter(p for own in groups.values() for p in own)
    return {m: [p for key, p in own.items() if owners[key] == 1] for m, own in groups.items()}


def _without_gradient(
    module: nn.Module, call: Call, unseen: Mapping[str, Tensor], features: Mapping[str, Tensor]
) -> list[str]:
    """Return the modalities among some whose features the module reads, though no gradient reaches them."""
    if not unseen:
        return []
    with torch.no_grad():
        module.eval()
        known = list(call(module, {m: x.detach() for m, x in features.items()}))
        return [
            m
            for m in unseen
            if any(
                not torch.allclose(x, y, equal_nan=True)
                for x, y in zip(
                    known, call(module, {n: 1 - x if n == m else x.detach() for n, x in features.items()}), strict=True
                )
            )
        ]


def _only(nodes: Iterable[Node], seen: Mapping[Node, frozenset[str]]) -> str | None:
    """Return the modality that each of some nodes depends on, and on no other; none if there is no such."""
    met = {seen[node] for node in nodes}
    return next(iter(next(iter(met)))) if len(met) == 1 and len(next(iter(met))) == 1 else None


def _whole(sums: Iterable[Node], users: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """Return the ends of longer sums that some sums are parts of, and the sums that are no such parts."""
    found, waiting = set[Node](), list(sums)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [after for after in users[node] if after.name() in SUMS]
    return {node for node in found if not any(after.name() in SUMS for after in users[node])}


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


def _first_met(start: Node, users: Mapping[Node, list[Node]], seen: Mapping[Node, frozenset[str]]) -> set[Node]:
    """Return the nodes in which a parameter first meets features of any modality, or leaves without having met any."""
    meets = {node for node in seen if seen[node]}
    return {node for node in _reached([start], users, meets) if node in meets or not users[node]}
