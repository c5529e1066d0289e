"""What happened in every epoch of a run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral, Real
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class History:
    """The record of a run.

    Attributes:
        rows: One dict per epoch: ``epoch``, loss terms (``loss/bpr``, ...), validation metrics of the trained view
            (``val/recall@20``), of every uni-modal view (``val/visual/recall@20``), and what the objective reports
            (``effect/visual``, ``weight/visual``).
        seconds: Duration of training in every epoch, without evaluation, in seconds. Kept apart from :attr:`rows`,
            which are the same for the same seed.
        best_epoch: Epoch whose weights the model has at the end, counted from 1.
        best_value: The monitored validation metric at that epoch; :obj:`nan` without a validation part.
        validation_seconds: Duration of every evaluation, in seconds; kept apart like :attr:`seconds`.
        stopped: Why training ended: ``"no rise in the last 1015 steps"``; ``"budget: still rising at the end"``,
            ``"budget: no longer rising"``, ``"budget: too early to tell"`` or, of a strategy with stages,
            ``"budget: stages still to come"`` after the last epoch; ``"budget"`` without a validation part;
            ``"nothing to train"``; or the reason that a callback wrote here to end training after the current epoch,
            which is cleared when the training gets more epochs. It is looked at before the first epoch and after every
            ``on_train_epoch_end``; one that is written in ``on_fit_start`` leaves a training without an epoch.
        converged: :obj:`False` if the metric was still rising at the end, if it was too early to tell, or if stages
            were still to come, so that more epochs might have been better; :obj:`None` if that is not known, as without
            a validation part.
        seen_by_start_from: Share of the held-out interactions that the earlier model of ``start_from`` was trained on,
            by split. Metrics of a split with a share above zero are too high. Empty if there was no earlier model, or
            nobody knows what it was trained on.
        enough_epochs: If it was too early to tell, or the metric was still rising: the epochs after which the training
            counts as converged if the metric does not rise again; :obj:`None` otherwise, and while stages are still to
            come.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_value: float = float("nan")
    validation_seconds: list[float] = field(default_factory=list)
    stopped: str = ""
    converged: bool | None = None
    seen_by_start_from: dict[str, float] = field(default_factory=dict)
    enough_epochs: int | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table indexed by epoch."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("epoch") if self.rows else pd.DataFrame()

    @property
    def best_row(self) -> dict[str, float]:
        """The row of the best epoch.

        Raises:
            InputError: If there is none, as in a training that was ended before its first epoch.
        """
        for row in self.rows:
            if row["epoch"] == self.best_epoch:
                return row
        why = f", stopped: {self.stopped}" if self.stopped else ""
        raise InputError(
            f"history: found no row of the best epoch ({self.best_epoch}) among {len(self.rows)} epochs{why}, expected "
            "a training of an epoch at least; train first, or let no callback write to history.stopped before"
        )

    @property
    def seconds_per_epoch(self) -> float:
        """Median duration of an epoch in seconds."""
        return median(self.seconds) if self.seconds else float("nan")

    def settle(self) -> None:
        """Write what a callback put into the last row and into :attr:`stopped` as plain numbers and text.

        Raises:
            InputError: If the row holds something else than numbers, or under something else than names.
        """
        row: dict[Any, Any] = self.rows[-1] if self.rows else {}
        for name, value in row.items():
            where = f"row of epoch {row.get('epoch')} in the history"
            if not isinstance(name, str):
                raise InputError(f"{where}: found the name {name!r}, expected a text such as 'my/number'")
            row[name] = as_plain_number(value, where, name)
        reason: Any = self.stopped
        self.stopped = " ".join(str(reason).split()) or type(reason).__name__ if reason else ""


def as_plain_number(value: Any, where: str, name: str) -> float:
    """Return a number of any library as one of Python, which every file can hold.

    Args:
        value: The number; a tensor or an array without dimensions is one, too.
        where: What has it, for the message.
        name: Its name there.

    Raises:
        InputError: If it is no number.
    """
    if type(value) in (bool, int, float):
        return value
    single = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0
    plain = value.item() if single or isinstance(value, np.bool_) else value
    with suppress(OverflowError):
        if isinstance(plain, Integral):
            return plain if isinstance(plain, bool) else int(plain)
        if isinstance(plain, Real):
            return float(plain)
    raise InputError(f"{where}: found {type(value).__name__} under {name!r}, expected a number, such as float(x)")
