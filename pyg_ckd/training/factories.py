"""Optimizers, schedulers and samplers that a user brings: built for a training, checked, and told apart by settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyg_ckd.balance.objective import Objective
from pyg_ckd.code import code_of, is_own, is_packages
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.options import is_plain
from pyg_ckd.training.groups import parameter_groups, split_groups
from pyg_ckd.training.optimizer import RowAdam

TINY = (torch.tensor([[0, 1], [0, 1]]), 2, 3, 1, 0, 0)
"""Arguments of a sampler of two interactions, built only to see what it is."""


def check_factories(optimizer: Any, scheduler: Any, sampler: Any) -> None:
    """Refuse what can be no optimizer, scheduler or sampler of a training.

    Args:
        optimizer: As the trainer is given it.
        scheduler: As the trainer is given it.
        sampler: As the trainer is given it.

    Raises:
        InputError: If one is neither :obj:`None` nor a function or an object that can be used.
    """
    if optimizer is not None and not isinstance(optimizer, Optimizer) and not callable(optimizer):
        raise InputError(
            f"optimizer: found {_name(optimizer)}, expected a function of groups of parameters, such as "
            "lambda groups: torch.optim.AdamW(groups), or a new optimizer over all parameters"
        )
    if isinstance(optimizer, Optimizer):
        _check_closure(optimizer)
    if isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)) or (scheduler is not None and not callable(scheduler)):
        raise InputError(
            f"scheduler: found {_name(scheduler)}, expected a function of the optimizer, which is built when training "
            "begins, such as lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)"
        )
    if sampler is None or (not _iterates(sampler) and callable(sampler)):
        return
    if not (_iterates(sampler) and isinstance(getattr(sampler, "generator", None), torch.Generator)):
        raise InputError(
            f"sampler: found {_name(sampler)}, expected a function of (edge_index, num_users, num_items, batch_size, "
            "num_random_triples, seed), or an object that iterates over TripletBatch and has a generator"
        )


def build_optimizer(given: Any, objective: Objective, lr: float, decay: float = 0.0) -> Optimizer:
    """Return an optimizer over all trainable parameters of an objective, in groups by modality.

    Args:
        given: A function of groups, a new optimizer, or :obj:`None` for :class:`RowAdam`.
        objective: The objective, prepared.
        lr: Learning rate of :class:`RowAdam`.
        decay: Its decoupled weight decay.

    Raises:
        InputError: If there is nothing to train, or the optimizer is used or over other parameters.
    """
    groups = parameter_groups(objective)
    if given is None:
        return RowAdam(groups, lr=lr, decay=decay, fused=True)
    optimizer = given if isinstance(given, Optimizer) else _call("optimizer", given, groups)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer: the function returned {_name(optimizer)}, expected a torch.optim.Optimizer")
    _check_closure(optimizer)
    if any(state and float(state.get("step", 1)) > 0 for state in optimizer.state.values()):  # Adagrad's begins at 0.
        raise InputError(
            f"optimizer: found {_name(optimizer)} that has made steps already, expected a new one; give a function "
            "such as lambda groups: torch.optim.AdamW(groups) to train more than once"
        )
    found = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p) for group in groups for p in group["params"]}
    if found != wanted:
        raise InputError(
            f"optimizer: found {_name(optimizer)} over {len(found & wanted)} of the {len(wanted)} trainable parameters "
            f"of {type(objective.student).__name__} and {len(found - wanted)} others, expected all of them and no "
            "others; freeze parameters with requires_grad_(False)"
        )
    split_groups(optimizer, objective)
    for group in optimizer.param_groups:  # A checkpoint with numbers of NumPy could not be read.
        group.update({k: _numbers(v, np.generic) for k, v in group.items() if k != "params"})
    return optimizer


def build_scheduler(given: Any, optimizer: Optimizer, validates: bool = True) -> Any:
    """Return a scheduler of an optimizer's learning rates, or :obj:`None`.

    Args:
        given: A function of the optimizer, or :obj:`None`.
        optimizer: The optimizer.
        validates: Whether there is a validation part.

    Raises:
        InputError: If it is no scheduler of this optimizer, or waits for a value that there is not.
    """
    if given is None:
        return None
    scheduler = _call("scheduler", given, optimizer)
    if not isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)):
        raise InputError(f"scheduler: the function returned {_name(scheduler)}, expected a scheduler of torch.optim")
    if scheduler.optimizer is not optimizer:
        raise InputError(
            f"scheduler: found {_name(scheduler)} of another optimizer, expected one of the optimizer given"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        if scheduler.mode != "max":
            raise InputError(
                f"scheduler: found ReduceLROnPlateau with mode={scheduler.mode!r}, expected mode='max': the monitored "
                "metric is better the larger it is"
            )
        if not validates:
            raise InputError(
                "scheduler: found ReduceLROnPlateau without a validation part to wait for, expected another"
            )
    if not _storable(scheduler.state_dict()):
        raise InputError(
            f"scheduler: found {_name(scheduler)} whose state_dict holds objects, expected numbers, texts and tensors "
            "only: a training could not go on from its checkpoint"
        )
    return scheduler


def step_scheduler(scheduler: Any, value: float | None) -> None:
    """Move a scheduler on after an epoch.

    Args:
        scheduler: The scheduler, or :obj:`None`.
        value: The monitored metric, if the epoch ended with an evaluation; :class:`ReduceLROnPlateau` rests without.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        if value is not None:
            _call("scheduler", scheduler.step, value)
    elif scheduler is not None:
        _call("scheduler", scheduler.step)


def build_sampler(given: Any, *arguments: Any, objective: Objective) -> Any:
    """Return a sampler of training batches.

    Args:
        given: A function of ``arguments``, or an object, whose generator is seeded anew.
        *arguments: ``(edge_index, num_users, num_items, batch_size, num_random_triples, seed)``.
        objective: The objective, for the message.

    Raises:
        InputError: If it does not iterate or has no generator.
    """
    edge_index, num_users, num_items, *_, num_random_triples, seed = arguments
    sampler = given if _iterates(given) else _call("sampler", given, *arguments)
    if not (_iterates(sampler) and isinstance(getattr(sampler, "generator", None), torch.Generator)):
        raise InputError(
            f"sampler: the function returned {_name(sampler)}, expected an object that iterates over TripletBatch and "
            "has a generator (torch.Generator), from which all its randomness comes"
        )
    if sampler is given:
        sampler.generator.manual_seed(seed)
    return _Checked(sampler, (num_users, num_items), num_random_triples, edge_index.device, type(objective).__name__)


class _Checked:
    """A sampler whose first batch is looked at, and whose batches are moved to the device of the training."""

    def __init__(
        self, sampler: Any, sizes: tuple[int, int], num_random_triples: int, device: torch.device, objective: str
    ) -> None:
        self.sampler, self.generator = sampler, sampler.generator
        self._sizes, self._num_random_triples, self._device, self._objective = (
            sizes,
            num_random_triples,
            device,
            objective,
        )
        self._looked = False

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def wants_embeddings(self) -> bool:
        return bool(getattr(self.sampler, "wants_embeddings", False))

    def update(self, embeddings: Any) -> None:
        self.sampler.update(embeddings)

    def __iter__(self) -> Iterator[TripletBatch]:
        empty = True
        for batch in self.sampler:
            empty = False
            if not self._looked:
                self._look(batch)
                self._looked = True
            if batch.user.device != self._device:
                weight, batch = batch.weight, TripletBatch(*(x.to(self._device) for x in batch))
                batch = batch if weight is None else batch.weighted(weight.to(self._device))
            yield batch
        if empty:
            raise InputError(f"sampler: {_name(self.sampler)} gave no batch in an epoch, expected at least one")

    def _look(self, batch: Any) -> None:
        name = _name(self.sampler)
        if not isinstance(batch, TripletBatch):
            raise InputError(f"sampler: {name} gave {_name(batch)}, expected a TripletBatch")
        for field, rows, size in zip(batch._fields, batch, [self._sizes[0], *[self._sizes[1]] * 2] * 2, strict=True):
            expected = batch.user if field in ("positive", "negative") else batch.random_user
            expected = rows if field == "user" else expected
            if rows.dtype != torch.int64 or rows.dim() != 1 or rows.shape != expected.shape:
                raise InputError(
                    f"sampler: {name} gave {field} of type {rows.dtype} and shape {list(rows.shape)}, expected row "
                    f"numbers, int64 [{expected.numel()}]"
                )
            least, most = (int(rows.min()), int(rows.max())) if rows.numel() else (0, 0)
            if least < 0 or most >= size:
                raise InputError(
                    f"sampler: {name} gave {field} between {least} and {most}, expected row numbers between 0 and "
                    f"{size - 1}"
                )
        if batch.random_user.numel() < self._num_random_triples:
            raise InputError(
                f"sampler: {name} gave {batch.random_user.numel()} random triples beside a batch, expected "
                f"{self._num_random_triples} for {self._objective}; pass num_random_triples on"
            )


def draws_own(given: Any) -> bool:
    """Return whether a sampler wants the interactions of the users of its process alone.

    Args:
        given: A function of the arguments of :func:`build_sampler`, or an object.
    """
    sampler = given
    if not _iterates(given):
        try:
            sampler = given(*TINY)
        except Exception:  # It needs a real graph; then it gets all of it.
            return False
    return isinstance(sampler, TripletSampler) and sampler.draws_own


def build_own_sampler(given: Any, *arguments: Any) -> TripletSampler:
    """Return a sampler of the interactions of the users of a process, numbered from zero.

    Args:
        given: A function of ``arguments`` for which :func:`draws_own` is true.
        *arguments: As of :func:`build_sampler`.

    Raises:
        InputError: If it is an object, which has the interactions of all users, or makes batches of its own.
    """
    sampler = given if _iterates(given) else _call("sampler", given, *arguments)
    if sampler is given or type(sampler).__iter__ is not TripletSampler.__iter__:
        found = (
            f"{_name(sampler)} that is built already" if sampler is given else f"{_name(sampler)} with its own batches"
        )
        raise InputError(
            f"sampler: found a {found} and shuffle='own', whose processes draw shares of batches, expected a function "
            "such as functools.partial(TripletSampler, shuffle='own')"
        )
    return cast(TripletSampler, sampler)


def describe_optimizer(given: Any, objective: Objective | None) -> dict[str, Any]:
    """Return what tells optimizers apart: class, with its code if it is the user's, and plain options of every group.

    Args:
        given: A function or an optimizer.
        objective: The objective, for the groups; :obj:`None` for a single parameter.
    """
    optimizer = given
    if not isinstance(given, Optimizer):
        optimizer = _call("optimizer", given, parameter_groups(objective) if objective else [_tiny_group()])
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer: the function returned {_name(optimizer)}, expected a torch.optim.Optimizer")
    cls = type(optimizer)
    own = is_own(cls.__module__) and not is_packages(cls.__module__)
    code = {"code": code_of(cls, package=False)} if own else {}
    return {"class": _path(cls), "groups": [_options(group) for group in optimizer.param_groups], **code}


def describe_scheduler(given: Any, optimizer: Any, objective: Objective | None, lr: float) -> dict[str, Any]:
    """Return what tells schedulers apart: class and plain numbers. Functions inside a schedule are not compared.

    Args:
        given: A function of an optimizer.
        optimizer: As the trainer is given it.
        objective: The objective, for the groups; :obj:`None` for a single parameter.
        lr: Learning rate where the trainer is given no optimizer.
    """
    if optimizer is not None:
        groups = describe_optimizer(optimizer, objective)["groups"]
    else:
        groups = [_options(group) for group in (parameter_groups(objective) if objective else [_tiny_group()])]
    stand_in = torch.optim.SGD([{**group, **_tiny_group()} for group in groups], lr=lr)
    scheduler = build_scheduler(given, stand_in)
    return {"class": _path(type(scheduler)), **_options(scheduler.state_dict())}


def describe_sampler(given: Any) -> dict[str, Any]:
    """Return what tells samplers apart: class and plain public attributes, of one built on a tiny graph.

    Args:
        given: A function or an object.
    """
    sampler = given
    if not _iterates(given):
        try:
            sampler = given(*TINY)
        except Exception:  # It needs a real graph; its name must do.
            inner = given.func if isinstance(given, functools.partial) else given
            more = _plain(given.keywords) if inner is not given else {}
            return {"class": _path(inner if hasattr(inner, "__qualname__") else type(inner)), **more}
    public = {k: v for k, v in getattr(sampler, "__dict__", {}).items() if not k.startswith("_")}
    return {"class": _path(type(sampler)), **_plain(public)}


def _check_closure(optimizer: Optimizer) -> None:
    """Refuse an optimizer that computes the loss several times in a step."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"optimizer: found {_name(optimizer)}, whose steps need a closure, expected one that takes the "
            "gradients of a batch, such as torch.optim.AdamW"
        )


def _call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what}: it raised {type(error).__name__} ({reason}); mend it or leave it out") from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in ("params", "initial_lr") and is_plain(v)}


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain options of a group, with numbers for tensors of one element, as rates under CUDA graphs are."""
    return _plain({k: _numbers(v) for k, v in values.items() if k != "params"})


def _numbers(value: Any, kinds: Any = (Tensor, np.generic)) -> Any:
    """Return a value in which single numbers of these kinds, also in lists and tuples, are Python's."""
    if type(value) in (list, tuple):
        return type(value)(_numbers(item, kinds) for item in value)
    single = isinstance(value, kinds) and (value.numel() if isinstance(value, Tensor) else value.size) == 1
    return value.item() if single else value


def _tiny_group() -> dict[str, Any]:
    return {"params": [nn.Parameter(torch.zeros(1))], "modality": None}


def _iterates(value: Any) -> bool:
    return not inspect.isclass(value) and hasattr(value, "__iter__")


def _storable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_storable(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(map(_storable, value))
    return isinstance(value, Tensor) or is_plain(value)


def _name(value: Any) -> str:
    return value.__name__ if inspect.isclass(value) else type(value).__name__


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
