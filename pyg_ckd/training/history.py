"""What happened in every epoch of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

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
            ``"budget: no longer rising"`` or ``"budget: too early to tell"`` after the last epoch; ``"budget"`` without
            a validation part; ``"nothing to train"``; or what a callback wrote here to end it after the present epoch.
        converged: :obj:`False` if the metric was still rising at the end, or if it was too early to tell, so that more
            epochs might have been better; :obj:`None` if that is not known, as without a validation part.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_value: float = float("nan")
    validation_seconds: list[float] = field(default_factory=list)
    stopped: str = ""
    converged: bool | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table indexed by epoch."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("epoch") if self.rows else pd.DataFrame()

    @property
    def best_row(self) -> dict[str, float]:
        """The row of the best epoch."""
        return next(row for row in self.rows if row["epoch"] == self.best_epoch)

    @property
    def seconds_per_epoch(self) -> float:
        """Median duration of an epoch in seconds."""
        return median(self.seconds) if self.seconds else float("nan")
