"""How the processes of a group find each other, or are started, by lightning-fabric."""

from __future__ import annotations

import atexit
import logging
import os
import sys

import torch

from pyg_ckd.errors import InputError
from pyg_ckd.processes import TIMEOUT, Processes, joined, leave, present, started

__all__ = ["launch"]


def launch(devices: int = 1, num_nodes: int = 1, accelerator: str = "cpu", start: bool = False) -> Processes:
    """Join the processes that were started together, or start them.

    They are those that ``torchrun`` or a cluster started, as lightning-fabric finds out. The processes of a group that
    exists already are taken as they are.

    Args:
        devices: Processes on this machine, each with a device of its own.
        num_nodes: Number of machines.
        accelerator: Accelerator of lightning-fabric.
        start: Whether to start the other processes, as copies of this one that run the same command from its beginning.

    Raises:
        InputError: If there is no group to join, or one of another size.
    """
    asked, found = devices * num_nodes, present()
    if started() > 1 and "LOCAL_RANK" not in os.environ:
        raise InputError(
            f"processes: found {started()} of them (WORLD_SIZE) without numbers (LOCAL_RANK), expected what torchrun "
            "sets; start them with torchrun, or unset WORLD_SIZE"
        )
    if found.alone and not joined() and (start or started() > 1):
        found = _join(devices, num_nodes, accelerator)
    if found.size != asked:
        here = "outside a group of processes" if found.alone else f"in a group of {found.size} processes"
        raise InputError(
            f"devices: found {devices} on {num_nodes} machines {here}, expected as many as there are processes; start "
            f"them with torchrun --nproc-per-node {devices} --nnodes {num_nodes}, or by pyg-ckd, which starts those "
            "of --trainer.devices itself"
        )
    return found


def _join(devices: int, num_nodes: int, accelerator: str) -> Processes:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning_fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    observer = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    observer.setLevel(logging.INFO)  # It ends this process without a word beside its record.
    observer.addHandler(_Obituary())
    observer.propagate = False
    try:
        backend = (
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        )  # Small things are exchanged on the CPU.
        strategy = DDPStrategy(timeout=TIMEOUT, process_group_backend=backend)
        Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy).launch()
        atexit.register(leave)
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"devices: found {devices}, which cannot be started here ({reason})") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return present()


class _Obituary(logging.Handler):
    """Says in a line that one of the processes that this one started has ended, before lightning-fabric ends all."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        code = " ".join(record.getMessage().split("code ")[-1].split(".")[0].split())
        sys.stderr.write(
            f"pyg-ckd: error: one of the processes that work together has ended (exit code {code}), expected all to "
            "the end; the same command goes on from the last checkpoint\n"
        )
        sys.stderr.flush()
