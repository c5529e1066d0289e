"""Runs: what a study trains or fits once, and the keys by which a run is found again."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import inner_strategy, options_of
from pyg_ckd.balance.objective import Objective
from pyg_ckd.code import code_of, is_packages
from pyg_ckd.nn import Backbone
from pyg_ckd.nn.models.base import SIZES
from pyg_ckd.options import is_plain
from pyg_ckd.study.pruning import Pruning
from pyg_ckd.study.sources import files_of
from pyg_ckd.training import Trainer
from pyg_ckd.training.callbacks import classes_of, described
from pyg_ckd.training.checkpoint import FORMAT

IDS = ("user_id", "item_id")
"""What a graph says of its users and items that no model reads."""


@dataclass(frozen=True)
class Run:
    """One run of a study: a baseline, a teacher or a contender under one seed.

    Attributes:
        name: Name of the run: that of the contender or baseline, or ``teacher:<modality>``.
        kind: ``"baseline"``, ``"teacher"`` or ``"contender"``.
        seed: Seed of everything random; 0 where nothing is.
        decides: All that decides about the result, as plain values: what the key is made of.
        backbone: Class of the model, or :obj:`None`.
        model: Options of the model.
        strategy: What the model is trained with, or :obj:`None`.
        options: Options of the strategy, of the teacher's training or of the baseline.
        trainer: Options of the trainer.
        modality: The modality of a teacher.
        teachers: The runs that must be there first, one for each modality, or none.
        pruning: What ends the run of a search early, or :obj:`None`. It is no part of the key: a run that is not
            finished is not kept under it.
    """

    name: str
    kind: str
    seed: int
    decides: Mapping[str, Any]
    backbone: type[Backbone] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    strategy: type[Objective] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    modality: str | None = None
    teachers: tuple[Run, ...] = ()
    pruning: Pruning | None = None

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits of the hash of :attr:`decides`: runs of one key have one result."""
        text = json.dumps(_canonical(self.decides), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """The run as messages name it."""
        return f"{self.name} (seed {self.seed})"


def trained(
    name: str,
    kind: str,
    seed: int,
    data: str,
    backbone: type[Backbone],
    model: Mapping[str, Any],
    strategy: type[Objective],
    options: Mapping[str, Any],
    trainer: Mapping[str, Any],
    modality: str | None = None,
    teachers: tuple[Run, ...] = (),
) -> Run:
    """Return a run that trains a model.

    Its key is made of the data, the import paths, the code and all options (defaults included) of backbone and
    strategy, what the trainer says that decides, the seed and the keys of the teachers.

    Args:
        name: Name of the run.
        kind: Its kind.
        seed: Its seed.
        data: Fingerprint of the graph.
        backbone: Class of the model.
        model: Its options.
        strategy: Class of the objective.
        options: Its options.
        trainer: Options of the trainer.
        modality: The modality of a teacher.
        teachers: The teachers' runs that it needs.
    """
    chosen = Trainer(**trainer)
    decides = {
        "format": FORMAT,
        "data": data,
        "seed": seed,
        "backbone": {**identity(backbone), "options": with_defaults(backbone, model)},
        "strategy": {**identity(strategy), "options": with_defaults(strategy, options)},
        "trainer": {**chosen.settings(), **chosen.budget(), "seed": seed, **_brought(chosen)},
        "view": modality,
        "teachers": {run.modality: run.key for run in teachers},
    }
    return Run(
        name, kind, seed, decides, backbone, dict(model), strategy, dict(options), dict(trainer), modality, teachers
    )


def _brought(trainer: Trainer) -> dict[str, Any]:
    """Return classes of callbacks and the code of what a trainer was given to call, nothing where it was given none.

    Callbacks count by their classes and the plain arguments of their constructors: what else they hold changes.
    """
    callbacks = classes_of(trainer.callbacks)
    brought = [*callbacks, *([trainer.scheduler] if trainer.scheduler is not None else [])]
    for sampler in (trainer.sampler, trainer.neighbor_sampler):
        made = sampler if callable(sampler) else type(sampler)
        inner = made.func if isinstance(made, functools.partial) else made
        if sampler is not None and not is_packages(getattr(inner, "__module__", None)):
            brought.append(made)
    found: dict[str, Any] = {"brought": code_of(*brought, package=False)} if brought else {}
    return found | ({"callbacks": described(trainer.callbacks)} if callbacks else {})


def identity(cls: type | Callable[..., Any]) -> dict[str, str]:
    """Return the import path of a class or function and the hash of its code.

    The code is that of the files of the class and of all classes that it is built on, apart from PyTorch's and
    Python's own: a run is not found again once one of these files has changed. A class or function outside of this
    package counts with what it holds and uses, too: two that one function made, or that one session defined one after
    the other, have the same file or none.

    Args:
        cls: The class or function.
    """
    files_of(cls)  # Workers must have read the files as they are now.
    digest = hashlib.sha256()
    for part in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
        if part.__module__.split(".")[0] not in ("torch", "builtins", "abc", "typing"):
            digest.update(f"{part.__qualname__}:{_source(part)}".encode())
    if not is_packages(cls.__module__):
        digest.update(code_of(cls, package=False).encode())
    return {"path": f"{cls.__module__}.{cls.__qualname__}", "code": digest.hexdigest()[:16]}


def sources_of(run: Run) -> dict[str, str]:
    """Return the files of code that decide about a run: backbone, strategy, callbacks, samplers and what they use.

    A file is read once for every class, so that later changes do not count: this process has the class as it was.
    Modules without a file, such as ``__main__``, are left out: workers get their code from this process.

    Args:
        run: The run.
    """
    found: dict[str, str] = {}
    for part in _parts(run):
        found |= files_of(part)
    return found


def with_defaults(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class with the defaults of its constructor; a wrapper's with those of what is inside.

    Args:
        cls: The class.
        options: The options that are given.
    """
    if issubclass(cls, Objective):
        known = options_of(cls)
    else:
        known = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n not in ("self", *SIZES)}
    defaults = {name: p.default for name, p in known.items() if p.default is not p.empty and is_plain(p.default)}
    found = {**defaults, **options}
    inner = inner_strategy(cls, found) if issubclass(cls, Objective) else None
    if inner is not None:
        found["inner_options"] = {**identity(inner), **with_defaults(inner, found.get("inner_options") or {})}
    return found


def training_data(data: HeteroData) -> HeteroData:
    """Return a graph of only those attributes that training and evaluation may read: tensors and plain values.

    Every run sees this graph, in whichever process it is made; ids of users and items are left out, and come back in
    the files of models alone. Tensors begin where PyTorch lets them begin (64 bytes), because kernels may add up in
    another order elsewhere.

    Args:
        data: The graph.
    """
    kept = HeteroData()
    for store in data.stores:
        target = kept if store._key is None else kept[store._key]
        for name, value in store.items():
            if name not in IDS and _is_kept(value):
                target[name] = _built_in(value)
    return kept


def _is_kept(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_kept, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_kept, value))
    return isinstance(value, Tensor) or is_plain(value)


def _built_in(value: Any) -> Any:
    """Return tensors and plain values as PyTorch's and Python's own types: NumPy's numbers are numbers, too."""
    if isinstance(value, Tensor):
        return value if value.data_ptr() % 64 == 0 else value.clone()
    if isinstance(value, Mapping):
        return {_built_in(key): _built_in(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(_built_in, value)) if isinstance(value, tuple) else list(map(_built_in, value))
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)


def _parts(run: Run) -> list[Any]:
    """Return the classes and functions that are called in a run."""
    parts: list[Any] = [part for part in (run.backbone, run.strategy) if part is not None]
    cls, options = run.strategy, dict(run.options)
    while cls is not None:
        cls = inner_strategy(cls, options)
        options = dict(options.get("inner_options") or {})
        parts += [] if cls is None else [cls]
    parts += classes_of(run.trainer.get("callbacks"))
    others = [run.trainer.get(name) for name in ("monitor", "optimizer", "scheduler", "sampler", "neighbor_sampler")]
    for value in others:
        inner = value.func if isinstance(value, functools.partial) else value
        if inner is not None and not isinstance(inner, str):
            parts.append(inner if hasattr(inner, "__qualname__") else type(inner))
    return parts


def _source(part: Any) -> str:
    """Return the text of the file of a class or function as it was when it was asked for first.

    A file that is changed later says nothing of the code that this process has; a module that is reloaded has new
    classes.
    """
    return _text_of(part) if part.__hash__ is not None else _text_of.__wrapped__(part)


@functools.cache
def _text_of(part: Any) -> str:
    try:
        file = inspect.getsourcefile(part)
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (TypeError, OSError):
        pass
    try:
        return inspect.getsource(part)  # Of an interactive session.
    except (TypeError, OSError):
        return ""


def _canonical(value: Any) -> Any:
    """Return plain values such that equal ones have one text: 1.0 is 1, and tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        return (int(value) if value.is_integer() else value) if math.isfinite(value) else str(value)
    return value if is_plain(value) else repr(value)
