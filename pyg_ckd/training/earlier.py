"""Earlier models that a training starts from: what they have learnt, and what their rows stand for."""

from __future__ import annotations

import copy
import hashlib
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import innermost
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.identity import Identity, identity_of
from pyg_ckd.data.inputs import RATES, EdgeType, unpack
from pyg_ckd.data.matching import as_in_training
from pyg_ckd.data.modules import device_of, dtype_of, reads_rows
from pyg_ckd.data.prepared import KEY, digest_of
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import AdaptedBackbone, as_backbone
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.training.checkpoint import seeded
from pyg_ckd.training.rebuild import build_backbone, path_of
from pyg_ckd.training.safe_file import read_model
from pyg_ckd.wrappers import unwrap

StartFrom = str | os.PathLike[str] | nn.Module | tuple[nn.Module, HeteroData]
"""What a training may start from: the file of a model, or a model, best with the graph that it was trained on."""
CARRIED = "carried"
"""What a file calls :attr:`TrainedOn.carried`."""
TRAINED_ON = "trained_on"
"""Attribute of a backbone that says what its rows stand for and which graph it was trained on."""
Inputs = tuple[Backbone, dict[str, Tensor], dict[EdgeType, Tensor]]
"""A backbone, and the features and graphs that it was trained on."""


@dataclass(frozen=True)
class Earlier:
    """An earlier model.

    Attributes:
        name: What messages call it.
        backbone: Name of the class of its backbone.
        state: Parameters and buffers of the backbone.
        own: Parameters of the objective itself.
        strategy: Import path of the objective's class.
        identity: What its rows stand for.
        inputs: Returns the backbone with the features and graphs that it was trained on, given the graph of today.
        interactions: Returns the interactions that it was trained on, or :obj:`None` if nobody knows them.
        carried: As in :class:`TrainedOn`.
    """

    name: str
    backbone: str
    state: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    strategy: str
    identity: Identity
    inputs: Callable[[HeteroData], Inputs]
    interactions: Callable[[], Tensor | None]
    carried: Tensor | None = None

    def learnt_users(self) -> Tensor:
        """Return of which users it or one before it has learnt something, bool ``[U]``; all if nobody knows."""
        count, pairs = self.identity.sizes["user"], self.interactions()
        if pairs is None:
            return torch.ones(count, dtype=torch.bool)
        learnt = torch.bincount(pairs[0].long().cpu(), minlength=count) > 0
        return learnt if self.carried is None else learnt | self.carried

    def digest(self) -> str:
        """Return a digest of all of it, by which a checkpoint tells whether a run began from the same."""
        digest = hashlib.sha256(f"{self.backbone}{dict(self.identity.feature_dims)}".encode())
        for part in (self.state, self.own):
            for name, value in sorted(part.items()):
                digest.update(f"|{name}:{digest_of(value)}".encode())
        for kind, ids in sorted(self.identity.ids.items()):
            text = ids.tolist() if isinstance(ids, Tensor) else ids
            digest.update(f"|{kind}:{text}".encode())
        return digest.hexdigest()[:16]


def _no_graph() -> None:
    return None


@dataclass(frozen=True)
class TrainedOn:
    """What a backbone remembers of its training: the graph itself only as long as somebody else has it.

    Attributes:
        identity: What its rows stand for; :obj:`None` of a graph that was cut.
        graph: Returns the graph, or :obj:`None` if it is gone.
        digest: Its fingerprint; empty if nobody took it.
        carried: Of which users the models that it began from had learnt something, bool ``[U]``; :obj:`None` if it did
            not begin from any.
    """

    identity: Identity | None
    graph: Callable[[], HeteroData | None] = _no_graph
    digest: str = ""
    carried: Tensor | None = None

    @property
    def ids(self) -> Mapping[str, Any] | None:
        """Ids of users and items."""
        return None if self.identity is None else self.identity.ids

    def __reduce__(self) -> tuple[type[TrainedOn], tuple[Any, ...]]:
        return TrainedOn, (self.identity, _no_graph, "", self.carried)

    def __deepcopy__(self, memo: Any) -> TrainedOn:
        return self


def remember(model: nn.Module, data: HeteroData, digest: str = "", carried: Tensor | None = None) -> None:
    """Let a model know what its rows stand for, so that another one can start from it.

    Args:
        model: The model.
        data: The graph that it is trained on.
        digest: Its fingerprint, by which a graph that was changed in place is recognised.
        carried: As in :class:`TrainedOn`. (default: :obj:`None`)
    """
    identity: Identity | None = None
    with suppress(InputError):  # Of a graph that was cut nobody can tell.
        identity = identity_of(data)
    for part in (model, getattr(model, "module", None)):
        if isinstance(part, nn.Module):
            object.__setattr__(part, TRAINED_ON, TrainedOn(identity, weakref.ref(data), digest, carried))


def trained_on(model: nn.Module) -> TrainedOn:
    """Return what a model remembers of its training, nothing if no trainer and no file has told it.

    Args:
        model: The backbone, a module that was adapted, or an objective.
    """
    model = unwrap(model)
    backbone = innermost(model).student if isinstance(model, Objective) else model
    return getattr(backbone, TRAINED_ON, None) or TrainedOn(None)


def own_state(objective: Objective) -> dict[str, Any]:
    """Return what a file holds of an objective's own parameters, nothing if it has none.

    Args:
        objective: The objective.
    """
    own = {name: p.detach().clone() for name, p in own_tensors(objective)}
    return {"own": {"path": strategy_of(objective), "state": own}} if own else {}


def digest_of_start(start_from: StartFrom) -> str:
    """Return a digest of an earlier model, by which a run tells whether it began from the same.

    Args:
        start_from: As in :func:`~pyg_ckd.training.warm_start`.

    Raises:
        InputError: If it cannot be read.
    """
    return read_earlier(start_from).digest()


def read_earlier(start_from: StartFrom, student: Backbone | None = None) -> Earlier:
    """Return an earlier model.

    Args:
        start_from: As in :func:`~pyg_ckd.training.warm_start`.
        student: The backbone that is about to begin from it; may be its own.

    Raises:
        InputError: If it cannot be read, or nobody knows what its rows stand for.
    """
    graph: HeteroData | None = None
    if isinstance(start_from, tuple):
        if len(start_from) != 2 or not isinstance(start_from[1], HeteroData):
            raise InputError("start_from: found a tuple, expected a model and the graph that it was trained on")
        model, graph = unwrap(start_from[0]), start_from[1]
        identity: Identity | None = identity_of(graph)
    elif isinstance(start_from, nn.Module):
        model, identity = unwrap(start_from), None
    elif isinstance(start_from, (str, os.PathLike)):
        return _from_file(start_from)
    else:
        raise InputError(
            f"start_from: found {type(start_from).__name__}, expected the path of a model, a model, or a model and its "
            "graph"
        )
    objective = innermost(model) if isinstance(model, Objective) else None
    backbone = model if objective is None else objective.student
    name = type(getattr(backbone, "module", backbone)).__name__
    known = trained_on(backbone)
    identity = known.identity if identity is None else identity
    if identity is None:
        raise InputError(
            f"start_from: found a {name} that no Trainer has trained, so that nobody knows whose its rows are, "
            "expected start_from=(model, graph) with the graph that it was trained on"
        )
    state = {k: v.detach() for k, v in backbone.state_dict().items()}
    if not isinstance(backbone, Backbone):
        state = {f"module.{k}": v for k, v in state.items()}
    own = {} if objective is None else {k: p.detach() for k, p in own_tensors(objective)}
    same = backbone is student  # It is about to change.
    inputs = partial(_inputs_of_model, copy.deepcopy(backbone) if same else backbone, known, graph)
    interactions = partial(_interactions_of_model, known, graph)
    cls, path = class_name(backbone), strategy_of(objective)
    return Earlier(f"the {name} given", cls, state, own, path, identity, inputs, interactions, known.carried)


def _from_file(path: str | os.PathLike[str]) -> Earlier:
    content = read_model(path)
    sizes = dict(zip(("user", "item"), content["sizes"], strict=True))
    graph = content.get("graph") or {"ids": {}, KEY: {}, "marks": {}}  # Older files say nothing of it.
    identity = Identity(sizes, content["feature_dims"], graph["ids"], graph[KEY], graph["marks"])
    own = content.get("own", {"path": "", "state": {}})
    inputs = partial(_inputs_of_file, path, content)
    state, interactions = content["state"], partial(graph.get, "interactions")
    parts = state, own["state"], own["path"], identity, inputs, interactions, content.get(CARRIED)
    return Earlier(str(path), content["backbone"], *parts)


def _inputs_of_model(backbone: nn.Module, known: TrainedOn, graph: HeteroData | None, data: HeteroData) -> Inputs:
    if graph is None:
        graph = known.graph()
        if graph is None:
            raise InputError("the graph is gone, and the model does not keep it")
        if known.digest and fingerprint(graph) != known.digest:
            raise InputError("the graph was changed in place since")
    return _with_inputs(backbone if isinstance(backbone, Backbone) else as_backbone(backbone, graph), graph)


def _interactions_of_model(known: TrainedOn, graph: HeteroData | None) -> Tensor | None:
    if graph is None:
        graph = known.graph()
        if graph is None or (known.digest and fingerprint(graph) != known.digest):
            return None
    return graph[RATES].edge_index


def _inputs_of_file(path: str | os.PathLike[str], content: Mapping[str, Any], data: HeteroData) -> Inputs:
    graph = as_in_training(data, content.get("graph") or {}, content["sizes"], str(path))
    with seeded(0):  # What is drawn here is replaced by what is stored.
        return _with_inputs(build_backbone(path, content, graph, None), graph)


def _with_inputs(backbone: Backbone, graph: HeteroData) -> Inputs:
    return backbone, *unpack(graph, device_of(backbone), dtype_of(backbone), reads_rows(backbone))


def class_name(backbone: nn.Module) -> str:
    """Return the name of a backbone's class, that of the adapter for a module that is none.

    Args:
        backbone: The backbone.
    """
    return (type(backbone) if isinstance(backbone, Backbone) else AdaptedBackbone).__name__


def strategy_of(objective: Objective | None) -> str:
    """Return the import path of an objective's innermost class, empty without one.

    Args:
        objective: The objective.
    """
    return "" if objective is None else path_of(type(innermost(objective)))


def own_tensors(objective: Objective) -> list[tuple[str, Tensor]]:
    """Return the trained parameters of an objective and the buffers that it hands on, its student's left out.

    Args:
        objective: The objective.
    """
    inside = innermost(objective)
    parts: list[tuple[str, Tensor]] = [(k, p) for k, p in inside.named_parameters() if p.requires_grad]
    parts += [(k, x) for k, x in inside.named_buffers() if k.rpartition(".")[2] in inside.carried_buffers]
    return [(k, x) for k, x in parts if not k.startswith("student.")]
