"""Callbacks and loggers of a training: when they are called, and errors that name the one that raised them."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.devices import Device, fabric_device
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

HOOKS = (
    "on_fit_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_fit_end",
    "on_exception",
)
"""What a callback may define, in the order in which it is called.

Each is called with those of the following that it names: ``trainer``, ``pl_module`` (the objective), ``history``, and
by hook ``epoch``, ``batch``, ``batch_idx``, ``outputs`` (the loss terms), ``loss``, ``optimizer``, ``row`` (of the
history) and ``exception``.
"""


_LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
"""Libraries whose callbacks have all hooks of Lightning, most of which do nothing."""
_CALLED = {"on_train_start": "on_fit_start", "on_train_end": "on_fit_end"}


class CallbackError(InputError):
    """A callback or a logger that raised; what it raised is the cause."""


class Hooks:
    """Calls the callbacks of a training.

    Args:
        fabric: Has the callbacks.
        **common: Arguments that every callback gets.
    """

    def __init__(self, fabric: Fabric, **common: Any) -> None:
        self._fabric, self._common = fabric, common

    def __call__(self, hook: str, **arguments: Any) -> None:
        """Call all callbacks that have a hook.

        Args:
            hook: Its name.
            **arguments: What it gets beside the common arguments.
        """
        self._fabric.call(hook, **self._common, **arguments)


def as_callbacks(given: Any, warn: bool = True) -> list[Any]:
    """Return callbacks as a list, each such that what it raises names it.

    Args:
        given: One callback, several, or :obj:`None`.
        warn: Whether to warn of methods that look like hooks and are none.

    Raises:
        InputError: If one has no hook.
    """
    found = _as_list(given)
    for callback in found:
        if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
            raise InputError(
                f"callbacks: found {_name(callback)} without a hook, expected at least one of {', '.join(HOOKS)}"
            )
        if warn:
            _warn_of_other_hooks(callback)
    return [_Guarded(callback, "callback") for callback in found]


def classes_of(given: Any) -> list[type]:
    """Return the classes of callbacks.

    Args:
        given: As the trainer takes them.
    """
    return [one if isinstance(one, type) else type(one) for one in _as_list(given) if one is not None]


def described(given: Any) -> list[str]:
    """Return the class of each callback, and the plain arguments of its constructor that it holds under their names.

    Other attributes are left out: they change while a model is trained.

    Args:
        given: As the trainer takes them.
    """
    texts = []
    for one, cls in zip([one for one in _as_list(given) if one is not None], classes_of(given), strict=True):
        held = {} if isinstance(one, type) else getattr(one, "__dict__", {})
        try:
            names = list(inspect.signature(cls).parameters)
        except (TypeError, ValueError):
            names = []
        found = {name: held.get(name, held.get(f"_{name}")) for name in names}
        kept = {name: value for name, value in found.items() if _is_option(value)}
        options = ", ".join(f"{name}={value!r}" for name, value in kept.items())
        texts.append(f"{cls.__module__}.{cls.__qualname__}" + (f"({options})" if options else ""))
    return texts


def _is_option(value: Any) -> bool:
    """Return whether a value cannot change: lists and mappings may collect what a callback sees."""
    return all(map(_is_option, value)) if isinstance(value, tuple) else isinstance(value, (int, float, str))


def as_loggers(given: Any) -> list[Any]:
    """Return loggers as a list, each such that what it raises names it.

    Args:
        given: One logger, several, or :obj:`None`.

    Raises:
        InputError: If one has no method ``log_metrics``.
    """
    found = _as_list(given)
    for logger in found:
        if not callable(getattr(logger, "log_metrics", None)):
            raise InputError(f"loggers: found {_name(logger)}, expected a logger of lightning-fabric, with log_metrics")
    return [_Guarded(logger, "logger") for logger in found]


def open_fabric(device: Device, precision: str, callbacks: Any, loggers: Any) -> Fabric:
    """Return what runs the steps of a training.

    Args:
        device: As :class:`~pyg_ckd.training.Trainer` takes it.
        precision: As the trainer takes it.
        callbacks: As the trainer takes them.
        loggers: As the trainer takes them.

    Raises:
        InputError: If there is no such device, or it has no such precision.
    """
    from lightning_fabric import Fabric

    accelerator, devices = fabric_device(device)
    callbacks, loggers = as_callbacks(callbacks, warn=False), as_loggers(loggers)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,  # type: ignore[arg-type]
            callbacks=callbacks,
            loggers=loggers,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # An accelerator whose package is not installed, too.
        raise InputError(f"device: found {str(device)!r}, expected one that this machine has ({error})") from None
    if precision == "16-mixed" and fabric.device.type == "cpu":  # Fabric would take bf16-mixed instead.
        raise InputError(
            "precision: found '16-mixed' on the CPU, expected 'bf16-mixed' or '32-true'; or train on a GPU"
        )
    return fabric


def log_row(fabric: Fabric, row: Mapping[str, float]) -> None:
    """Give the loggers the row of an epoch.

    Args:
        fabric: Has the loggers.
        row: The row; its epoch is the step.
    """
    fabric.log_dict({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))


def finish_loggers(fabric: Fabric, status: str) -> None:
    """Let the loggers write what they still hold.

    Args:
        fabric: Has the loggers.
        status: ``"success"`` or ``"failed"``.
    """
    for logger in fabric.loggers:
        finalize = getattr(logger, "finalize", None)
        if finalize is not None:
            finalize(status)


def _warn_of_other_hooks(callback: Any) -> None:
    """Warn of methods of a callback that begin as hooks do and are never called."""
    cls = callback if isinstance(callback, type) else type(callback)
    own = [part for part in cls.__mro__ if part.__module__.partition(".")[0] not in _LIGHTNING]
    names = dict.fromkeys(name for part in own for name in vars(part) if name.startswith("on_") and name not in HOOKS)
    said = []
    for name in names:
        if callable(getattr(callback, name, None)):
            close = _CALLED.get(name) or next(iter(difflib.get_close_matches(name, HOOKS, n=1)), "")
            said.append(f"{name} (did you mean {close}?)" if close else name)
    if said:
        warnings.warn(
            f"callbacks: found {', '.join(said)} of {_name(callback)}, never called, expected some of "
            f"{', '.join(HOOKS)}; rename or remove what is not called",
            stacklevel=4,
        )


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) else [given]


def _name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


class _Guarded:
    """Has all that an object has; an exception of one of its methods names object and method."""

    def __init__(self, guarded: Any, kind: str) -> None:
        self._guarded, self._kind = guarded, kind

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._guarded, name)
        if not callable(value):
            return value

        @functools.wraps(value)  # Callbacks get the arguments that they name.
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return value(*args, **kwargs)
            except Exception as error:
                reason = " ".join(str(error).split())
                raise CallbackError(
                    f"{self._kind} {_name(self._guarded)}.{name}: raised {type(error).__name__}"
                    f"{f' ({reason})' if reason else ''}; mend it or leave it out, and start again"
                ) from error

        return call
