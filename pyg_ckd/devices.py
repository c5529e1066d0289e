"""Devices by the names that PyTorch and lightning-fabric have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    Device: TypeAlias = torch.device | str | int
else:
    Device = str  # What the command line makes an option of.

FABRIC_ONLY = ("auto", "tpu")
"""Names that lightning-fabric has and PyTorch has not."""


def as_device(device: Device | None) -> torch.device:
    """Return a device on which this machine can compute.

    Args:
        device: What PyTorch takes, such as ``"cpu"``, ``"cuda:1"``, a :class:`torch.device` or the number of a GPU;
            ``"gpu"`` and ``"gpu:1"`` are CUDA devices too, and ``"auto"`` is CUDA where there is any. (:obj:`None` is
            the CPU)

    Raises:
        InputError: If there is no such device, or nothing can be computed on it, as on ``"meta"``.
    """
    name: torch.device | str | int = "cpu" if device is None else device
    if isinstance(name, str):
        name = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name
        name = f"cuda{name[3:]}" if _kind(name) == "gpu" else name
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise InputError(
            f"device: found {str(device)!r}, which cannot be used here ({reason}), expected one that this machine has: "
            f"{', '.join(_there())}"
        ) from None
    return torch.device("cpu") if found.type == "cpu" else found  # cpu:0 is the only one.


def fabric_device(device: Device) -> tuple[str, int | list[int]]:
    """Return a device as the arguments ``accelerator`` and ``devices`` of lightning-fabric.

    Args:
        device: As in :func:`as_device`, or another accelerator of lightning-fabric.

    Raises:
        InputError: As :func:`as_device`.
    """
    if device in FABRIC_ONLY:
        return str(device), 1
    found = as_device(device)
    return found.type, 1 if found.index is None else [found.index]


def on_gpu(device: Device | None) -> bool:
    """Return whether the option ``device`` of a trainer means a GPU on this machine.

    Args:
        device: As in :func:`fabric_device`.
    """
    return device is not None and _kind(device) != "cpu" and torch.cuda.is_available()


def on_any_gpu(device: Device | None) -> bool:
    """Return whether the option means a GPU, and any of them, as ``"cuda"`` does and ``"cuda:1"`` and ``1`` do not.

    Args:
        device: As in :func:`fabric_device`.
    """
    return on_gpu(device) and ":" not in str(device) and not str(device).isdecimal()


def _kind(device: Device) -> str:
    return str(device).split(":")[0]


def _there() -> list[str]:
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
